//! From outcomes to a row.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::outcome::Outcome;
use super::script::Kind;
use super::{Ask, Load, MOST_CPU, Slo, Tenant};

/// `kind` of a [`ServeRow`].
pub const SERVE: &str = "tamp.bench.serve";

/// Failures whose sentences are kept.
const EXAMPLES: usize = 5;

/// The longest time a histogram tells apart from longer ones, µs.
const DAY_US: u64 = 86_400_000_000;

/// A distribution of times in ms, from an HDR histogram of microseconds with three digits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// times
    pub count: u64,
    /// their mean
    pub mean: f64,
    /// half are not longer
    pub p50: f64,
    /// 90 %
    pub p90: f64,
    /// 95 %
    pub p95: f64,
    /// 99 %
    pub p99: f64,
    /// the longest
    pub max: f64,
}

impl Percentiles {
    /// Of some times; `None` of none.
    pub fn of(times: impl Iterator<Item = Duration>) -> Option<Percentiles> {
        // These bounds and digits are always possible.
        let mut h = Histogram::<u64>::new_with_bounds(1, DAY_US, 3).ok()?;
        times.for_each(|t| h.saturating_record(u64::try_from(t.as_micros()).unwrap_or(DAY_US)));
        let q = |p| h.value_at_quantile(p) as f64 / 1e3;
        (!h.is_empty()).then(|| Percentiles {
            count: h.len(),
            mean: h.mean() / 1e3,
            p50: q(0.5),
            p90: q(0.9),
            p95: q(0.95),
            p99: q(0.99),
            max: h.max() as f64 / 1e3,
        })
    }
}

/// Tokens of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tokens {
    /// prompt tokens of answered requests, as usage says
    pub prompt: u64,
    /// of these, not computed because they were cached, where the server tells
    pub cached: u64,
    /// new tokens of answered requests: as usage says, else chunks
    pub new: u64,
    /// chunks that stand for tokens, of answered requests
    pub chunks: u64,
    /// chunks of requests that failed or hung up; in no rate
    pub lost: u64,
    /// answered streams without usage
    pub without_usage: u64,
}

/// Latencies of some requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latencies {
    /// intended time → first token
    pub ttft_ms: Option<Percentiles>,
    /// between two chunks of an answer
    pub itl_ms: Option<Percentiles>,
    /// intended time → last token
    pub e2e_ms: Option<Percentiles>,
    /// intended time → handed to a connection
    pub queue_ms: Option<Percentiles>,
}

/// Requests that met every limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goodput {
    /// the limits
    pub slo: Slo,
    /// requests that met all of them
    pub met: usize,
    /// share of the requests that did not hang up and did not stall; a failed one met nothing
    pub share: f64,
    /// of these, per second
    pub per_s: f64,
}

/// One tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TenantRow {
    /// its name
    pub name: String,
    /// its share of service, against the others'
    pub weight: f64,
    /// its share of requests, against the others'
    pub load: f64,
    /// requests sent
    pub requests: usize,
    /// answered
    pub ok: usize,
    /// failed
    pub errors: usize,
    /// prompt tokens computed and new tokens per second, while requests were still being sent
    pub service_tok_s: f64,
    /// its part of the service of all
    pub service_share: f64,
    /// the part it was entitled to: weighted max-min fair, and no more than it asked for
    pub entitled_share: f64,
    /// its latencies
    #[serde(flatten)]
    pub latencies: Latencies,
}

/// Requests of one kind of a workload that has several.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindRow {
    /// its name
    pub kind: &'static str,
    /// requests sent
    pub requests: usize,
    /// their latencies
    #[serde(flatten)]
    pub latencies: Latencies,
}

/// What the client itself took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClientCost {
    /// processor time, s; `None` where the system does not tell
    pub cpu_s: Option<f64>,
    /// processor time ÷ wall time: the share of one core
    pub cpu_fraction: Option<f64>,
}

impl ClientCost {
    pub(super) fn of(cpu: Option<Duration>, wall: Duration) -> ClientCost {
        let cpu_s = cpu.map(|c| c.as_secs_f64());
        let cpu_fraction = cpu_s.map(|c| c / wall.as_secs_f64()).filter(|f| f.is_finite());
        ClientCost { cpu_s, cpu_fraction }
    }

    /// Why figures taken beside such a client do not count.
    pub fn void(&self) -> Option<String> {
        let f = self.cpu_fraction.filter(|&f| f > MOST_CPU)?;
        Some(format!(
            "the client took {:.0} % of a core, more than {:.0} %: it measured itself too",
            100.0 * f,
            100.0 * MOST_CPU
        ))
    }
}

