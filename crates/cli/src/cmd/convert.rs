//! `tamp convert IN OUT`.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_model::pack::{self, Form};
use tamp_weights::Weights;

use crate::args::{ConvertArgs, LayoutArg};
use crate::cmd::load::{named, rung as chosen, undo_layouts};
use crate::cmd::{Ctx, tokenize};
use crate::fail::{Done, Fail};
use crate::out::Ui;
use crate::say;

/// Converts and says where the model is.
pub fn run(ctx: &Ctx, a: &ConvertArgs) -> Done {
    let input = ctx.finder().find(Some(&a.input))?;
    refuse_same(&input, &a.output)?;
    if is_bundle(&a.output) {
        return bundle(ctx, &input, a);
    }
    if a.layout != LayoutArg::Packed {
        return Err(Fail::usage("--layout is for bundles").hint("name an output that ends in .tamp"));
    }
    let bytes = write(&input, &a.output, ctx.ui)?;
    if ctx.json {
        return ctx.json(&json!({ "path": a.output, "bytes": bytes }));
    }
    say!("{}", a.output.display());
    Ok(())
}

fn is_bundle(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tamp"))
}

/// Writes a bundle: matrices as this machine's kernels want them, the tokenizer as it loads fastest.
fn bundle(ctx: &Ctx, input: &Path, a: &ConvertArgs) -> Done {
    let mut weights = Weights::open(input).map_err(|e| named(e.into(), input))?;
    let rung = chosen(&ctx.settings)?;
    undo_layouts(&mut weights, rung);
    // A model whose tokenizer cannot be read would make a bundle that cannot be used.
    let compiled = tokenize::compiled(&tokenize::tokenizer(&weights).map_err(|e| named(e.into(), input))?);
    let device = Cpu::new(Arc::new(Pool::new(super::cores(), false)), rung);
    let form = if a.layout == LayoutArg::Rows { Form::Rows } else { Form::Packed };
    let mut bar = ctx.ui.bytes(&format!("writing {}", a.output.display()), 0);
    let report = pack::bundle(&weights, &device, form, Some(compiled), &a.output, &mut |done, total| {
        bar.set_total(total);
        bar.at(done);
    })
    .map_err(|e| named(tamp_engine::EngineError::from(e).into(), input))?;
    bar.done(report.bytes);
    if ctx.json {
        let (path, layout) = (&a.output, &report.layout);
        return ctx.json(&json!({ "path": path, "bytes": report.bytes, "layout": layout,
            "tensors": report.tensors, "packed": report.packed }));
    }
    say!("{}", a.output.display());
    Ok(())
}

/// Writing over a mapped input would destroy both.
pub fn refuse_same(input: &Path, output: &Path) -> Done {
    let real = |p: &Path| std::fs::canonicalize(p).ok();
    if real(input).is_some() && real(input) == real(output) {
        return Err(Fail::usage(format!("{} is both the input and the output", input.display())));
    }
    Ok(())
}

/// Converts with a progress bar; gives the bytes of tensor data written.
pub fn write(input: &Path, output: &Path, ui: Ui) -> Done<u64> {
    let mut weights = Weights::open(input)?;
    if let Some(rung) = rung::available().next() {
        undo_layouts(&mut weights, rung);
    }
    let mut bar = ui.bytes(&format!("writing {}", output.display()), 0);
    let mut written = 0;
    tamp_weights::convert(&weights, output, &mut |done, total| {
        bar.set_total(total);
        bar.at(done);
        written = done;
    })?;
    bar.done(written);
    Ok(written)
}
