//! Puts the source's revision into the program, so that a record can say what it was measured with. Outside a checkout
//! of this very source (a tarball, a copy within another repository) the revision is empty.

use std::path::Path;
use std::process::Command;

/// What the program is made of: a change elsewhere does not make it another one.
const SOURCES: [&str; 8] = [
    ":/crates/*/src/*",
    ":/crates/*/data/*",
    ":/crates/*/Cargo.toml",
    ":/crates/*/build.rs",
    ":/bench/peers/*",
    ":/Cargo.toml",
    ":/Cargo.lock",
    ":(top,exclude)crates/xtask",
];

fn main() {
    let (mut revision, mut dirty) = (String::new(), false);
    // Of an outer repository this file is not a tracked one.
    if git(&["ls-files", "--error-unmatch", "build.rs"]).is_some()
        && let Some(head) = git(&["rev-parse", "HEAD"])
    {
        let status = ["--no-optional-locks", "status", "--porcelain", "--"];
        dirty = git(&[&status[..], &SOURCES].concat()).is_none_or(|s| !s.is_empty());
        revision = head;
    }
    watch();
    println!("cargo::rustc-env=TAMP_REVISION={revision}");
    println!("cargo::rustc-env=TAMP_DIRTY={dirty}");
    println!("cargo::rerun-if-changed=build.rs");
}

/// Runs this again when HEAD moves, and when the sources change or change back.
fn watch() {
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    let names = ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref());
    for name in names {
        // In a second worktree these lie in different folders. A path that is not there would run this every time.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|p| Path::new(p).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let crates = std::fs::read_dir("..").into_iter().flatten().flatten().map(|e| e.path());
    let crates = crates.filter(|c| !c.ends_with("xtask"));
    let parts = crates.flat_map(|c| ["src", "data", "Cargo.toml", "build.rs"].map(|p| c.join(p)));
    let root = ["../../Cargo.toml", "../../Cargo.lock", "../../bench/peers"].map(Into::into);
    for path in parts.chain(root).filter(|p| p.exists()) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// What git says, when it is there and succeeds.
fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    out.status.success().then(|| text.trim().to_string())
}