/// A load and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct ServeRow {
    /// always [`SERVE`]
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// what was asked, in the words of the command line
    pub asked: serde_json::Value,
    /// why this row does not count
    pub void: Option<String>,
    /// requests sent and counted
    pub requests: usize,
    /// answered to their end, and right
    pub ok: usize,
    /// left by us before their end
    pub hung_up: usize,
    /// read by a reader that stalled; in no percentile
    pub stalled: usize,
    /// failures by kind
    pub errors: BTreeMap<&'static str, usize>,
    /// sentences of the first failures
    pub error_examples: Vec<String>,
    /// first intended time → last token or end, s
    pub wall_s: f64,
    /// tokens
    pub tokens: Tokens,
    /// cached ÷ prompt tokens; `None` where no prompt tokens were told
    pub cached_share: Option<f64>,
    /// new tokens of all streams ÷ wall time
    pub decode_tok_s: f64,
    /// prompt tokens computed ÷ wall time
    pub prefill_tok_s: f64,
    /// answered requests ÷ wall time
    pub requests_s: f64,
    /// latencies of all answered requests; of `long-prompt` of the short ones beside the long ones
    #[serde(flatten)]
    pub latencies: Latencies,
    /// requests within the limits, where there are any
    pub goodput: Option<Goodput>,
    /// by tenant
    pub tenants: Vec<TenantRow>,
    /// Jain's index of service ÷ weight: 1 when all get their weight's share
    pub jain: Option<f64>,
    /// Jain's index of service ÷ entitled service: 1 also where a tenant asked for less than its share and got it
    pub jain_entitled: Option<f64>,
    /// by kind, where a workload has several
    pub kinds: Vec<KindRow>,
    /// of `long-prompt`: 99th percentile of the time to the first token beside long prompts ÷ alone
    pub ttft_p99_ratio: Option<f64>,
    /// what the client took
    pub client: ClientCost,
    /// the machine's lock was held
    pub decision_grade: bool,
}

fn latencies<'o>(all: impl Iterator<Item = &'o Outcome> + Clone) -> Latencies {
    let timed = all.filter(|o| o.timed());
    let gaps = timed.clone().flat_map(|o| o.at.windows(2).map(|w| Duration::from_nanos(w[1] - w[0])));
    Latencies {
        ttft_ms: Percentiles::of(timed.clone().filter_map(Outcome::ttft)),
        itl_ms: Percentiles::of(gaps),
        e2e_ms: Percentiles::of(timed.clone().map(Outcome::e2e)),
        queue_ms: Percentiles::of(timed.map(|o| o.sent.saturating_sub(o.intended))),
    }
}

/// Jain's index: (Σx)² ÷ (n Σx²). `None` of fewer than two, or when nobody got anything.
pub(super) fn jain(x: &[f64]) -> Option<f64> {
    let (sum, squares) = (x.iter().sum::<f64>(), x.iter().map(|v| v * v).sum::<f64>());
    (x.len() > 1 && squares > 0.0).then(|| sum * sum / (x.len() as f64 * squares))
}

/// Weighted max-min fair shares of `all`, nobody's larger than its demand.
pub(super) fn entitled(all: f64, weights: &[f64], demands: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; weights.len()];
    let (mut left, mut open): (f64, Vec<usize>) = (all, (0..weights.len()).collect());
    while !open.is_empty() {
        let weight: f64 = open.iter().map(|&i| weights[i]).sum();
        let fair = |i: usize| left * weights[i] / weight;
        let (sated, rest): (Vec<usize>, Vec<usize>) = open.iter().partition(|&&i| demands[i] <= fair(i));
        if sated.is_empty() {
            rest.iter().for_each(|&i| out[i] = fair(i));
            break;
        }
        sated.iter().for_each(|&i| out[i] = demands[i]);
        left = (left - sated.iter().map(|&i| demands[i]).sum::<f64>()).max(0.0);
        open = rest;
    }
    out
}

/// Tokens a request got by `end`, and those it asked for.
fn service(o: &Outcome, end: Duration) -> (f64, f64) {
    let prompt = o.prompt_tokens.map_or(0, |p| p.saturating_sub(o.cached.unwrap_or(0))) as f64;
    let per_chunk = if o.ok() && o.chunks > 0 { o.tokens() as f64 / o.chunks as f64 } else { 1.0 };
    let came = o.at.iter().filter(|&&ns| u128::from(ns) <= end.as_nanos()).count() as f64 * per_chunk;
    let begun = o.first.is_some_and(|f| f <= end);
    let asked = if o.ok() { prompt + o.tokens() as f64 } else { prompt + o.max_tokens as f64 };
    (came + if begun { prompt } else { 0.0 }, asked)
}

