//! Spans on their way out: as a Chrome trace, and as OTLP in JSON.
//!
//! The engine knows a request by a number; here the number gets its name back, and its place in the caller's trace.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tamp_base::span::{Kind, Span};

use crate::observe::{Facts, Trace};

/// Requests whose names are remembered; a trace of older ones shows numbers.
const MOST: usize = 8192;

/// What a number stands for.
#[derive(Clone, Debug)]
pub struct Named {
    /// the request's id
    pub request: Arc<str>,
    /// which of several answers
    pub choice: u32,
    /// the caller's trace
    pub trace: Option<Trace>,
    /// the path's pattern
    pub route: &'static str,
    /// the model
    pub model: Arc<str>,
    /// the tenant
    pub who: Arc<str>,
}

/// Names of the newest requests. Whoever shares it puts a lock around it.
#[derive(Default)]
pub struct Names {
    known: BTreeMap<u64, Named>,
    order: VecDeque<u64>,
}

impl Names {
    /// Remembers a request.
    pub fn add(&mut self, facts: &Facts) {
        let number = facts.number();
        let named = Named {
            request: facts.request.clone(),
            choice: facts.choice,
            trace: facts.trace,
            route: facts.route,
            model: facts.model.clone(),
            who: facts.who.clone(),
        };
        if self.known.insert(number, named).is_none() {
            self.order.push_back(number);
        }
        if self.order.len() > MOST
            && let Some(old) = self.order.pop_front()
        {
            self.known.remove(&old);
        }
    }

    /// What a number stands for.
    pub fn get(&self, number: u64) -> Option<&Named> {
        self.known.get(&number)
    }
}

/// A Chrome trace (`chrome://tracing`, Perfetto): one row for the engine's steps, one per request.
pub fn chrome(model: &str, spans: &[Span], names: &Names) -> Value {
    let mut lanes: BTreeMap<u64, usize> = BTreeMap::new();
    let mut events = vec![json!({
        "ph": "M", "pid": 1, "tid": 0, "name": "thread_name", "args": {"name": format!("{model}: steps")},
    })];
    for span in spans {
        let next = lanes.len() + 1;
        let lane = match span.trace {
            0 => 0,
            n => *lanes.entry(n).or_insert(next),
        };
        if lane == next && span.trace != 0 {
            let name = match names.get(span.trace) {
                Some(n) if n.choice > 0 => format!("{} #{}", n.request, n.choice),
                Some(n) => n.request.to_string(),
                None => format!("request {:x}", span.trace),
            };
            events.push(json!({
                "ph": "M", "pid": 1, "tid": lane, "name": "thread_name", "args": {"name": name},
            }));
        }
        events.push(json!({
            "ph": "X", "pid": 1, "tid": lane, "name": span.kind.name(), "cat": span.kind.name(),
            "ts": span.start_ns as f64 / 1e3, "dur": span.len_ns as f64 / 1e3,
            "args": {"rows": span.rows, "kept": span.kept},
        }));
    }
    json!({"traceEvents": events, "displayTimeUnit": "ms"})
}

/// Spans that [`recent`] is made of, at most.
pub const RECENT: u64 = 16_384;
/// How far it looks back.
const BACK: Duration = Duration::from_secs(12);
/// Spans of one request and kind nearer than this are one bar.
const NEAR: u64 = 100_000_000;
/// Bars that are shown.
const BARS: usize = 400;

