//! `tamp convert IN OUT`.

use std::path::Path;

use serde_json::json;
use tamp_weights::Weights;

use crate::args::ConvertArgs;
use crate::cmd::Ctx;
use crate::fail::{Done, Fail};
use crate::out::Ui;
use crate::say;

/// Converts and says where the model is.
pub fn run(ctx: &Ctx, a: &ConvertArgs) -> Done {
    refuse_same(&a.input, &a.output)?;
    let bytes = write(&a.input, &a.output, ctx.ui)?;
    if ctx.json {
        return ctx.json(&json!({ "path": a.output, "bytes": bytes }));
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
    let weights = Weights::open(input)?;
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
