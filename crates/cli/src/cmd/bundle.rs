//! `tamp bundle verify FILE`, `tamp bundle show FILE`.

use std::path::Path;

use serde_json::json;
use tamp_weights::Weights;
use tamp_weights::bundle::Bundle;

use crate::args::BundleCommand;
use crate::cmd::Ctx;
use crate::cmd::load::{named, verify};
use crate::fail::{Done, Fail};
use crate::out::human_bytes;
use crate::say;

/// Checks or describes.
pub fn run(ctx: &Ctx, c: &BundleCommand) -> Done {
    let (BundleCommand::Verify(a) | BundleCommand::Show(a)) = c;
    let path = ctx.finder().find(Some(&a.file))?;
    let weights = Weights::open(&path).map_err(|e| named(e.into(), &path))?;
    let Some(b) = weights.bundle() else {
        return Err(Fail::file(format!("{} is a model, but no bundle", path.display()))
            .hint(format!("tamp convert {} OUT.tamp makes one", path.display())));
    };
    match c {
        BundleCommand::Verify(_) => {
            verify(ctx, &weights, &path)?;
            verified(ctx, &path, b)
        }
        BundleCommand::Show(_) => show(ctx, &path, b),
    }
}

fn verified(ctx: &Ctx, path: &Path, b: &Bundle) -> Done {
    let m = b.manifest();
    if ctx.json {
        let sections: Vec<&str> = m.sections.iter().map(|s| s.name.as_str()).collect();
        return ctx.json(&json!({ "kind": "tamp.bundle.verify", "v": 1, "path": path, "manifest": b.id(),
            "sections": sections, "verified": true }));
    }
    for s in &m.sections {
        say!("{:<17} {:>9}  {}  good", s.name, human_bytes(s.length), &s.blake3[..16]);
    }
    say!("{}: every section matches its hash", path.display());
    Ok(())
}

fn show(ctx: &Ctx, path: &Path, b: &Bundle) -> Done {
    let m = b.manifest();
    if ctx.json {
        return ctx.json(m);
    }
    let s = &m.source;
    say!("file: {}", path.display());
    say!("manifest: {} version {}, written by tamp {}, blake3 {}", m.kind, m.v, m.tamp, &b.id()[..16]);
    say!("source: {} ({}, {}), blake3 {}", s.name, s.format, human_bytes(s.bytes), s.blake3);
    say!("architecture: {}", m.architecture);
    say!("layout: {}", m.layout);
    say!("behaviour class: {}", m.behavior_class);
    for s in &m.sections {
        let form = s.form.as_deref().map_or(String::new(), |f| format!(" ({f})"));
        say!(
            "section {}{form}: {} at {}, blake3 {}",
            s.name,
            human_bytes(s.length),
            s.offset,
            &s.blake3[..16]
        );
    }
    say!("matrices: {}, tensors: {}, {}", m.plan.matrices, m.tensors.len(), human_bytes(m.plan.weight_bytes));
    for (kind, bytes) in &m.plan.kinds {
        say!("format {kind}: {}", human_bytes(*bytes));
    }
    match &m.draft {
        None => say!("draft: none"),
        Some(d) => say!(
            "draft: {}, horizon {}, {}, reads layer {} {:?}-norm; this tamp does not run drafts of bundles yet",
            d.kind,
            d.horizon,
            d.behavior_class,
            d.tap.layer,
            d.tap.norm
        ),
    }
    for l in &m.licences {
        say!("licence: {l}");
    }
    Ok(())
}
