//! The record of one measured process: what `tamp bench sample --json` prints, what a foreign engine's adapter fills in,
//! and what the lab reads. Everything in it was observed; nothing was meant.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::count::{Acts, Work};
use crate::scored::Scored;

/// `kind` of a [`Sample`].
pub const SAMPLE: &str = "tamp.bench.sample";

/// Names of the metrics of [`Sample::metrics`].
pub const METRICS: &[&str] = &[
    "decode_tok_s",
    "e2e_tok_s",
    "prefill_tok_s",
    "ttft_ms",
    "median_token_ms",
    "p95_token_ms",
    "p99_token_ms",
    "load_ms",
    "repack_ms",
    "plan_ms",
    "start_to_ready_ms",
    "warm_ms",
    "total_ms",
    "bytes_per_token",
    "ceiling_gb_s",
    "ceiling_fraction",
    "memory_peak_mb",
    "total_tok_s",
    "ttft_p99_ms",
    "steps",
    "fair_fraction",
];

/// One process, one arm, one measured unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// always [`SAMPLE`]
    pub kind: String,
    /// version of this record, 1
    pub v: u32,
    /// which program ran
    pub engine: EngineId,
    /// every setting that was given, in order, as `name=value`
    #[serde(default)]
    pub settings: Vec<String>,
    /// hash of the accepted plan; empty for an engine that has none
    #[serde(default)]
    pub plan_hash: String,
    /// the accepted plan, whole
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<serde_json::Value>,
    /// worker threads
    pub threads: usize,
    /// milliseconds by phase: `load`, `repack`, `plan`, `start_to_ready`, `warm` (uncounted requests), `total` (start
    /// of the process to the end of the last probe)
    #[serde(default)]
    pub phases_ms: BTreeMap<String, f64>,
    /// the read ceiling of this process
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
    /// the measured requests, in the order they ran
    pub requests: Vec<RequestRun>,
    /// how tokens were chosen, the seed included, in the engine's own words
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<serde_json::Value>,
    /// work of the measured requests
    #[serde(default)]
    pub work: Work,
    /// `room.member` → how often it was asked, declined, acted in the measured requests
    #[serde(default)]
    pub counters: BTreeMap<String, Acts>,
    /// other observed facts, such as `backend.head`, `fallbacks`, `plans_rebuilt`, `target_trunks`
    #[serde(default)]
    pub observed: BTreeMap<String, serde_json::Value>,
    /// bytes this process held at most
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// the requests ran side by side, in one engine
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Streams>,
    /// measured while its process, or the lab above it, held the machine lock
    #[serde(default)]
    pub decision_grade: bool,
    /// what was measured of the output's quality, where the process was asked to
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Scored>,
    /// fields of a newer minor version, kept as they came
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// The program that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineId {
    /// such as `tamp` or `llama.cpp`
    pub name: String,
    /// as the program says it
    pub version: String,
    /// source revision it was built from; empty when unknown
    #[serde(default)]
    pub revision: String,
    /// the source differed from that revision when it was built
    #[serde(default)]
    pub dirty: bool,
}

/// The read ceiling, probed before and after the requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// GB/s before
    pub before_gb_s: f64,
    /// GB/s after
    pub after_gb_s: f64,
    /// bytes of weights one forward reads
    pub weight_bytes: u64,
}

/// Requests that ran side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Streams {
    /// requests under way at once, at most
    pub concurrency: usize,
    /// first request handed in → last token, ns
    pub wall_ns: u64,
    /// who asked
    #[serde(default)]
    pub tenants: Vec<TenantRun>,
}

/// What one of several callers got.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TenantRun {
    /// its name
    pub name: String,
    /// its share of service, against the others'
    pub weight: f64,
    /// its requests
    pub requests: usize,
    /// prompt tokens and new tokens it was served while every tenant still had requests open
    pub served: u64,
}

impl Streams {
    /// Jain's index of served ÷ weight, 1 when all got their weight's share. `None` of fewer than two tenants.
    pub fn fair(&self) -> Option<f64> {
        let x: Vec<f64> = self.tenants.iter().map(|t| t.served as f64 / t.weight).collect();
        let (sum, squares) = (x.iter().sum::<f64>(), x.iter().map(|v| v * v).sum::<f64>());
        (x.len() > 1 && squares > 0.0).then(|| sum * sum / (x.len() as f64 * squares))
    }
}

