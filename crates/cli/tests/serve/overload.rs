//! Far more than fits, under a bound on memory: the queue has an end, whoever does not fit is told when to come back,
//! whoever was let in is answered, and nothing dies of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::host::{Host, full, scale, text};
use crate::http::read;

/// Requests that fit: the engine's queue and the one before it.
const FITS: usize = 2 * 256;
/// Prompts of one request, so that the test itself needs fewer connections.
const PROMPTS: usize = 8;
/// Beyond what the server takes after a light load, kB: KV pages of a full batch, threads' stacks, what sockets hold.
const ROOM: u64 = 384 << 10;

/// A control group of its own, where version 2 with memory may be written.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Group> {
        let root = PathBuf::from("/sys/fs/cgroup");
        let all = std::fs::read_to_string(root.join("cgroup.subtree_control")).ok()?;
        if !all.split_whitespace().any(|c| c == "memory") {
            return None;
        }
        let dir = root.join(format!("tamp-test-{}", std::process::id()));
        std::fs::create_dir(&dir).ok()?;
        let group = Group(dir);
        std::fs::write(group.0.join("memory.max"), bytes.to_string()).ok()?;
        Some(group)
    }

    fn kills(&self) -> u64 {
        let text = std::fs::read_to_string(self.0.join("memory.events")).unwrap();
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn four_times_what_fits_under_a_bound_on_memory_is_refused_in_order_and_loses_nobody() {
    let home = tempfile::tempdir().unwrap();
    let args = ["--batch", "16", "--use", "engine.pressure=degrade", "--set", "engine.core.pages=512"];
    let body = |i: usize| {
        let prompts: Vec<String> = (0..PROMPTS).map(|k| text(7 * i + 300 * k, 60)).collect();
        json!({"prompt": prompts, "max_tokens": scale(12, 32), "ignore_eos": true})
    };
    // What it takes when all is well, for the bound.
    let (resident, address) = {
        let host = Host::start(home.path(), &args);
        host.complete(&body(0));
        let of = |name| host.status(name).unwrap_or(1 << 20);
        let took = (of("VmHWM"), of("VmPeak"));
        host.stop();
        took
    };
    let group = Group::new((resident + ROOM) << 10);
    let bound = match &group {
        Some(g) => format!("echo $$ > {}/cgroup.procs", g.0.display()),
        None => format!("ulimit -v {}", address + ROOM),
    };
    let host = Host::start_in(home.path(), &bound, &args);
    let requests = scale(4, 16) * FITS / PROMPTS;
    let (mut most, mut refused, mut answered) = (0.0f64, 0, 0);
    std::thread::scope(|scope| {
        let send = |i: usize| {
            let host = &host;
            move || (i, read(&mut host.begin("/v1/completions", &body(i))).unwrap())
        };
        let all: Vec<_> = (0..requests).map(|i| scope.spawn(send(i))).collect();
        while all.iter().any(|t| !t.is_finished()) {
            most = most.max(host.metric("tamp_num_requests_waiting", ""));
            std::thread::sleep(Duration::from_millis(5));
        }
        for t in all {
            let (i, r) = t.join().unwrap();
            match r.status {
                200 => {
                    let v = r.json();
                    let whole =
                        v["choices"].as_array().unwrap().iter().filter(|c| c["finish_reason"] == "length");
                    assert_eq!(whole.count(), PROMPTS, "request {i}: {v}");
                    answered += 1;
                }
                429 | 503 => {
                    assert!(
                        ["queue_full", "overloaded", "out_of_memory"].contains(&&*r.code()),
                        "{}",
                        r.code()
                    );
                    assert!(r.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
                    refused += 1;
                }
                other => panic!("request {i}: {other}: {}", r.message()),
            }
        }
    });
    let start = Instant::now();
    while host.post("/v1/completions", &body(1)).status != 200 {
        assert!(start.elapsed() < Duration::from_secs(60), "it never recovers");
        std::thread::sleep(Duration::from_millis(20));
    }
    let recovered = start.elapsed();
    let by =
        if group.is_some() { "cgroup v2" } else { "a bound on the address space (no cgroup may be made)" };
    println!(
        "{requests} × {PROMPTS} under {by}: {answered} answered, {refused} refused, {most} waiting at most; well again after {recovered:?}"
    );
    assert!(answered > 0 && refused > 0);
    assert!(most <= (FITS + 16 + PROMPTS) as f64, "{most} waited");
    assert!(recovered < Duration::from_secs(5) || !full(), "{recovered:?}");
    assert_eq!(group.as_ref().map_or(0, Group::kills), 0);
    host.idle();
    host.stop();
}
