//! Models in: by the ordinary registry clients, or from a hub. One file per kind of source.

pub mod catalog;
mod client;
pub mod hub;
pub mod resolve;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::fail::{At, Done, Fail};
use crate::out::{Ui, note};
use crate::store::{Record, Store, hex, sha256_of};
use catalog::{Entry, Piece};

/// Fetches a catalogue model into the store and gives its file. Packages already fetched are not fetched again.
pub fn entry(store: &Store, e: &Entry, ui: Ui) -> Done<PathBuf> {
    if let Some(path) = store.find(&e.name) {
        return Ok(path);
    }
    let work = store.work(&e.name)?;
    let _lock = lock(&work, &e.name)?;
    if let Some(path) = store.find(&e.name) {
        return Ok(path); // another process finished while we waited
    }
    client::sweep(&work)?;
    for n in 1..=e.parts {
        if e.files.iter().enumerate().any(|(i, _)| !part(&work, i, n).is_file()) {
            client::fetch(e, n, &work, ui)?;
        }
    }
    let mut sum = String::new();
    for (i, f) in e.files.iter().enumerate() {
        let parts: Vec<PathBuf> = (1..=e.parts).map(|n| part(&work, i, n)).collect();
        let got = join(f, &parts, &work.join(&f.save), ui)?;
        if i == 0 {
            sum = got;
        }
    }
    let mut file = work.join(&e.files[0].save);
    if e.convert {
        let out = work.join("converted.gguf");
        crate::cmd::convert::write(&file, &out, ui)?;
        sum = sha256_of(&out, |_| {})?;
        file = out;
    }
    let bytes = std::fs::metadata(&file).at("read", &file)?.len();
    let source = if e.parts > 1 { format!("{} … {}", e.spec(1), e.spec(e.parts)) } else { e.spec(1) };
    let record = Record {
        kind: "model".into(),
        v: 1,
        name: e.name.clone(),
        source,
        license: e.license.clone(),
        bytes,
        sha256: sum,
    };
    let place = store.keep(&file, &record)?;
    let _ = std::fs::remove_dir_all(&work);
    Ok(place)
}

/// File `i` of package `n`, complete once it has this name.
fn part(work: &Path, i: usize, n: u32) -> PathBuf {
    work.join(format!("part-{i}-{n:04}"))
}

/// Joins parts, takes the wanted range, checks the sum. A wrong sum removes the parts, so that the next pull starts
/// clean instead of failing for ever.
fn join(f: &Piece, parts: &[PathBuf], to: &Path, ui: Ui) -> Done<String> {
    let mut bar = ui.bytes(&format!("checking {}", f.save), f.bytes);
    let mut out = File::create(to).at("write", to)?;
    let mut hash = Sha256::new();
    let (mut skip, mut left, mut done) = (f.from, f.len.unwrap_or(u64::MAX), 0u64);
    let mut buf = vec![0; 1 << 20];
    for p in parts {
        let mut from = File::open(p).at("read", p)?;
        let size = from.metadata().at("read", p)?.len();
        let jump = skip.min(size);
        skip -= jump;
        from.seek(SeekFrom::Start(jump)).at("read", p)?;
        while left > 0 {
            let want = left.min(buf.len() as u64) as usize;
            let n = from.read(&mut buf[..want]).at("read", p)?;
            if n == 0 {
                break;
            }
            hash.update(&buf[..n]);
            out.write_all(&buf[..n]).at("write", to)?;
            left -= n as u64;
            done += n as u64;
            bar.at(done);
        }
    }
    out.sync_all().at("write", to)?;
    bar.done(done);
    let got = hex(&hash.finalize());
    match &f.sha256 {
        Some(want) if !got.eq_ignore_ascii_case(want) => {
            for p in parts.iter().map(PathBuf::as_path).chain([to]) {
                let _ = std::fs::remove_file(p);
            }
            Err(mismatch(&f.save, &got, want))
        }
        _ => Ok(got),
    }
}

fn mismatch(what: &str, got: &str, want: &str) -> Fail {
    Fail::network(format!("{what} has sha256 {got}, expected {want}; what was fetched is removed"))
        .hint("pull again; if it happens again, the source has changed and must not be trusted")
}

/// One process at a time fetches a model; the lock goes with the process.
fn lock(work: &Path, name: &str) -> Done<File> {
    let path = work.parent().unwrap_or(work).join(format!("{}.lock", name.replace('/', "--")));
    let file = File::create(&path).at("write", &path)?;
    if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
        note(format_args!("another tamp is fetching {name}; waiting for it"));
        file.lock().at("lock", &path)?;
    }
    Ok(file)
}

/// Copies at most `limit` bytes and tells how far it is; more than `limit` is an error, so that a small archive
/// cannot fill the disk.
fn copy_bounded(from: &mut dyn Read, to: &mut dyn Write, limit: u64) -> io::Result<u64> {
    let n = io::copy(&mut from.take(limit.saturating_add(1)), to)?;
    if n > limit {
        return Err(io::Error::other(format!("it holds more than {limit} bytes")));
    }
    Ok(n)
}
