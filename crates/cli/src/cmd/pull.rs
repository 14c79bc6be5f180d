//! `tamp pull NAME`.

use serde::Serialize;

use crate::args::PullArgs;
use crate::cmd::Ctx;
use crate::fail::{At, Done};
use crate::pull::catalog;
use crate::say;
use crate::store::sha256_of;

#[derive(Serialize)]
struct Pulled<'a> {
    name: &'a str,
    path: &'a std::path::Path,
    bytes: u64,
    sha256: String,
}

/// Fetches and says where the file is.
pub fn run(ctx: &Ctx, a: &PullArgs) -> Done {
    let known = match &a.catalog {
        Some(file) => catalog::with_file(file)?,
        None => catalog::builtin(),
    };
    let path = ctx.finder().pull(&a.name, &known)?;
    if !ctx.json {
        say!("{}", path.display());
        return Ok(());
    }
    let bytes = std::fs::metadata(&path).at("read", &path)?.len();
    ctx.json(&Pulled { name: &a.name, path: &path, bytes, sha256: sha256_of(&path, |_| {})? })
}
