//! The disk cache under a server that dies, a disk that lies, and a disk that is full: the start never fails and no
//! token is ever wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{Draw, Host, scale, text};
use crate::http::read;

/// Prompts that share beginnings, so that a wrong page would be used.
fn body(i: usize) -> Value {
    let prompt = text(0, 400 + 150 * (i % 4)) + &text(3000 + 200 * i, 100);
    json!({"prompt": prompt, "max_tokens": 8, "temperature": 0.8, "seed": i, "ignore_eos": true, "logprobs": 1})
}

const ASKED: usize = 12;

/// The right answers, by a server without any cache.
fn right(home: &Path) -> Vec<Value> {
    let host = Host::start(home, &["--use", "kv.prefix=none"]);
    let all = (0..ASKED).map(|i| host.complete(&body(i))["choices"].clone()).collect();
    host.stop();
    all
}

fn with_disk(home: &Path, dir: &Path, before: &str) -> Host {
    let dir = format!("kv.tier.disk.dir={}", dir.display());
    // Few pages, so that they go out and come back while it runs.
    let few = "engine.core.pages=256";
    Host::start_in(home, before, &["--use", "kv.tier=disk", "--set", &dir, "--set", few])
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).map(|d| d.map(|e| e.unwrap().path()).collect::<Vec<_>>()).unwrap_or_default();
    let mut pages: Vec<_> = all.into_iter().filter(|p| p.extension().is_some_and(|x| x == "kv1")).collect();
    pages.sort();
    pages
}

/// All answers must be right; how many prompt tokens came out of the cache.
fn check(host: &Host, right: &[Value]) -> u64 {
    let of = |(i, want): (usize, &Value)| {
        let got = host.complete(&body(i));
        assert_eq!(got["choices"], *want, "request {i}");
        got["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    right.iter().enumerate().map(of).sum()
}

#[test]
fn a_server_killed_while_it_writes_starts_again_and_answers_right() {
    let home = tempfile::tempdir().unwrap();
    let (dir, right) = (home.path().join("pages"), right(home.path()));
    let (mut draw, answered) = (Draw(5), AtomicUsize::new(0));
    let (mut torn, mut kept) = (0, 0);
    let rounds = scale(5, 200);
    for round in 0..rounds {
        // Now and then the folder begins empty, else there would soon be nothing left to write.
        if round % 3 == 0 {
            let _ = fs::remove_dir_all(&dir);
        }
        let mut host = with_disk(home.path(), &dir, "");
        std::thread::scope(|scope| {
            for k in 0..4 {
                let (host, right, answered) = (&host, &right, &answered);
                scope.spawn(move || {
                    for i in (0..ASKED).map(|i| (i + 3 * k) % ASKED) {
                        let Ok(r) = read(&mut host.begin("/v1/completions", &body(i))) else { return };
                        // What was cut off by the kill is no answer.
                        let Ok(v) = serde_json::from_slice::<Value>(&r.body) else { return };
                        assert_eq!((r.status, &v["choices"]), (200, &right[i]), "request {i}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(draw.below(if round % 2 == 0 { 60 } else { 600 })));
            host.signal("-KILL");
        });
        host.child.wait().unwrap();
        let left = fs::read_dir(&dir).map(|d| d.count()).unwrap_or(0);
        torn += left - files(&dir).len();
        let host = with_disk(home.path(), &dir, "");
        check(&host, &right[..2 + round % 3]);
        kept += host.metric("tamp_prefix_cache_hits_total", "") as u64;
        let mut host = host;
        host.signal("-KILL");
        host.child.wait().unwrap();
    }
    let answered = answered.into_inner();
    println!(
        "{rounds} kills: {answered} answers before them, {torn} unfinished files, {kept} tokens from pages that stayed"
    );
    assert!(answered > 0 && kept > 0, "nothing was cached, or nothing was answered");
}

#[test]
fn flipped_bits_in_cached_pages_are_misses_and_no_token_changes() {
    let home = tempfile::tempdir().unwrap();
    let (dir, right) = (home.path().join("pages"), right(home.path()));
    let mut draw = Draw(6);
    let (wanted, mut flipped) = (scale(12, 200), 0);
    let host = with_disk(home.path(), &dir, "");
    check(&host, &right);
    host.stop();
    let sound = {
        let host = with_disk(home.path(), &dir, "");
        let n = check(&host, &right);
        host.stop();
        n
    };
    while flipped < wanted {
        for path in files(&dir) {
            if draw.below(3) == 0 {
                let mut bytes = fs::read(&path).unwrap();
                let at = draw.below(bytes.len() as u64) as usize;
                // A bit, a lost end, or a page of another name in its place.
                match draw.below(8) {
                    0 => bytes.truncate(at),
                    1 => fs::copy(&files(&dir)[0], &path).map(|_| bytes = fs::read(&path).unwrap()).unwrap(),
                    _ => bytes[at] ^= 1 << draw.below(8),
                }
                fs::write(&path, bytes).unwrap();
                flipped += 1;
            }
        }
        let host = with_disk(home.path(), &dir, "");
        let hits = check(&host, &right);
        assert!(hits <= sound, "{hits} tokens from damaged pages, {sound} from sound ones");
        host.stop();
    }
    println!("{flipped} files damaged, {} left in the end", files(&dir).len());
}

#[test]
fn a_full_disk_is_one_sentence_and_no_failed_start() {
    let home = tempfile::tempdir().unwrap();
    let (dir, right) = (home.path().join("pages"), right(home.path()));
    // No file may be longer than one block: each page fails in its middle. The signal would end the process.
    let host = with_disk(home.path(), &dir, "trap '' XFSZ; ulimit -f 1");
    check(&host, &right);
    host.idle();
    check(&host, &right);
    assert!(files(&dir).is_empty(), "half a page stayed");
    told(&host);
    host.stop();
    // A real one, where one may be mounted; nobody else sees it, and it goes with the process.
    fs::create_dir_all(&dir).unwrap();
    let mount = format!("mount -t tmpfs -o size=128k none '{}'", dir.display());
    let mut may = Command::new("unshare");
    may.args(["-r", "-m", "sh", "-c", &mount]).stderr(Stdio::null());
    if !may.status().is_ok_and(|s| s.success()) {
        println!("no file system can be mounted here: only the bound on a file's length was shown");
        return;
    }
    let inside = format!("{mount}; exec \"$0\" \"$@\"").replace('\'', "'\\''");
    let again = format!("exec unshare -r -m sh -c '{inside}' \"$0\" \"$@\"");
    let host = with_disk(home.path(), &dir, &again);
    check(&host, &right);
    host.idle();
    check(&host, &right);
    told(&host);
    host.stop();
}

/// The operator must hear of it, and not over and over.
fn told(host: &Host) {
    host.until("told", |h| h.said().contains("takes no pages for now"));
    assert_eq!(host.said().matches("takes no pages for now").count(), 1, "{}", host.said());
}
