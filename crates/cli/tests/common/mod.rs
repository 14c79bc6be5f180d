//! The program as a child process, cut off from the machine's own store, configuration and hub.
#![allow(clippy::unwrap_used)] // a helper of a test is a test
#![allow(dead_code)] // every test binary uses its own part

use std::path::Path;
use std::process::{Command, Output};

/// The program with an empty home under `home`. Port 9 (discard) is nobody's hub.
pub fn tamp(home: &Path) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_tamp"));
    for name in [
        "TAMP_STORE",
        "HF_TOKEN",
        "XDG_DATA_HOME",
        "XDG_CONFIG_HOME",
        "XDG_CACHE_HOME",
        "http_proxy",
        "HTTP_PROXY",
    ] {
        c.env_remove(name);
    }
    // Tests measure nothing that counts: they neither wait for the machine nor keep others from it.
    c.env_remove("TAMP_LAB_HOLDER").env("TAMP_LOCK", home.join("lock"));
    c.env("HOME", home).env("HF_ENDPOINT", "http://127.0.0.1:9").env("NO_COLOR", "1").current_dir(home);
    c
}

/// What a run left behind.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs to the end. A panic anywhere is a failed test.
pub fn ran(c: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = c.output().unwrap();
    let err = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!err.contains("panicked"), "{c:?}: {err}");
    Ran { code: status.code().unwrap_or(-1), out: String::from_utf8_lossy(&stdout).into_owned(), err }
}

/// The last line of stdout as JSON.
pub fn last_json(r: &Ran) -> serde_json::Value {
    serde_json::from_str(r.out.lines().last().unwrap_or(""))
        .unwrap_or_else(|e| panic!("{e}: {}\n{}", r.out, r.err))
}