fn tenants(ask: &Ask, out: &[Outcome]) -> (Vec<TenantRow>, Option<f64>, Option<f64>) {
    // While requests were still being sent, everybody who wanted to could be served.
    let end = out.iter().map(|o| o.intended).max().unwrap_or_default();
    let end = if out.iter().all(|o| o.intended.is_zero()) { Duration::MAX } else { end };
    let of = |i: usize| out.iter().filter(move |o| o.tenant == i);
    let sums: Vec<(f64, f64)> = (0..ask.tenants.len())
        .map(|i| of(i).map(|o| service(o, end)).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1)))
        .collect();
    let (got, all) = (sums.iter().map(|s| s.0).collect::<Vec<_>>(), sums.iter().map(|s| s.0).sum::<f64>());
    let weights: Vec<f64> = ask.tenants.iter().map(|t| t.weight).collect();
    let demands: Vec<f64> = match ask.load {
        // A caller that always has a request open asks for all it can get.
        Load::Closed { .. } => vec![f64::INFINITY; got.len()],
        Load::Open { .. } => sums.iter().map(|s| s.1).collect(),
    };
    let fair = entitled(all, &weights, &demands);
    let window = if end == Duration::MAX { wall(out) } else { end.as_secs_f64() };
    let share = |x: f64| if all > 0.0 { x / all } else { 0.0 };
    let rows = ask.tenants.iter().enumerate().map(|(i, Tenant { name, weight, load, .. })| TenantRow {
        name: name.clone(),
        weight: *weight,
        load: *load,
        requests: of(i).count(),
        ok: of(i).filter(|o| o.ok()).count(),
        errors: of(i).filter(|o| o.error.is_some()).count(),
        service_tok_s: if window > 0.0 { got[i] / window } else { 0.0 },
        service_share: share(got[i]),
        entitled_share: share(fair[i]),
        latencies: latencies(of(i)),
    });
    let per =
        |by: &[f64]| got.iter().zip(by).filter(|(_, b)| **b > 0.0).map(|(g, b)| g / b).collect::<Vec<_>>();
    (rows.collect(), jain(&per(&weights)), jain(&per(&fair)))
}

fn wall(out: &[Outcome]) -> f64 {
    out.iter().map(|o| o.last().max(o.end)).max().unwrap_or_default().as_secs_f64()
}

/// New tokens of answered requests per second of wall time.
pub(super) fn rate(out: &[Outcome]) -> f64 {
    let new: u64 = out.iter().filter(|o| o.ok()).map(Outcome::tokens).sum();
    let wall = wall(out);
    if wall > 0.0 { new as f64 / wall } else { 0.0 }
}

