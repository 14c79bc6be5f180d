//! `tamp generate`: the counted command of the first field report, word for word; without the counting it is `run`.

use crate::args::{BenchGenerateArgs, GenerateArgs};
use crate::cmd::Ctx;
use crate::cmd::bench;
use crate::cmd::run::{Ask, answer};
use crate::fail::Done;

/// Counts or answers.
pub fn run(ctx: &Ctx, a: GenerateArgs) -> Done {
    if !a.benchmark_generate {
        let (model, system) = (a.bundle.as_deref(), a.system.as_deref());
        return answer(
            ctx,
            &Ask { model, prompt: a.prompt, sample: &a.sample, load: &a.load, system, raw: a.raw },
        );
    }
    let counted = BenchGenerateArgs {
        model: a.bundle,
        prompt: a.prompt,
        max_tokens: a.sample.max_tokens.unwrap_or(64),
        warmup: a.compare_warmup,
        iterations: a.compare_iterations,
        load: a.load,
    };
    bench::whole(ctx, &counted)
}