/// One measured request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestRun {
    /// name of the prompt
    pub prompt: String,
    /// blake3 of the prompt's token ids as little-endian u32
    pub prompt_hash: String,
    /// how many they are
    pub prompt_tokens: usize,
    /// of these, not computed because they were cached
    #[serde(default)]
    pub cached_tokens: usize,
    /// the new tokens; empty when an engine tells only text
    pub tokens: Vec<u32>,
    /// the new text
    #[serde(default)]
    pub text: String,
    /// receipt of the request → first token, ns
    pub first_token_ns: u64,
    /// first forward → first token, ns; 0 when an engine does not tell it
    #[serde(default)]
    pub prefill_ns: u64,
    /// time between one token and the next, ns; one fewer than the tokens, and one more where an end token, which is
    /// not among them, ended the answer
    pub token_ns: Vec<u64>,
    /// receipt → last token, ns
    pub total_ns: u64,
    /// why it ended
    pub finish: String,
}

impl Sample {
    /// The metrics that follow from the raw figures, by the names specs use. A metric without data is absent.
    ///
    /// | name | meaning |
    /// |---|---|
    /// | `decode_tok_s` | tokens after each first ÷ the time they took, over all requests |
    /// | `e2e_tok_s` | all new tokens ÷ time from receipt to last token |
    /// | `prefill_tok_s` | prompt tokens computed ÷ prefill time (time to the first token where that is not told) |
    /// | `ttft_ms` | receipt → first token, median of the requests |
    /// | `median_token_ms`, `p95_token_ms`, `p99_token_ms` | of the times between tokens |
    /// | `load_ms`, `repack_ms`, `start_to_ready_ms`, … | the phases |
    /// | `ceiling_fraction` | weight bytes per second of decode steps ÷ the higher ceiling |
    /// | `bytes_per_token` | weight bytes read ÷ forwards |
    /// | `memory_peak_mb` | what the process held at most, 10⁶ bytes |
    /// | `total_tok_s` | of requests side by side: new tokens of all ÷ wall time |
    /// | `ttft_p99_ms` | of those: receipt → first token, 99th percentile |
    /// | `steps` | of those: forward passes |
    /// | `fair_fraction` | of those of several tenants: Jain's index of service ÷ weight |
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mut m = BTreeMap::new();
        let gaps: Vec<f64> =
            self.requests.iter().flat_map(|r| &r.token_ns).map(|&n| n as f64 / 1e6).collect();
        let spent: f64 = gaps.iter().sum();
        let mut put = |name: &str, value: f64| {
            if value.is_finite() {
                m.insert(name.to_string(), value);
            }
        };
        let decode = gaps.len() as f64 * 1e3 / spent;
        put("decode_tok_s", decode);
        if !gaps.is_empty() {
            for (name, q) in [("median_token_ms", 0.5), ("p95_token_ms", 0.95), ("p99_token_ms", 0.99)] {
                put(name, quantile(&gaps, q));
            }
        }
        let sum = |f: &dyn Fn(&RequestRun) -> f64| self.requests.iter().map(f).sum::<f64>();
        put("e2e_tok_s", sum(&|r| 1.0 + r.token_ns.len() as f64) * 1e9 / sum(&|r| r.total_ns as f64));
        let fill = |r: &RequestRun| if r.prefill_ns > 0 { r.prefill_ns } else { r.first_token_ns } as f64;
        put(
            "prefill_tok_s",
            sum(&|r| (r.prompt_tokens - r.cached_tokens.min(r.prompt_tokens)) as f64) * 1e9 / sum(&fill),
        );
        if !self.requests.is_empty() {
            let ttft: Vec<f64> = self.requests.iter().map(|r| r.first_token_ns as f64 / 1e6).collect();
            put("ttft_ms", quantile(&ttft, 0.5));
        }
        for (phase, ms) in &self.phases_ms {
            put(&format!("{phase}_ms"), *ms);
        }
        if self.work.target_forwards > 0 {
            put("bytes_per_token", self.work.weight_bytes as f64 / self.work.target_forwards as f64);
        }
        if let Some(c) = &self.ceiling {
            put("ceiling_gb_s", c.before_gb_s.max(c.after_gb_s));
            // Tokens of one step share its arrival, so a step is a time that is not 0.
            let steps = gaps.iter().filter(|&&ms| ms > 0.0).count() as f64 * 1e3 / spent;
            put("ceiling_fraction", steps * c.weight_bytes as f64 / 1e9 / c.before_gb_s.max(c.after_gb_s));
        }
        if let Some(together) = &self.streams {
            put("total_tok_s", sum(&|r| r.tokens.len() as f64) * 1e9 / together.wall_ns as f64);
            let ttft: Vec<f64> = self.requests.iter().map(|r| r.first_token_ns as f64 / 1e6).collect();
            put("ttft_p99_ms", quantile(&ttft, 0.99));
            put("steps", self.work.target_forwards as f64);
            put("fair_fraction", together.fair().unwrap_or(f64::NAN));
        }
        if let Some(peak) = self.memory_peak {
            put("memory_peak_mb", peak as f64 / 1e6);
        }
        m
    }
}

