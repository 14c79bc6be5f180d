//! `pull hf:…` against a stand-in hub on loopback.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use common::{Ran, ran, tamp};
use sha2::{Digest, Sha256};

/// What the stand-in does wrong, if anything.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Good,
    /// closes the connection after a third of the file, twice
    Cuts,
    /// states the sum of other bytes
    WrongSum,
    /// knows no file
    Missing,
    /// sends the file from another path, as the real hub does for large files
    Redirects,
    /// ignores `Range` and always starts at the beginning
    NoRange,
    /// answers with a tag that is a path
    EvilTag,
}

struct Hub {
    url: String,
    /// `Range` headers of the requests for content
    ranges: Arc<Mutex<Vec<String>>>,
}

fn content() -> Vec<u8> {
    (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn hub(mood: Mood) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let log = ranges.clone();
    let base = url.clone();
    std::thread::spawn(move || {
        let mut cuts = if mood == Mood::Cuts { 2 } else { 0 };
        for stream in listener.incoming().flatten() {
            serve(stream, mood, &mut cuts, &log, &base);
        }
    });
    Hub { url, ranges }
}

fn serve(mut s: TcpStream, mood: Mood, cuts: &mut u32, log: &Mutex<Vec<String>>, base: &str) {
    let mut head = Vec::new();
    let mut lines = BufReader::new(s.try_clone().unwrap());
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|n| n > 2) {
        head.push(std::mem::take(&mut line));
    }
    let Some(path) = head.first().and_then(|l| l.split(' ').nth(1)) else { return };
    let range =
        head.iter().find_map(|l| l.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_string));
    let range = range.unwrap_or_default().trim().to_string();
    let body = content();
    let sum: String = Sha256::digest(&body).iter().map(|b| format!("{b:02x}")).collect();
    let tag = match mood {
        Mood::WrongSum => "0".repeat(64),
        Mood::EvilTag => "../../../evil".into(),
        _ => sum,
    };
    let facts = format!("ETag: \"{tag}\"\r\nX-Repo-Commit: c0ffee\r\nConnection: close\r\n");
    if mood == Mood::Missing || !["/o/r/resolve/main/m.gguf", "/cdn"].contains(&path) {
        let _ = write!(s, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n{facts}\r\n");
        return;
    }
    if mood == Mood::Redirects && path != "/cdn" {
        let linked = facts.replace("ETag", "X-Linked-ETag");
        let _ = write!(s, "HTTP/1.1 302 Found\r\nLocation: {base}/cdn\r\nContent-Length: 0\r\n{linked}\r\n");
        return;
    }
    if range == "0-0" {
        let _ = write!(
            s,
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/{}\r\n{facts}Content-Length: 1\r\n\r\nx",
            body.len()
        );
        return;
    }
    log.lock().unwrap().push(range.clone());
    let from: usize = range.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let from = if mood == Mood::NoRange { 0 } else { from };
    let rest = &body[from.min(body.len())..];
    let _ = write!(s, "HTTP/1.1 206 Partial Content\r\n{facts}Content-Length: {}\r\n\r\n", rest.len());
    let n = if *cuts > 0 { body.len() / 3 } else { rest.len() };
    *cuts = cuts.saturating_sub(1);
    let _ = s.write_all(&rest[..n.min(rest.len())]);
    let _ = s.flush();
    let _ = s.shutdown(std::net::Shutdown::Write);
    let _ = s.read(&mut [0; 1]);
}

fn pull(home: &std::path::Path, hub: &Hub) -> Ran {
    ran(tamp(home).env("HF_ENDPOINT", &hub.url).args(["pull", "--json", "hf:o/r/m.gguf", "--store", "s"]))
}

#[test]
fn a_file_arrives_whole_is_checked_and_is_not_fetched_twice() {
    for mood in [Mood::Good, Mood::Redirects] {
        let home = tempfile::tempdir().unwrap();
        let hub = hub(mood);
        let r = pull(home.path(), &hub);
        assert_eq!(r.code, 0, "{}", r.err);
        let path = common::last_json(&r)["path"].as_str().unwrap().to_string();
        assert!(std::fs::read(home.path().join(path)).unwrap() == content());
        let before = hub.ranges.lock().unwrap().len();
        assert_eq!(pull(home.path(), &hub).code, 0);
        assert_eq!(hub.ranges.lock().unwrap().len(), before);
        let list = ran(tamp(home.path()).args(["list", "--store", "s"]));
        assert!(list.out.contains("hf/o/r/m") && list.out.contains("hf:o/r/m.gguf@c0ffee"), "{}", list.out);
    }
}

#[test]
fn a_cut_connection_is_continued_where_it_was_cut() {
    let home = tempfile::tempdir().unwrap();
    let hub = hub(Mood::Cuts);
    let r = pull(home.path(), &hub);
    assert_eq!(r.code, 0, "{}", r.err);
    assert_eq!(*hub.ranges.lock().unwrap(), ["0-", "1000000-", "2000000-"]);
    assert!(std::fs::read(home.path().join("s/hf/o/r/m.gguf")).unwrap() == content());
}

#[test]
fn a_wrong_sum_is_refused_and_nothing_of_it_stays() {
    let home = tempfile::tempdir().unwrap();
    let r = pull(home.path(), &hub(Mood::WrongSum));
    assert_eq!(r.code, 4);
    assert!(r.err.contains("expected 0000"), "{}", r.err);
    assert!(!home.path().join("s/hf").exists());
    // The next pull from a good hub is not spoiled by what came before.
    assert_eq!(pull(home.path(), &hub(Mood::Good)).code, 0);
}

#[test]
fn a_partial_file_and_a_hub_that_cannot_resume_end_in_a_whole_file_or_a_refusal() {
    let home = tempfile::tempdir().unwrap();
    // Half of the file, as an earlier pull would have left it.
    let blobs = home.path().join("s/.work/hf--o--r--m/hub/models--o--r/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let sum: String = Sha256::digest(content()).iter().map(|b| format!("{b:02x}")).collect();
    std::fs::write(blobs.join(format!("{sum}.part")), &content()[..1_500_000]).unwrap();
    let r = pull(home.path(), &hub(Mood::NoRange));
    assert_eq!(r.code, 4, "{}", r.err);
    assert_eq!(pull(home.path(), &hub(Mood::NoRange)).code, 0);
}

#[test]
fn a_missing_file_an_absent_hub_and_an_evil_answer_are_sentences() {
    let home = tempfile::tempdir().unwrap();
    let r = pull(home.path(), &hub(Mood::Missing));
    assert!(r.code == 4 && r.err.contains("tamp: the hub has no m.gguf in o/r at main"), "{}", r.err);
    let r = pull(home.path(), &hub(Mood::EvilTag));
    assert!(r.code == 4 && r.err.contains("cannot be trusted"), "{}", r.err);
    assert!(!home.path().join("evil").exists());
    let gone = Hub { url: "http://127.0.0.1:9".into(), ranges: Arc::default() };
    let r = pull(home.path(), &gone);
    assert!(r.code == 4 && r.err.contains("tamp: offline: the hub could not give"), "{}", r.err);
}
