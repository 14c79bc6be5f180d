//! One process, one arm, one measured unit: what the lab spawns.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tamp_base::count::Acts;
use tamp_base::record::{Ceiling, EngineId, RequestRun, SAMPLE, Sample};
use tamp_engine::{Answer, Event, FinishReason, Params, Request};
use tamp_kernels::device::Device;

use crate::ceiling::Bracket;
use crate::generate::Bindings;
use crate::prompt::{Prompt, hash};
use crate::stats::{ms, since};
use crate::{BenchError, Subject};

mod streams;

pub use streams::{Caller, Together};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Ask {
    /// the prompts, in the order they run; the whole list once per repeat
    pub prompts: Vec<Prompt>,
    /// rounds over the prompts
    pub repeats: usize,
    /// requests of the longest prompt before counting starts
    pub warmup: usize,
    /// new tokens per request
    pub max_tokens: usize,
    /// how they are chosen
    pub params: Params,
    /// an end token ends a request; else each runs to its full length
    pub stop_at_eos: bool,
    /// the read ceiling is probed before and after
    pub ceiling: bool,
    /// requests side by side instead of the prompts, which then only warm
    pub together: Option<Together>,
}

/// What the process around the engine knows.
pub struct Process<'a> {
    /// which program this is
    pub engine: EngineId,
    /// every setting that was given, `name=value`
    pub settings: Vec<String>,
    /// more facts that were observed, by name
    pub observed: BTreeMap<String, Value>,
    /// milliseconds since the process began
    pub since_start_ms: &'a dyn Fn() -> f64,
    /// most bytes held since the start or since the last `forget_peak`; `None` where the system does not say
    pub peak: &'a dyn Fn() -> Option<u64>,
    /// starts `peak` anew, so that the buffers of the probe are not counted; false where the system cannot
    pub forget_peak: &'a dyn Fn() -> bool,
}