/// The `q`-quantile by linear interpolation between order statistics (type 7). NaN of nothing.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    let Some(last) = v.len().checked_sub(1) else { return f64::NAN };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (lo, hi) = (v[at.floor() as usize], v[at.ceil() as usize]);
    lo + (hi - lo) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(first: u64, gaps: &[u64]) -> RequestRun {
        RequestRun {
            prompt_tokens: 10,
            first_token_ns: first,
            prefill_ns: first / 2,
            token_ns: gaps.to_vec(),
            total_ns: first + gaps.iter().sum::<u64>(),
            ..RequestRun::default()
        }
    }

    #[test]
    fn rates_count_forwards_over_all_requests_and_not_the_last_one() {
        let s = Sample {
            requests: vec![
                request(20_000_000, &[10_000_000, 10_000_000]),
                request(40_000_000, &[30_000_000]),
            ],
            ..Sample::default()
        };
        let m = s.metrics();
        // Three gaps in 50 ms; five tokens in 110 ms; twenty prompt tokens in 10 + 20 ms.
        assert_eq!(m["decode_tok_s"], 60.0);
        assert!((m["e2e_tok_s"] - 5.0 / 0.110).abs() < 1e-9);
        assert!((m["prefill_tok_s"] - 20.0 / 0.030).abs() < 1e-9);
        assert_eq!((m["ttft_ms"], m["median_token_ms"]), (30.0, 10.0));
        assert!(!m.contains_key("ceiling_fraction") && !m.contains_key("memory_peak_mb"));
    }

    #[test]
    fn tokens_that_come_together_read_the_weights_once() {
        let ceiling = Some(Ceiling { before_gb_s: 10.0, after_gb_s: 20.0, weight_bytes: 100_000_000 });
        // Four tokens after the first in two steps of 10 ms: 400 MB would be read one by one, 200 MB were.
        let s = Sample {
            requests: vec![request(5, &[10_000_000, 0, 10_000_000, 0])],
            ceiling,
            ..Sample::default()
        };
        assert_eq!((s.metrics()["decode_tok_s"], s.metrics()["ceiling_fraction"]), (200.0, 0.5));
    }

    #[test]
    fn streams_side_by_side_have_a_total_over_the_wall_and_a_fairness() {
        let tenant = |served, weight| TenantRun { served, weight, ..TenantRun::default() };
        let streams = |tenants| Some(Streams { concurrency: 2, wall_ns: 50_000_000, tenants });
        let tokens = |n: u32| RequestRun { tokens: (0..n).collect(), ..request(20_000_000, &[10_000_000]) };
        let mut s =
            Sample { requests: vec![tokens(3), tokens(2)], streams: streams(vec![]), ..Sample::default() };
        s.work.target_forwards = 7;
        let m = s.metrics();
        assert_eq!((m["total_tok_s"], m["ttft_p99_ms"], m["steps"]), (100.0, 20.0, 7.0));
        assert!(!m.contains_key("fair_fraction"));
        s.streams = streams(vec![tenant(30, 3.0), tenant(10, 1.0)]);
        assert_eq!(s.metrics()["fair_fraction"], 1.0);
        s.streams = streams(vec![tenant(40, 1.0), tenant(0, 1.0)]);
        assert_eq!(s.metrics()["fair_fraction"], 0.5);
        s.streams = None;
        assert!(!s.metrics().contains_key("total_tok_s"));
        assert!(METRICS.iter().filter(|m| m.contains("total_tok") || m.contains("fair")).count() == 2);
    }

    #[test]
    fn a_sample_without_requests_has_no_rates() {
        assert!(Sample::default().metrics().is_empty());
    }

    #[test]
    fn a_newer_field_survives_reading_and_writing() {
        let text = r#"{"kind":"tamp.bench.sample","v":1,"engine":{"name":"x","version":"1"},"threads":2,"requests":[],"energy_j":3.5}"#;
        let s: Sample = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&s).unwrap()["energy_j"], 3.5);
    }
}