/// What requests did lately, as bars: passes of one kind that follow each other are one. Oldest first; times are
/// milliseconds before `now`, and long.
pub fn recent(model: &str, spans: &[Span], names: &Names, now: Duration) -> Vec<Value> {
    let end = |s: &Span| s.start_ns.saturating_add(s.len_ns);
    let since = now.saturating_sub(BACK).as_nanos() as u64;
    let mut bars: Vec<(Span, u64)> = Vec::new();
    let mut last: BTreeMap<(u64, Kind), usize> = BTreeMap::new();
    let shown = |s: &&Span| s.trace != 0 && s.kind != Kind::Request && end(s) >= since;
    for s in spans.iter().filter(shown) {
        if let Some((bar, passes)) = last.get(&(s.trace, s.kind)).map(|&i| &mut bars[i])
            && s.start_ns <= end(bar).saturating_add(NEAR)
        {
            bar.len_ns = end(s).max(end(bar)) - bar.start_ns;
            (bar.rows, bar.kept) = (bar.rows.saturating_add(s.rows), bar.kept.saturating_add(s.kept));
            *passes += 1;
            continue;
        }
        last.insert((s.trace, s.kind), bars.len());
        bars.push((*s, 1));
    }
    let from = bars.len().saturating_sub(BARS);
    let now = now.as_nanos() as f64;
    let bar = |(s, passes): &(Span, u64)| {
        let named = names.get(s.trace);
        let mut v = json!({
            "model": model, "kind": s.kind.name(), "trace": format!("{:x}", s.trace),
            "ago_ms": (now - s.start_ns as f64) / 1e6, "len_ms": s.len_ns as f64 / 1e6,
            "rows": s.rows, "kept": s.kept, "passes": passes,
        });
        if let Some(n) = named {
            v["request"] = n.request.to_string().into();
            v["choice"] = n.choice.into();
            v["who"] = n.who.to_string().into();
        }
        v
    };
    bars[from..].iter().map(bar).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that follow from a request's number, so that every export of a span gives it the same id. Never all zero.
fn id<const N: usize>(what: &str, number: u64, more: u64) -> [u8; N] {
    let mut h = blake3::Hasher::new();
    h.update(what.as_bytes()).update(&number.to_le_bytes()).update(&more.to_le_bytes());
    let mut out = [0; N];
    h.finalize_xof().fill(&mut out);
    out[0] |= 1;
    out
}

/// A request to an OTLP collector, in its JSON form. `epoch`: the engine's time 0 since 1970. Spans of requests whose
/// caller said that it does not record are left out, and so are those of no request. `None` when none are left.
pub fn otlp(spans: &[Span], names: &Names, epoch: Duration) -> Option<Value> {
    let exported: Vec<Value> = spans.iter().filter_map(|s| otlp_span(s, names, epoch)).collect();
    if exported.is_empty() {
        return None;
    }
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    Some(json!({"resourceSpans": [{
        "resource": {"attributes": [
            text("service.name", "tamp"), text("service.version", env!("CARGO_PKG_VERSION")),
        ]},
        "scopeSpans": [{"scope": {"name": "tamp.engine"}, "spans": exported}],
    }]}))
}

fn otlp_span(span: &Span, names: &Names, epoch: Duration) -> Option<Value> {
    if span.trace == 0 {
        return None;
    }
    let named = names.get(span.trace);
    let caller = named.and_then(|n| n.trace);
    if caller.is_some_and(|t| !t.sampled) {
        return None;
    }
    let whole = id::<8>("span", span.trace, 0);
    let trace = caller.map_or_else(|| id::<16>("trace", span.trace, 0), |t| t.id);
    let own = |kind: Kind| id::<8>("part", span.trace, span.start_ns << 3 | kind as u64);
    let (own, parent) = match span.kind {
        Kind::Request => (whole, caller.map(|t| t.parent)),
        kind => (own(kind), Some(whole)),
    };
    let at = |ns: u64| (epoch.as_nanos() + u128::from(ns)).to_string();
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    // OTLP writes 64-bit numbers as text.
    let number = |key: &str, value: u64| json!({"key": key, "value": {"intValue": value.to_string()}});
    let mut attributes = vec![number("tamp.rows", span.rows.into()), number("tamp.kept", span.kept.into())];
    if let (Kind::Request, Some(n)) = (span.kind, named) {
        attributes.extend([
            text("http.route", n.route),
            text("gen_ai.request.model", &n.model),
            text("tamp.request.id", &n.request),
            text("tamp.tenant", &n.who),
            number("tamp.choice", n.choice.into()),
        ]);
    }
    Some(json!({
        "traceId": hex(&trace),
        "spanId": hex(&own),
        "parentSpanId": parent.map_or_else(String::new, |p| hex(&p)),
        "name": span.kind.name(),
        // server for the request as a whole, internal for its parts
        "kind": if span.kind == Kind::Request { 2 } else { 1 },
        "startTimeUnixNano": at(span.start_ns),
        "endTimeUnixNano": at(span.start_ns.saturating_add(span.len_ns)),
        "attributes": attributes,
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tamp_base::ids::TenantId;

    use super::*;

    fn facts(request: &str, choice: u32, trace: Option<Trace>) -> Facts {
        Facts {
            request: request.into(),
            choice,
            trace,
            route: "/v1/completions",
            model: "tiny".into(),
            tenant: TenantId(0),
            who: "alice".into(),
            received: Instant::now(),
            prompt_tokens: 1,
            max_tokens: None,
            streams: false,
        }
    }

    fn span(kind: Kind, trace: u64, start_ns: u64) -> Span {
        Span { kind, trace, start_ns, len_ns: 500, rows: 3, kept: 1 }
    }

    #[test]
    fn a_callers_trace_goes_on_through_its_request_to_the_parts() {
        let mut names = Names::default();
        let caller = Trace { id: [7; 16], parent: [9; 8], sampled: true };
        let (mine, silent) =
            (facts("a", 0, Some(caller)), facts("b", 0, Some(Trace { sampled: false, ..caller })));
        let alone = facts("c", 1, None);
        [&mine, &silent, &alone].into_iter().for_each(|f| names.add(f));
        let spans = [
            span(Kind::Queue, mine.number(), 1000),
            span(Kind::Request, mine.number(), 1000),
            span(Kind::Request, silent.number(), 1000),
            span(Kind::Decode, alone.number(), 2000),
            span(Kind::Step, 0, 2000),
        ];
        let sent = otlp(&spans, &names, Duration::from_secs(10)).unwrap();
        let list = sent["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
        assert_eq!(list.len(), 3, "nobody's spans and those of a caller that does not record stay here");
        let (queue, request, decode) = (&list[0], &list[1], &list[2]);
        assert_eq!(request["traceId"], "07".repeat(16));
        assert_eq!(request["parentSpanId"], "09".repeat(8));
        assert_eq!((&queue["traceId"], &queue["parentSpanId"]), (&request["traceId"], &request["spanId"]));
        assert_ne!(queue["spanId"], request["spanId"]);
        assert_eq!(request["startTimeUnixNano"], "10000001000");
        assert_eq!(request["endTimeUnixNano"], "10000001500");
        assert_ne!(decode["traceId"], request["traceId"]);
        assert_eq!(decode["traceId"].as_str().unwrap().len(), 32);
        let again = otlp(&spans, &names, Duration::from_secs(10)).unwrap();
        assert_eq!(again, sent, "ids follow from the span");
        assert_eq!(otlp(&spans[4..], &names, Duration::ZERO), None);
    }

    #[test]
    fn a_chrome_trace_has_a_row_per_request_with_its_name() {
        let mut names = Names::default();
        let (a, b) = (facts("req-a", 0, None), facts("req-b", 2, None));
        names.add(&a);
        names.add(&b);
        let spans = [
            span(Kind::Queue, a.number(), 1000),
            span(Kind::Step, 0, 1000),
            span(Kind::Prefill, b.number(), 1000),
            span(Kind::Decode, a.number(), 4000),
            span(Kind::Decode, 77, 4000),
        ];
        let trace = chrome("tiny", &spans, &names);
        let events = trace["traceEvents"].as_array().unwrap();
        let names: Vec<&str> =
            events.iter().filter(|e| e["ph"] == "M").map(|e| e["args"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["tiny: steps", "req-a", "req-b #2", "request 4d"]);
        let lanes: Vec<u64> =
            events.iter().filter(|e| e["ph"] == "X").map(|e| e["tid"].as_u64().unwrap()).collect();
        assert_eq!(lanes, [1, 0, 2, 1, 3]);
        let last = events.last().unwrap();
        assert_eq!((last["ts"].as_f64(), last["dur"].as_f64()), (Some(4.0), Some(0.5)));
    }

    #[test]
    fn lately_passes_that_follow_each_other_are_one_bar_and_old_ones_are_gone() {
        let mut names = Names::default();
        let a = facts("req-a", 1, None);
        names.add(&a);
        let ms = 1_000_000;
        let at =
            |kind, ms_from_zero: u64| Span { len_ns: 10 * ms, ..span(kind, a.number(), ms_from_zero * ms) };
        let spans = [
            at(Kind::Decode, 1_000),
            at(Kind::Prefill, 20_000),
            at(Kind::Decode, 20_010),
            at(Kind::Step, 20_010),
            Span { trace: 0, ..at(Kind::Step, 20_010) },
            at(Kind::Decode, 20_020),
            at(Kind::Decode, 20_100),
            at(Kind::Request, 20_000),
            at(Kind::Decode, 25_000),
        ];
        let bars = recent("tiny", &spans, &names, Duration::from_secs(30));
        let seen: Vec<_> = bars
            .iter()
            .map(|b| {
                (b["kind"].as_str().unwrap(), b["ago_ms"].as_f64().unwrap(), b["len_ms"].as_f64().unwrap())
            })
            .collect();
        let want = [
            ("prefill", 10_000.0, 10.0),
            ("decode", 9_990.0, 100.0),
            ("step", 9_990.0, 10.0),
            ("decode", 5_000.0, 10.0),
        ];
        assert_eq!(seen, want);
        assert_eq!((&bars[1]["passes"], &bars[1]["rows"]), (&json!(3), &json!(9)));
        assert_eq!((&bars[1]["request"], &bars[1]["choice"]), (&json!("req-a"), &json!(1)));
    }

    #[test]
    fn names_of_old_requests_are_forgotten() {
        let mut names = Names::default();
        let number = |i: u32| facts("r", i, None).number();
        (0..MOST as u32 + 5).for_each(|i| names.add(&facts("r", i, None)));
        assert!(names.get(number(0)).is_none() && names.get(number(MOST as u32)).is_some());
        assert_eq!(names.known.len(), MOST);
        assert_ne!(number(1), number(2));
    }
}
