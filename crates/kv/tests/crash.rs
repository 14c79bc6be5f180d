//! The folder after its writer died, or the disk filled up under it: what is found is right.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{chain_of, disk};
use tamp_kv::tier::PageName;

/// Pages the writer writes, over and over under other keys.
const PAGES: u32 = 64;
const DIR: &str = "TAMP_TEST_DIR";
const BYTES: usize = 1 << 20;

fn content(page: &PageName) -> Vec<u8> {
    let mut out = vec![0; BYTES];
    blake3::Hasher::new().update(&page.key).finalize_xof().fill(&mut out);
    out
}

/// Not a test of its own: the process that is killed. Writes pages until it ends, and says when it begins and ends.
#[test]
fn the_writer_that_others_kill() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let mut tier = disk(Path::new(&dir));
    println!("ready");
    let mut note = None;
    for page in &chain_of(PAGES) {
        let bytes = content(page);
        while note.is_none() && !tier.save(page, bytes.clone()) {
            tier.flush(Duration::from_millis(10));
            note = tier.note();
        }
    }
    tier.flush(Duration::from_secs(60));
    println!("saved {} note {:?}", tier.counts().saved, note.or_else(|| tier.note()));
}

/// This test binary again, as the writer, started by `shell` with `"$0" "$@"` for its command line.
fn writer(shell: &str, dir: &Path) -> Child {
    Command::new("sh")
        .args(["-c", shell])
        .arg(std::env::current_exe().unwrap())
        .args(["the_writer_that_others_kill", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Pages found; each is what was written. Nothing under a page's name may be damaged.
fn sound(dir: &Path, damaged: u64) -> usize {
    let mut tier = disk(dir);
    let mut out = Vec::new();
    let found = chain_of(PAGES).into_iter().filter(|page| {
        let got = tier.load(page, BYTES, &mut out);
        assert!(!got || out == content(page), "page {}", page.index);
        got
    });
    let found = found.count();
    assert_eq!(tier.counts().damaged, damaged);
    assert_eq!(tier.note(), None, "a start never fails");
    found
}

#[test]
fn a_writer_killed_at_any_moment_leaves_whole_pages_only() {
    let rounds = if std::env::var_os("TAMP_FULL").is_some() { 200 } else { 20 };
    let mut found = 0;
    let mut unfinished = 0;
    for round in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let mut child = writer("exec \"$0\" \"$@\"", dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|l| l.unwrap().contains("ready")));
        std::thread::sleep(Duration::from_micros(round * 7919 % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        found += sound(dir.path(), 0);
        unfinished += fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "tmp"))
            .count();
    }
    assert!(found > 0, "no writer was given time to write");
    assert!(unfinished > 0, "no writer was killed while it wrote");
}

/// What the writer said at its end.
fn last_words(mut child: Child) -> String {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let words = lines.map(|l| l.unwrap()).filter(|l| l.contains("saved ")).last().unwrap_or_default();
    assert!(child.wait().unwrap().success());
    words
}

#[test]
fn a_write_that_stops_halfway_is_one_sentence_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Files of 512 blocks at most: every page fails in its middle. The signal would end the process.
    let words = last_words(writer("trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\"", dir.path()));
    assert!(words.contains("saved 0") && words.contains("takes no pages for now"), "{words}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(sound(dir.path(), 0), 0);
}

#[test]
fn a_full_disk_is_one_sentence_and_what_is_there_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, copy) = (dir.path().join("disk"), dir.path().join("copy"));
    fs::create_dir(&disk).unwrap();
    // A disk of its own, which nobody else sees and which goes with the process: so its content is copied out.
    let mount = format!("mount -t tmpfs -o size=10m none \"${DIR}\"");
    let mut may = Command::new("unshare");
    may.args(["-r", "-m", "sh", "-c", &mount]).env(DIR, &disk).stderr(Stdio::null());
    if !may.status().is_ok_and(|s| s.success()) {
        println!("skipped: no file system can be mounted here");
        return;
    }
    let shell = format!("{mount} && \"$0\" \"$@\" && cp -r \"${DIR}\" '{}'", copy.display());
    let words = last_words(writer(
        &format!("unshare -r -m sh -c '{}' \"$0\" \"$@\"", shell.replace('\'', "'\\''")),
        &disk,
    ));
    assert!(words.contains("saved 9") && words.contains("takes no pages for now"), "{words}");
    assert_eq!(sound(&copy, 0), 9);
    assert_eq!(fs::read_dir(&copy).unwrap().count(), 9);
}
