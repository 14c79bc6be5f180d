//! Engines that are reached by a program of their own: it reads the question from a file and prints one row.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tamp_base::record::{SAMPLE, Sample};

use super::process::Running;
use super::stream::glimpse;
use super::{ASK, Ask, Engine, ForeignError, Prompt, Version, fill};

/// The most that a program may print.
const PRINTED: u64 = 64 << 20;

/// The most that a program may take to say its version.
const SAYS: Duration = Duration::from_secs(60);

/// The file behind `{ask}`.
#[derive(Serialize)]
struct AskFile<'a> {
    kind: &'static str,
    v: u32,
    #[serde(flatten)]
    ask: &'a Ask,
}

/// Runs the program once and reads its row.
pub(super) fn run(
    engine: &Engine,
    ask: &Ask,
    argv: &[String],
    within: Duration,
) -> Result<Sample, ForeignError> {
    let key = &engine.key;
    let io = |what: &'static str| {
        move |why: std::io::Error| ForeignError::Io { engine: key.clone(), what: what.into(), why }
    };
    let version = match &engine.version {
        Version::Command(argv) => Some(self::version(engine, argv)?),
        _ => None,
    };
    let mut file = tempfile::NamedTempFile::new().map_err(io("its question could not be written"))?;
    serde_json::to_writer(&mut file, &AskFile { kind: ASK, v: 1, ask })
        .map_err(|e| ForeignError::Ask { engine: key.clone(), why: e.to_string() })?;
    file.flush().map_err(io("its question could not be written"))?;
    let argv = fill(
        argv,
        &[
            ("{ask}", file.path().to_string_lossy().into_owned()),
            ("{model}", ask.model.to_string_lossy().into_owned()),
            ("{threads}", ask.threads.to_string()),
            ("{ctx}", ask.ctx.to_string()),
        ],
    );
    let mut out = tempfile::tempfile().map_err(io("its row could not be caught"))?;
    let mut running = Running::start(key, &argv, &engine.env, Some(&out))?;
    let status = running.wait("its row", within, "within_s")?;
    let printed = printed(&mut out).map_err(io("its row could not be read"))?;
    let answer = match last_object(&printed) {
        Some(v) => v,
        None if !status.success() => return Err(running.gone(status)),
        None => return Err(fault(engine, format!("it printed none, but: {}", glimpse(&printed)))),
    };
    running.stop(None)?;
    for word in ["missing", "failed"] {
        if let Some(why) = answer.get(word).and_then(Value::as_str) {
            return Err(ForeignError::Start { engine: key.clone(), why: glimpse(why.as_bytes()) });
        }
    }
    let mut sample: Sample = serde_json::from_value(answer).map_err(|e| fault(engine, e.to_string()))?;
    check(&sample, ask).map_err(|why| fault(engine, why))?;
    if let Some(version) = version {
        sample.engine.version = version;
    }
    sample.engine.name.clone_from(&engine.name);
    sample.decision_grade = false;
    sample.settings.splice(0..0, ask.settings());
    let own = sample.observed.get("same_ids") == Some(&json!(true));
    sample.observed.insert("same_ids".into(), json!(own));
    Ok(sample)
}

/// The line of a version command that tells it: the first with the word, or the first with a digit, or the first.
pub(super) fn version(engine: &Engine, argv: &[String]) -> Result<String, ForeignError> {
    let mut running = Running::start(&engine.key, argv, &engine.env, None)?;
    let status = running.wait("its version", SAYS, "version")?;
    if !status.success() {
        return Err(running.gone(status));
    }
    let log = running.log();
    running.stop(None)?;
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let digit = |l: &&&str| l.bytes().any(|b| b.is_ascii_digit());
    let named = lines.iter().filter(digit).find(|l| l.to_ascii_lowercase().contains("version"));
    let line = named.or_else(|| lines.iter().find(digit)).or(lines.first());
    Ok(line.map(|l| glimpse(l.as_bytes())).unwrap_or_default())
}

fn fault(engine: &Engine, why: String) -> ForeignError {
    ForeignError::Row { engine: engine.key.clone(), why }
}

fn printed(out: &mut File) -> std::io::Result<Vec<u8>> {
    out.rewind()?;
    let mut all = Vec::new();
    out.take(PRINTED).read_to_end(&mut all)?;
    Ok(all)
}

/// The last line that is a JSON object; libraries like to print before it.
fn last_object(printed: &[u8]) -> Option<Value> {
    let lines = printed.rsplit(|&b| b == b'\n').filter(|l| l.trim_ascii_start().starts_with(b"{"));
    lines.take(100).find_map(|l| serde_json::from_slice(l).ok())
}

/// Is this an answer to what was asked, and do its parts agree?
fn check(s: &Sample, ask: &Ask) -> Result<(), String> {
    if s.kind != SAMPLE || s.v != 1 {
        return Err(format!("is `{}` version {}; this lab reads `{SAMPLE}` version 1", s.kind, s.v));
    }
    if s.threads != ask.threads {
        return Err(format!("ran with {} threads instead of {}", s.threads, ask.threads));
    }
    if s.requests.len() != ask.prompts.len() {
        return Err(format!("holds {} requests; {} were asked", s.requests.len(), ask.prompts.len()));
    }
    for (r, Prompt { name, hash, ids, .. }) in s.requests.iter().zip(&ask.prompts) {
        let of = |what: String| Err(format!("request `{name}`: {what}"));
        if r.prompt_hash != *hash || r.prompt != *name {
            return of(format!("answers prompt `{}` with hash `{}`, not {hash}", r.prompt, r.prompt_hash));
        }
        if r.prompt_tokens != ids.len() || r.cached_tokens > ids.len() {
            let (all, cached) = (r.prompt_tokens, r.cached_tokens);
            return of(format!("counts {all} prompt tokens, {cached} cached; it was given {}", ids.len()));
        }
        let n = r.token_ns.len() + 1;
        if n > ask.max_tokens || !r.tokens.is_empty() && r.tokens.len() != n {
            let (told, gaps, most) = (r.tokens.len(), r.token_ns.len(), ask.max_tokens);
            return of(format!("{told} tokens with {gaps} gaps between them, of at most {most} tokens"));
        }
        let sum = r.token_ns.iter().try_fold(r.first_token_ns, |a, &b| a.checked_add(b));
        // Its clock may have been read once more between the last token and the total.
        if r.first_token_ns == 0 || sum.is_none_or(|s| s.abs_diff(r.total_ns) > 1_000_000 + s / 100) {
            return of(format!("its times add up to {sum:?} ns, its total is {} ns", r.total_ns));
        }
    }
    Ok(())
}