/// Runs the requests and says everything that was seen.
pub fn sample<D: Device>(
    s: &mut Subject<'_, D>,
    ask: &Ask,
    process: Process<'_>,
) -> Result<Sample, BenchError> {
    let ready = (process.since_start_ms)();
    let side_by_side = ask.together.as_ref().map(|t| t.asked(s, ask)).transpose()?;
    for p in ask.prompts.iter().chain(side_by_side.iter().flat_map(|all| all.iter().map(|o| &o.prompt))) {
        s.engine.check(&request(p, ask))?;
    }
    let clock = s.clock();
    let start = clock.now();
    // The longest prompt touches the memory that all of them use.
    let widest = ask.prompts.iter().rev().max_by_key(|p| p.ids.len());
    for _ in 0..ask.warmup {
        if let Some(p) = widest {
            run(s, p, ask)?;
        }
    }
    let warm = ms((clock.now() - start).as_nanos() as u64);

    let bytes = s.engine.model().weight_bytes();
    let pool = s.pool;
    let loaded = (process.peak)();
    let (mut seen, mut whole, mut together) = (None, !ask.ceiling, None);
    let mut measure = || {
        let fresh = (process.forget_peak)();
        let before = (s.engine.stats(), Bindings::now(s), s.pool.runs());
        let mut runs = Vec::new();
        if let (Some(t), Some(all)) = (&ask.together, &side_by_side) {
            let (all, streams) = t.run(s, all, ask)?;
            runs = all;
            together = Some(streams);
        }
        for _ in 0..if side_by_side.is_some() { 0 } else { ask.repeats } {
            for p in &ask.prompts {
                runs.push(run(s, p, ask)?);
            }
        }
        seen = (process.peak)();
        // Where the peak cannot be started anew, it holds the buffer of the probe.
        whole |= fresh;
        Ok::<_, BenchError>((runs, before, (s.engine.stats(), Bindings::now(s), s.pool.runs())))
    };
    let (bracket, measured) = match ask.ceiling {
        true => Bracket::around(pool, bytes, &mut measure).map(|(b, m)| (Some(b), m))?,
        false => (None, measure()),
    };
    let (requests, (stats, bound, pool_runs), (stats_after, bound_after, pool_after)) = measured?;

    let plan = s.engine.plan();
    let made = s.engine.model().made();
    let mut observed = process.observed;
    let mut note = |name: &str, value: Value| observed.insert(name.into(), value);
    for (stage, kernel) in &plan.kernels {
        note(&format!("backend.{stage}"), json!(kernel));
    }
    let head = plan.kernels.iter().find(|(stage, _)| stage == "head").map(|(_, kernel)| kernel);
    note("head_backend", json!(head));
    note("device", json!(plan.device));
    note("isa", json!(isa(&plan.device)));
    note("fallbacks", json!(strangers(&plan.kernels, isa(&plan.device))));
    note("matrices_retried", json!(made.retried));
    note("matrices_failed", json!(made.failed));
    note("matrices_adopted", json!(made.adopted));
    note("matrices_repacked", json!(made.repacked));
    note("weights_from", json!(weights_from(made.adopted, made.repacked)));
    note("plans_rebuilt", json!(bound_after.plans - bound.plans));
    note("matrices_rebuilt", json!(bound_after.matrices - bound.matrices));
    note("cached_bindings_enabled", json!(bound == bound_after));
    note("target_trunks", json!(s.engine.trunks()));
    note("ctx", json!(s.engine.ctx()));
    note("chunk", json!(plan.chunk));
    note("batch", json!(plan.batch));
    note("kv_format", json!(plan.kv.formats.join(", ")));
    note("kv_pages", json!(plan.kv.pages));
    note("kv_bytes", json!(plan.kv.bytes));
    note("steps", json!(stats_after.work.target_forwards - stats.work.target_forwards));
    note("preemptions", json!(stats_after.preemptions - stats.preemptions));
    note("prefix_asked", json!(stats_after.prefix_asked - stats.prefix_asked));
    note("prefix_hits", json!(stats_after.prefix_hits - stats.prefix_hits));
    note("requests", json!(stats_after.finished - stats.finished));
    note("tokenizer_hash", json!(blake3::hash(&s.engine.tokenizer().compile()).to_hex().as_str()));
    note("tokens_hash", json!(tokens_hash(&requests)));
    note("pool_runs", json!(pool_after.all - pool_runs.all));
    note("pool_runs_short", json!(pool_after.short - pool_runs.short));

    let load = s.load;
    let phases = [
        ("load", load.load_ms),
        ("repack", load.repack_ms),
        ("plan", load.plan_ms),
        ("start_to_ready", ready),
        ("warm", warm),
        ("total", (process.since_start_ms)()),
    ];
    Ok(Sample {
        kind: SAMPLE.into(),
        v: 1,
        engine: process.engine,
        settings: process.settings,
        plan_hash: plan.hash.clone(),
        plan: serde_json::to_value(plan).ok(),
        threads: s.pool.threads(),
        phases_ms: phases.into_iter().map(|(name, ms)| (name.to_string(), ms)).collect(),
        ceiling: bracket.map(|b| Ceiling {
            before_gb_s: b.before_gb_s,
            after_gb_s: b.after_gb_s,
            weight_bytes: bytes,
        }),
        requests,
        sampler: serde_json::to_value(&ask.params).ok(),
        work: since(stats_after.work, stats.work),
        counters: [
            ("spec.propose", stats_after.propose, stats.propose),
            ("spec.accept", stats_after.accept, stats.accept),
            ("kv.prefix", stats_after.reuse, stats.reuse),
            ("engine.coalesce", stats_after.coalesce, stats.coalesce),
            ("kv.pick", stats_after.pick, stats.pick),
        ]
        .into_iter()
        .map(|(room, after, before)| (member(&plan.techniques, room), acts(after, before)))
        .collect(),
        observed,
        memory_peak: loaded.max(seen).filter(|_| whole),
        streams: together,
        decision_grade: s.decision_grade,
        quality: None,
        more: BTreeMap::new(),
    })
}

/// `room.name` of what the plan has in a room.
fn member(techniques: &[tamp_engine::plan::Chosen], room: &str) -> String {
    let name = techniques.iter().find(|t| t.room == room).map_or("", |t| t.name);
    format!("{room}.{name}")
}

fn acts(after: Acts, before: Acts) -> Acts {
    Acts {
        asked: after.asked - before.asked,
        declined: after.declined - before.declined,
        acted: after.acted - before.acted,
    }
}