/// The row of a load. `idle`: the short requests of `long-prompt` that were measured alone.
pub(super) fn row(
    ask: &Ask,
    out: &[Outcome],
    idle: &[Outcome],
    cpu: Option<Duration>,
    cpu_wall: Duration,
    decision_grade: bool,
) -> ServeRow {
    let (wall_s, ok) = (wall(out), out.iter().filter(|o| o.ok()).count());
    let per_s = |n: f64| if wall_s > 0.0 { n / wall_s } else { 0.0 };
    let mut tokens = Tokens::default();
    let mut errors: BTreeMap<&'static str, usize> = BTreeMap::new();
    for o in out {
        if let Some(e) = o.error {
            *errors.entry(e.name()).or_default() += 1;
        }
        if !o.ok() {
            tokens.lost += o.chunks;
            continue;
        }
        let prompt = o.prompt_tokens.unwrap_or(0);
        tokens.prompt += prompt;
        tokens.cached += o.cached.unwrap_or(0).min(prompt);
        tokens.new += o.tokens();
        tokens.chunks += o.chunks;
        tokens.without_usage += u64::from(o.usage.is_none());
    }
    let examples = out.iter().filter_map(|o| Some(format!("{}: {}", o.error?.name(), o.why)));
    let mut kinds: BTreeMap<Kind, Vec<&Outcome>> = BTreeMap::new();
    out.iter().chain(idle).for_each(|o| kinds.entry(o.kind).or_default().push(o));
    let kinds: Vec<(Kind, KindRow)> = kinds
        .into_iter()
        .map(|(k, all)| {
            let latencies = latencies(all.iter().copied());
            (k, KindRow { kind: k.name(), requests: all.len(), latencies })
        })
        .collect();
    let p99 = |kind: Kind| {
        kinds.iter().find(|(k, _)| *k == kind).and_then(|(_, r)| r.latencies.ttft_ms).map(|p| p.p99)
    };
    let ttft_p99_ratio = p99(Kind::Short).zip(p99(Kind::Idle)).map(|(a, b)| a / b).filter(|r| r.is_finite());
    let judged = out.iter().filter(|o| !o.hung_up && !o.stalled);
    let goodput = ask.slo.any().then(|| {
        let met = judged.clone().filter(|o| o.ok() && ask.slo.met(o)).count();
        let share = met as f64 / judged.clone().count().max(1) as f64;
        Goodput { slo: ask.slo, met, share, per_s: per_s(met as f64) }
    });
    let (tenants, jain, jain_entitled) = tenants(ask, out);
    let client = ClientCost::of(cpu, cpu_wall);
    let nothing = (ok == 0).then(|| format!("none of {} requests was answered", out.len()));
    let headline = |o: &&Outcome| !matches!(o.kind, Kind::Long | Kind::Between);
    ServeRow {
        kind: SERVE,
        v: 1,
        asked: ask.words(),
        void: nothing.or_else(|| client.void()),
        requests: out.len(),
        ok,
        hung_up: out.iter().filter(|o| o.hung_up).count(),
        stalled: out.iter().filter(|o| o.stalled).count(),
        errors,
        error_examples: examples.take(EXAMPLES).collect(),
        wall_s,
        tokens,
        cached_share: (tokens.prompt > 0).then(|| tokens.cached as f64 / tokens.prompt as f64),
        decode_tok_s: per_s(tokens.new as f64),
        prefill_tok_s: per_s((tokens.prompt - tokens.cached) as f64),
        requests_s: per_s(ok as f64),
        latencies: latencies(out.iter().filter(headline)),
        goodput,
        tenants: if tenants.len() > 1 { tenants } else { Vec::new() },
        jain,
        jain_entitled,
        kinds: if kinds.len() > 1 { kinds.into_iter().map(|(_, r)| r).collect() } else { Vec::new() },
        ttft_p99_ratio,
        client,
        decision_grade,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::outcome::Error;
    use crate::serve::tests::ask;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Meant for `from`, sent 1 ms later, first token at `first`, then one every `gap` ms.
    fn answered(tenant: usize, from: u64, first: u64, gap: u64, tokens: u64) -> Outcome {
        let mut o = Outcome::new(0, 0, tenant, ms(from));
        (0..tokens).for_each(|i| o.token_at(ms(first + i * gap)));
        o.sent = ms(from + 1);
        o.end = ms(first + tokens.saturating_sub(1) * gap);
        (o.usage, o.prompt_tokens, o.max_tokens) = (Some(tokens), Some(10), tokens as usize);
        o
    }

    #[test]
    fn percentiles_are_those_of_the_samples_within_a_thousandth() {
        assert_eq!(Percentiles::of(std::iter::empty()), None);
        let p = Percentiles::of((1..=1000).map(ms)).unwrap();
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 2e-3;
        assert!(
            near(p.p50, 500.0) && near(p.p90, 900.0) && near(p.p95, 950.0) && near(p.p99, 990.0),
            "{p:?}"
        );
        assert!(near(p.max, 1000.0) && near(p.mean, 500.5) && p.count == 1000);
    }

    #[test]
    fn latency_counts_from_the_intended_time_and_a_late_client_shows_as_queue() {
        let mut late = answered(0, 0, 500, 10, 3);
        late.sent = ms(400);
        let r = row(&ask(), &[late], &[], None, ms(1), true);
        let p50 = |p: Option<Percentiles>| p.unwrap().p50.round();
        let l = &r.latencies;
        assert_eq!(
            (p50(l.ttft_ms), p50(l.e2e_ms), p50(l.queue_ms), p50(l.itl_ms)),
            (500.0, 520.0, 400.0, 10.0)
        );
        assert_eq!(l.itl_ms.unwrap().count, 2);
    }

    #[test]
    fn rates_count_answered_requests_over_the_wall_and_failures_are_counted_by_kind() {
        let mut failed = answered(0, 0, 100, 10, 5);
        (failed.error, failed.why) = (Some(Error::Cut), "gone".into());
        let mut left = answered(0, 0, 100, 10, 7);
        left.hung_up = true;
        let mut cached = answered(0, 0, 200, 100, 9);
        cached.cached = Some(4);
        let out = [failed, left, cached];
        let r = row(&ask(), &out, &[], Some(ms(100)), ms(1000), true);
        assert_eq!((r.requests, r.ok, r.hung_up, r.errors.clone()), (3, 1, 1, [("cut", 1)].into()));
        assert_eq!(r.error_examples, ["cut: gone"]);
        // Nine tokens and six computed prompt tokens in one second.
        assert_eq!((r.wall_s, r.decode_tok_s, r.prefill_tok_s, r.cached_share), (1.0, 9.0, 6.0, Some(0.4)));
        assert_eq!((r.tokens.lost, r.latencies.ttft_ms.unwrap().count), (12, 1));
        assert_eq!(r.void, None);
    }

    #[test]
    fn a_client_that_took_too_much_of_a_core_voids_the_row_and_so_does_silence() {
        let out = [answered(0, 0, 100, 10, 3)];
        let void = |cpu| row(&ask(), &out, &[], Some(ms(cpu)), ms(1000), true).void;
        assert_eq!(void(150), None);
        assert!(void(151).unwrap().contains("15 %"));
        let none = row(&ask(), &[], &[], None, ms(1000), true);
        assert!(none.void.unwrap().contains("none of 0"));
    }

    #[test]
    fn a_request_is_good_only_within_every_limit_and_a_failed_one_never() {
        let slow_start = answered(0, 0, 300, 10, 3);
        let slow_gaps = answered(0, 0, 100, 50, 3);
        let good = answered(0, 0, 100, 10, 3);
        let mut failed = good.clone();
        failed.error = Some(Error::Timeout);
        let mut stalled = slow_gaps.clone();
        stalled.stalled = true;
        let slo = Slo { ttft_ms: Some(200.0), itl_ms: Some(20.0), e2e_ms: Some(1000.0) };
        let a = Ask { slo, ..ask() };
        let g =
            row(&a, &[slow_start, slow_gaps, good, failed, stalled], &[], None, ms(1), true).goodput.unwrap();
        assert_eq!((g.met, g.share), (1, 0.25));
    }

    #[test]
    fn fairness_is_judged_by_what_each_was_entitled_to() {
        assert_eq!(jain(&[1.0]), None);
        assert_eq!(jain(&[2.0, 2.0, 2.0]), Some(1.0));
        assert_eq!(jain(&[1.0, 0.0]), Some(0.5));
        assert_eq!(entitled(90.0, &[1.0, 1.0, 1.0], &[10.0, 100.0, 100.0]), [10.0, 40.0, 40.0]);
        assert_eq!(entitled(90.0, &[2.0, 1.0], &[f64::INFINITY; 2]), [60.0, 30.0]);
        assert_eq!(entitled(90.0, &[1.0, 1.0], &[20.0, 30.0]), [20.0, 30.0]);
        // One asks for ten times as much as the other; both get the same rate, and nobody wanted more of the light one.
        let mut out: Vec<Outcome> = (0..10).map(|i| answered(0, i * 100, i * 100 + 50, 1, 10)).collect();
        out.push(answered(1, 0, 50, 1, 10));
        let two = ["heavy", "light"].map(|n| Tenant { name: n.into(), ..Tenant::default() }).to_vec();
        let open = Load::Open { rate: 10.0, arrival: super::super::Arrival::Constant };
        let a = Ask { tenants: two, load: open, ..ask() };
        let r = row(&a, &out, &[], None, ms(1), true);
        assert!(r.jain.unwrap() < 0.7, "{:?}", r.jain);
        assert!(r.jain_entitled.unwrap() > 0.99, "{:?}", r.jain_entitled);
        assert_eq!((r.tenants[0].requests, r.tenants[1].requests), (10, 1));
        // A light tenant that is starved is seen by both.
        let last = out.len() - 1;
        out[last] = answered(1, 0, 5000, 1, 10);
        let r = row(&a, &out, &[], None, ms(1), true);
        assert!(r.jain_entitled.unwrap() < 0.6, "{:?}", r.jain_entitled);
    }

    #[test]
    fn the_wait_beside_a_long_prompt_is_set_against_the_wait_alone() {
        let of = |kind, first| Outcome { kind, ..answered(0, 0, first, 1, 2) };
        let out = [of(Kind::Short, 300), of(Kind::Between, 100), of(Kind::Long, 5000)];
        let r = row(&ask(), &out, &[of(Kind::Idle, 100)], None, ms(1), true);
        assert!((r.ttft_p99_ratio.unwrap() - 3.0).abs() < 0.01);
        assert_eq!(r.kinds.len(), 4);
        assert_eq!(r.latencies.ttft_ms.unwrap().count, 1);
    }
}
