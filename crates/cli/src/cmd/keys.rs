//! `tamp keys add`: a fresh key, seen once.

use std::fs::OpenOptions;
use std::io::Write;

use serde::Serialize;
use tamp_server::keys::{Keys, key_of, row_text};

use crate::args::KeysAddArgs;
use crate::cmd::Ctx;
use crate::fail::{At, Code, Done, Fail};
use crate::out::note;
use crate::say;

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    key: &'a str,
    file: String,
}

/// Runs it.
pub fn add(ctx: &Ctx, a: &KeysAddArgs) -> Done {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|e| Fail::new(Code::Other, format!("no random bytes: {e}")))?;
    let key = key_of(random);
    let row = row_text(&a.name, &key).map_err(Fail::usage)?;
    let old = match std::fs::read_to_string(&a.keys) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.at("read", &a.keys)?,
    };
    // The file as it will be is checked before it is touched.
    Keys::parse(&format!("{old}{row}")).map_err(|e| Fail::file(format!("{}: {e}", a.keys.display())))?;
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&a.keys).at("open", &a.keys)?;
    file.write_all(row.as_bytes()).and_then(|()| file.sync_all()).at("write", &a.keys)?;
    if !ctx.json {
        say!("{key}");
        note(
            "this is the only time the key is shown; the file holds its hash. A running server reads it at its next start",
        );
    }
    ctx.json(&Row { name: &a.name, key: &key, file: a.keys.display().to_string() })
}
