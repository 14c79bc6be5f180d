//! `tamp bench serve`: callers of a server, ours or another.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value};
use tamp_bench::serve::row::{Latencies, Percentiles};
use tamp_bench::serve::spawn::{Spawned, free_port, words};
use tamp_bench::serve::versus::{VersusRow, versus};
use tamp_bench::serve::{Ask, Load, Process, ServeRow, Slo, Stall, Target, Tenant, Work, serve};

use crate::args::{BenchServeArgs, ServeWork};
use crate::cmd::Ctx;
use crate::env::Env;
use crate::fail::{At, Code, Done, Fail};
use crate::out::note;
use crate::say;

/// Callers when nothing is said.
const CALLERS: usize = 8;
/// Requests when nothing is said.
const REQUESTS: usize = 64;

/// Measures and prints.
pub fn run(ctx: &Ctx, a: &BenchServeArgs) -> Done {
    let nowhere = Target { host: String::new(), port: 0, path: String::new() };
    let mut ask = ask(a, nowhere)?;
    // What cannot be asked is refused before a server is started for it.
    ask.check()?;
    let text = a.prompt_file.as_ref().map(|f| std::fs::read_to_string(f).at("read", f)).transpose()?;
    let (target, server) = target(ctx, a)?;
    ask.model = match &a.name {
        Some(name) => name.clone(),
        None => model(&target, ask.tenants[0].key.as_deref())?,
    };
    ask.target = target;
    let spoke = Cell::new(Instant::now());
    let process = Process {
        cpu: &tamp_os::process::cpu_time,
        progress: Rc::new(move |n| {
            // A line now and then: a bar that redraws would be work of the client, and counts against it.
            if spoke.get().elapsed() > Duration::from_secs(10) {
                spoke.set(Instant::now());
                note(format_args!("{n} requests done"));
            }
        }),
        text,
        decision_grade: ctx.decision_grade,
    };
    if a.vs_sequential {
        let row = versus(&ask, a.rounds as usize, &process)?;
        end(server)?;
        if ctx.json {
            return ctx.json(&row);
        }
        show_versus(&row);
        return Ok(());
    }
    let row = serve(&ask, &process)?;
    end(server)?;
    if ctx.json {
        return ctx.json(&row);
    }
    show(&row);
    Ok(())
}

fn end(server: Option<Spawned>) -> Done {
    Ok(server.map_or(Ok(()), Spawned::end)?)
}

/// The server: one that runs, or one that is started.
fn target(ctx: &Ctx, a: &BenchServeArgs) -> Done<(Target, Option<Spawned>)> {
    let within = Duration::from_secs(a.ready_timeout.into());
    let ends = tamp_os::process::terminate;
    if let Some(url) = &a.url {
        return Ok((url.parse()?, None));
    }
    let server = match &a.server {
        Some(line) => {
            let port = free_port().map_err(Fail::from)?;
            let words = words(line, port)?;
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            let target = Target { host: "127.0.0.1".into(), port, path: String::new() };
            Spawned::asked(command, target, within, ends)?
        }
        None => Spawned::told(own(ctx, a)?, within, ends)?,
    };
    Ok((server.target.clone(), Some(server)))
}

/// `tamp serve` with what was said to us.
fn own(ctx: &Ctx, a: &BenchServeArgs) -> Done<Command> {
    let me = std::env::current_exe().map_err(|e| Fail::file(format!("cannot find this program: {e}")))?;
    let mut command = Command::new(me);
    command.arg("serve");
    command.args(&a.model);
    command.args(["--port", "0"]);
    for (flag, n) in [("--threads", a.load.threads), ("--ctx", a.load.ctx)] {
        command.args(n.iter().flat_map(|n| [flag.to_string(), n.to_string()]));
    }
    let rooms = tamp_engine::rooms();
    for (key, value, _) in ctx.settings.all() {
        let flag = if rooms.iter().any(|r| r.name == key) { "--use" } else { "--set" };
        command.args([flag.to_string(), format!("{key}={value}")]);
    }
    command.args(&a.serve_arg);
    Ok(command)
}

