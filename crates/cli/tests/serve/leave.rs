//! Clients that leave, at any moment: the work stops, the pages come back, nothing grows.

use std::io::Read;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use crate::host::{CTX, Draw, Host, scale, text};

/// Callers at once.
const AT_ONCE: u64 = 16;
/// Memory that a run may gain after its first tenth, kB: the allocator's own swing.
const SLACK: u64 = 16 << 10;

#[test]
fn whoever_leaves_stops_costing_at_once_and_nothing_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::start(home.path(), &["--batch", "16"]);
    let (all, per) = (scale(200, 10_000), scale(40, 200));
    let (mut early, mut most) = (None, 0.0f64);
    let mut done = 0;
    while done < all {
        let last = Mutex::new(0.0);
        std::thread::scope(|scope| {
            for k in 0..AT_ONCE {
                let (host, last) = (&host, &last);
                scope.spawn(move || {
                    let mut draw = Draw((done as u64) << 8 | k);
                    for _ in 0..per as u64 / AT_ONCE + u64::from(k < per as u64 % AT_ONCE) {
                        let prompt = text(draw.below(3000) as usize, 1 + draw.below(900) as usize);
                        let body = json!({"prompt": prompt, "max_tokens": CTX / 2, "ignore_eos": true,
                            "stream": draw.below(2) == 0, "n": 1 + draw.below(2)});
                        let mut stream = host.begin("/v1/completions", &body);
                        // Before the head, in the queue, in the prompt, in the answer.
                        let wait = [0, 2, 20, 100][draw.below(4) as usize];
                        stream
                            .set_read_timeout(Some(Duration::from_millis(1 + draw.below(wait + 1))))
                            .unwrap();
                        let _ = stream.read(&mut [0; 256]);
                        drop(stream);
                    }
                    *last.lock().unwrap() = host.passes();
                });
            }
        });
        let left = last.into_inner().unwrap();
        host.idle();
        // Answers of 2 000 tokens would go on for 2 000 passes. A few fit between the end of a connection, its being
        // heard of, and our asking.
        most = most.max(host.passes() - left);
        done += per;
        if done >= all / 10 {
            early.get_or_insert_with(|| host.status("VmRSS"));
        }
    }
    let (early, late) = (early.flatten(), host.status("VmRSS"));
    println!("{done} left: at most {most} passes after the last of a batch; memory {early:?} → {late:?} kB");
    assert!(most < 200.0, "{most} passes for nobody");
    if let (Some(early), Some(late)) = (early, late) {
        assert!(late <= early + SLACK, "memory grew from {early} to {late} kB");
    }
    host.complete(&json!({"prompt": "still there?", "max_tokens": 4}));
    host.stop();
}