/// blake3 over the tokens of all answers in order, each behind its number of tokens, as little-endian u32.
fn tokens_hash(requests: &[RequestRun]) -> String {
    let mut h = blake3::Hasher::new();
    for r in requests {
        h.update(&(r.tokens.len() as u32).to_le_bytes());
        r.tokens.iter().for_each(|t| {
            h.update(&t.to_le_bytes());
        });
    }
    h.finalize().to_hex().to_string()
}

/// The instruction set in a device's name, such as `avx2` of `cpu.avx2`.
fn isa(device: &str) -> &str {
    device.split_once('.').map_or(device, |(_, isa)| isa)
}

/// Kernels of stages that are not of the device's instruction set: `avx2.q4_k ×3, portable.q6_k ×2` beside `avx2` has
/// one.
fn strangers(kernels: &[(String, String)], isa: &str) -> usize {
    let own = |kernel: &str| kernel.split_once('.').is_some_and(|(rung, _)| rung == isa);
    kernels.iter().flat_map(|(_, of)| of.split(", ")).filter(|k| !own(k)).count()
}

fn weights_from(adopted: u32, repacked: u32) -> &'static str {
    match (adopted, repacked) {
        (0, _) => "repacked",
        (_, 0) => "bundle",
        _ => "bundle, some repacked",
    }
}

fn request(p: &Prompt, ask: &Ask) -> Request {
    Request {
        prompt: p.ids.clone(),
        max_tokens: Some(ask.max_tokens),
        params: ask.params.clone(),
        ignore_eos: !ask.stop_at_eos,
        ..Request::default()
    }
}

/// One request, whole.
fn run<D: Device>(s: &mut Subject<'_, D>, p: &Prompt, ask: &Ask) -> Result<RequestRun, BenchError> {
    let mut text = String::new();
    let request = Request { received: Some(s.clock().now()), ..request(p, ask) };
    let answer: Answer = s.engine.generate(request, &mut |e| match e {
        Event::Token { text: t, .. } | Event::Text(t) => text.push_str(t),
        Event::Done(_) => {}
    })?;
    told(p, text, answer, ask)
}

/// What an answer was, if it is whole.
fn told(p: &Prompt, text: String, answer: Answer, ask: &Ask) -> Result<RequestRun, BenchError> {
    let ended = answer.failure.as_ref().map(|f| f.message.clone()).or_else(|| {
        let short = answer.tokens.len() != ask.max_tokens && !ask.stop_at_eos;
        let wrong = !matches!(answer.finish_reason, FinishReason::Length | FinishReason::Stop);
        (short || wrong).then(|| format!("{:?} after {} tokens", answer.finish_reason, answer.tokens.len()))
    });
    if let Some(why) = ended {
        return Err(BenchError::Ended(why));
    }
    let t = answer.timings;
    let last: u64 = t.first_token_ns + t.token_ns.iter().sum::<u64>();
    Ok(RequestRun {
        prompt: p.name.clone(),
        prompt_hash: hash(&p.ids),
        prompt_tokens: p.ids.len(),
        // What the engine did not run; rows that ran twice after a preemption do not make up for cached ones.
        cached_tokens: (p.ids.len() as u64).saturating_sub(t.prompt_rows) as usize,
        tokens: answer.tokens,
        text,
        first_token_ns: t.first_token_ns,
        prefill_ns: t.prefill_ns,
        token_ns: t.token_ns,
        total_ns: last,
        finish: serde_json::to_value(answer.finish_reason)
            .ok()
            .and_then(|v| v.as_str().map(str::to_string))
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_of_another_instruction_set_is_a_fallback() {
        let kernels = |head: &str| {
            vec![
                ("ffn_down".to_string(), "avx2.q4_k ×3, avx2.q6_k ×2".to_string()),
                ("head".into(), head.into()),
            ]
        };
        assert_eq!(strangers(&kernels("avx2.q8_0"), isa("cpu.avx2")), 0);
        assert_eq!(strangers(&kernels("portable.q8_0"), "avx2"), 1);
        assert_eq!(strangers(&kernels("avx2.q8_0 ×1, portable.q8_0 ×1, avx512.q4_0 ×2"), "avx2"), 2);
    }
}