fn ask(a: &BenchServeArgs, target: Target) -> Done<Ask> {
    let seconds = |flag: &str, s: f64| {
        Duration::try_from_secs_f64(s)
            .ok()
            .filter(|d| !d.is_zero())
            .ok_or_else(|| Fail::usage(format!("{flag} {s} is no number of seconds above 0")))
    };
    let load = match a.rate {
        Some(rate) => Load::Open { rate, arrival: a.arrival.parse()? },
        None => Load::Closed { concurrency: a.concurrency.unwrap_or(CALLERS) },
    };
    let body: Map<String, Value> = a.body.as_deref().map_or_else(
        || Ok(Map::new()),
        |b| serde_json::from_str(b).map_err(|e| Fail::usage(format!("--body is no JSON object: {e}"))),
    )?;
    let stall = a.stall.as_deref().map(|s| {
        let no = || Fail::usage(format!("--stall {s} is not N:SECONDS"));
        let (readers, time) = s.split_once(':').ok_or_else(no)?;
        let readers = readers.parse().ok().filter(|&n| n > 0).ok_or_else(no)?;
        let time = seconds("--stall", time.parse().map_err(|_| no())?)?;
        Ok::<_, Fail>(Stall { readers, time })
    });
    Ok(Ask {
        target,
        model: String::new(),
        load,
        requests: a.requests.or(a.duration.is_none().then_some(REQUESTS)),
        duration: a.duration.map(|s| seconds("--duration", s)).transpose()?,
        warmup: a.warmup,
        work: match a.workload {
            ServeWork::Chat => Work::Chat,
            ServeWork::Completion => Work::Completion,
            ServeWork::Agent => Work::Agent,
            ServeWork::SharedPrefix => Work::SharedPrefix,
            ServeWork::LongPrompt => Work::LongPrompt,
        },
        prompt_tokens: a.prompt_tokens,
        max_tokens: a.max_tokens,
        turns: a.turns,
        tenants: tenants(a)?,
        stream: !a.no_stream,
        hang_up: a.hang_up,
        stall: stall.transpose()?,
        slo: a.slo.as_deref().map_or(Ok(Slo::default()), str::parse)?,
        timeout: seconds("--timeout", a.timeout)?,
        seed: a.seed,
        temperature: a.temperature,
        ignore_eos: a.ignore_eos,
        chunk_tokens: a.chunk_tokens.max(1),
        max_in_flight: a.max_in_flight.max(1),
        body,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantsFile {
    tenant: Vec<Tenant>,
}

/// `env:NAME` → what the variable holds.
fn secret(key: String) -> Done<String> {
    match key.strip_prefix("env:") {
        Some(name) => Env::named(name).ok_or_else(|| {
            Fail::usage(format!("the environment has no variable {name}, which should hold a key"))
        }),
        None => Ok(key),
    }
}

fn tenants(a: &BenchServeArgs) -> Done<Vec<Tenant>> {
    if let Some(file) = &a.tenants {
        let text = std::fs::read_to_string(file).at("read", file)?;
        let wrong = |e: toml::de::Error| Fail::usage(format!("{}: {e}", file.display()));
        let mut all = toml::from_str::<TenantsFile>(&text).map_err(wrong)?.tenant;
        for t in &mut all {
            t.key = t.key.take().map(secret).transpose()?;
        }
        return Ok(all);
    }
    let many = a.key.len() > 1;
    let one = |(i, word): (usize, &String)| {
        let (key, load) = match word.rsplit_once('@') {
            Some((key, load)) => {
                let load = load
                    .parse()
                    .map_err(|_| Fail::usage(format!("--key …@{load}: the load is no number")))?;
                (key, load)
            }
            None => (word.as_str(), 1.0),
        };
        // Rows must not show keys.
        let name = if many { format!("key {}", i + 1) } else { "all".into() };
        Ok(Tenant { name, key: Some(secret(key.to_string())?), load, weight: 1.0 })
    };
    match a.key.is_empty() {
        true => Ok(vec![Tenant::default()]),
        false => a.key.iter().enumerate().map(one).collect(),
    }
}

/// The first model that a server names.
fn model(t: &Target, key: Option<&str>) -> Done<String> {
    let no = |why: String| {
        Fail::new(
            Code::Network,
            format!("http://{}{}/v1/models names no model: {why}", t.authority(), t.path),
        )
        .hint("say the model's name with --name")
    };
    let get = || -> std::io::Result<Vec<u8>> {
        let limit = Some(Duration::from_secs(10));
        let mut s = TcpStream::connect((t.host.as_str(), t.port))?;
        s.set_read_timeout(limit)?;
        let auth = key.map_or_else(String::new, |k| format!("Authorization: Bearer {k}\r\n"));
        let (path, host) = (&t.path, t.authority());
        // HTTP/1.0, so that the body comes in one piece and the connection ends with it.
        write!(s, "GET {path}/v1/models HTTP/1.0\r\nHost: {host}\r\n{auth}\r\n")?;
        let mut all = Vec::new();
        s.take(1 << 20).read_to_end(&mut all)?;
        Ok(all)
    };
    let all = get().map_err(|e| no(e.to_string()))?;
    let text = String::from_utf8_lossy(&all);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| no("it is no HTTP answer".into()))?;
    let status = head.lines().next().unwrap_or_default();
    let first = || {
        let from = body.find('{')?;
        let list: Value = serde_json::Deserializer::from_str(&body[from..]).into_iter().next()?.ok()?;
        Some(list["data"][0]["id"].as_str()?.to_string())
    };
    first().ok_or_else(|| no(status.to_string()))
}

fn line(name: &str, p: Option<Percentiles>) {
    let Some(p) = p else { return };
    say!(
        "{name:<22} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1}  {:>7}",
        p.p50,
        p.p90,
        p.p95,
        p.p99,
        p.max,
        p.count
    );
}

fn heading() {
    say!("{:<22} {:>9} {:>9} {:>9} {:>9} {:>9}  {:>7}", "ms", "p50", "p90", "p95", "p99", "max", "times");
}

fn all(l: &Latencies) {
    line("first token", l.ttft_ms);
    line("between chunks", l.itl_ms);
    line("whole answer", l.e2e_ms);
    line("before it was sent", l.queue_ms);
}

fn cost(void: &Option<String>, cpu: Option<f64>, decision_grade: bool) {
    match cpu {
        Some(f) => say!("client_cpu: {:.1} % of a core", 100.0 * f),
        None => say!("client_cpu: not known here"),
    }
    if let Some(why) = void {
        say!("void: {why}");
    }
    say!("decision_grade: {decision_grade}");
}

fn show(r: &ServeRow) {
    heading();
    all(&r.latencies);
    for k in &r.kinds {
        line(k.kind, k.latencies.ttft_ms);
    }
    if let Some(ratio) = r.ttft_p99_ratio {
        say!("first token beside long prompts ÷ alone, p99: {ratio:.2}");
    }
    let t = &r.tokens;
    say!("requests: {}, answered {}, hung up {}, stalled {}", r.requests, r.ok, r.hung_up, r.stalled);
    for (kind, n) in &r.errors {
        say!("errors {kind}: {n}");
    }
    for example in &r.error_examples {
        say!("  {example}");
    }
    say!("decode: {:.1} tokens/s of all streams, {} tokens in {:.2} s", r.decode_tok_s, t.new, r.wall_s);
    let cached = r.cached_share.map_or(String::new(), |c| format!(", {:.0} % cached", 100.0 * c));
    say!("prefill: {:.1} tokens/s, {} prompt tokens{cached}", r.prefill_tok_s, t.prompt);
    if let Some(g) = &r.goodput {
        say!("good: {:.1} % of the requests, {:.2} a second", 100.0 * g.share, g.per_s);
    }
    if !r.tenants.is_empty() {
        say!(
            "{:<12} {:>6} {:>6} {:>6} {:>9} {:>7} {:>9} {:>10} {:>10}",
            "tenant",
            "weight",
            "sent",
            "failed",
            "tokens/s",
            "share",
            "entitled",
            "ttft p50",
            "ttft p99"
        );
    }
    for t in &r.tenants {
        let (p50, p99) = t.latencies.ttft_ms.map_or((0.0, 0.0), |p| (p.p50, p.p99));
        let (share, entitled) = (t.service_share, t.entitled_share);
        say!(
            "{:<12} {:>6} {:>6} {:>6} {:>9.1} {share:>7.3} {entitled:>9.3} {p50:>10.1} {p99:>10.1}",
            t.name,
            t.weight,
            t.requests,
            t.errors,
            t.service_tok_s
        );
    }
    if let (Some(j), Some(e)) = (r.jain, r.jain_entitled) {
        say!("jain: {j:.3} by weight, {e:.3} by what each was entitled to");
    }
    cost(&r.void, r.client.cpu_fraction, r.decision_grade);
}

fn show_versus(r: &VersusRow) {
    say!("{:<16} {:>14} {:>14} {:>7}", "round", "one by one", "together", "ratio");
    for (i, p) in r.pairs.iter().enumerate() {
        let (a, b) = (p.sequential_tok_s, p.concurrent_tok_s);
        say!("{:<16} {a:>14.1} {b:>14.1} {:>7.2}", i + 1, b / a);
    }
    let ends = r.ratio_low.zip(r.ratio_high).map_or(String::new(), |(l, h)| format!(" ({l:.2}–{h:.2})"));
    say!(
        "{} requests, {} callers: {:.1} against {:.1} tokens/s, {:.2} times{ends}",
        r.requests,
        r.concurrency,
        r.concurrent_tok_s,
        r.sequential_tok_s,
        r.ratio
    );
    match r.identical {
        Some(true) => say!("texts: the same"),
        Some(false) => say!("texts: other ones for requests {:?}", r.differing),
        None => say!("texts: not compared, the temperature is not 0"),
    }
    for example in &r.error_examples {
        say!("  {example}");
    }
    cost(&r.void, r.client.cpu_fraction, r.decision_grade);
}
