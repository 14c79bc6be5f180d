//! `tamp list`.

use crate::cmd::Ctx;
use crate::fail::Done;
use crate::out::{human_bytes, note};
use crate::say;

/// Prints the models of the store.
pub fn run(ctx: &Ctx) -> Done {
    let held = ctx.store.list()?;
    if ctx.json {
        return ctx.json(&held);
    }
    let wide = held.iter().map(|h| h.name.len()).max().unwrap_or(0);
    for h in &held {
        let source = h.source.as_deref().unwrap_or("put there by hand");
        say!("{:wide$}  {:>9}  {source}", h.name, human_bytes(h.bytes));
    }
    if held.is_empty() {
        note(format_args!(
            "no models in {} yet; `tamp pull smollm2` fetches one",
            ctx.store.root().display()
        ));
    }
    Ok(())
}
