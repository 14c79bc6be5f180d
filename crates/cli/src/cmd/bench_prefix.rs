//! `tamp bench prefix`: what a shared beginning saves.

use tamp_bench::prefix::prefix;

use crate::args::BenchPrefixArgs;
use crate::cmd::load::{Wish, load};
use crate::cmd::{Ctx, bench};
use crate::fail::Done;
use crate::say;

/// Measures and prints.
pub fn run(ctx: &Ctx, a: &BenchPrefixArgs) -> Done {
    let text = bench::read(a.prompt_file.as_deref())?;
    let len = a.tokens as usize;
    let mut shares = a.shares.clone();
    shares.sort_unstable();
    shares.dedup();
    let mut l = load(
        ctx,
        a.model.as_deref(),
        &a.load,
        Wish { ctx: Some(len + 16), shares: true, ..Wish::default() },
    )?;
    let row = prefix(&mut l.subject(), &text, len, &shares, a.repeats as usize)?;
    l.settle()?;
    if ctx.json {
        return ctx.json(&row);
    }
    say!("{:>7}  {:>7}  {:>7}  {:>9}  {:>7}", "share %", "shared", "cached", "ttft ms", "of none");
    for p in &row.points {
        let (shared, cached) = (p.shared_tokens, p.cached_tokens);
        say!("{:>7}  {shared:>7}  {cached:>7.0}  {:>9.2}  {:>7.2}", p.share, p.ttft_ms, p.ratio);
    }
    say!("plan_hash: {}", row.facts.plan_hash);
    say!("decision_grade: {}", row.facts.decision_grade);
    Ok(())
}
