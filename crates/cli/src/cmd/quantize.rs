//! `tamp quantize IN OUT --to FORMAT`.

use serde_json::json;
use tamp_formats::Recipe;
use tamp_weights::Weights;

use crate::args::QuantizeArgs;
use crate::cmd::load::{rung, undo_layouts};
use crate::cmd::{Ctx, convert};
use crate::fail::{Done, Fail, nearest};
use crate::say;

/// Quantises and says what changed.
pub fn run(ctx: &Ctx, a: &QuantizeArgs) -> Done {
    let recipe = Recipe::from_name(&a.to).ok_or_else(|| {
        let near = nearest(&a.to.to_ascii_lowercase(), Recipe::NAMES.iter().copied());
        let near = near.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
        Fail::usage(format!("there is no format `{}`; known: {}{near}", a.to, Recipe::NAMES.join(", ")))
    })?;
    let input = ctx.finder().find(Some(&a.input))?;
    convert::refuse_same(&input, &a.output)?;
    if a.output.extension().is_none_or(|e| e != "gguf") {
        return Err(Fail::usage(format!(
            "{} is not a .gguf file name; quantised models are GGUF",
            a.output.display()
        )));
    }
    let mut weights = Weights::open(&input)?;
    undo_layouts(&mut weights, rung(&ctx.settings)?);
    let threads = a.threads.map_or_else(super::cores, |t| t as usize);
    let mut bar = ctx.ui.bytes(&format!("quantising to {}", recipe.name), 0);
    let report = tamp_weights::quantize(&weights, &a.output, recipe, threads, &mut |done, total| {
        bar.set_total(total);
        bar.at(done);
    })?;
    bar.done(report.bytes_out);
    if ctx.json {
        let (path, bits) = (&a.output, report.bits());
        return ctx.json(&json!({ "path": path, "format": recipe.name, "tensors": report.tensors,
            "changed": report.changed, "bytes_in": report.bytes_in, "bytes_out": report.bytes_out, "bits_per_weight": bits }));
    }
    say!(
        "{}: {} of {} tensors changed, {:.2} bits per weight",
        a.output.display(),
        report.changed,
        report.tensors,
        report.bits()
    );
    Ok(())
}
