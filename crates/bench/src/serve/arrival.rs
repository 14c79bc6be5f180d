//! When requests are meant to be sent. In an open loop the times come from here alone: a server that is slow does not
//! slow its callers down, and latency counts from these times.

use std::time::Duration;

use super::draw::Draw;
use crate::BenchError;

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// independent callers: exponential gaps
    Poisson,
    /// equal gaps
    Constant,
    /// gaps of a gamma distribution with this shape: below 1 burstier than independent callers, above 1 more even
    Gamma(f64),
    /// all requests of a second at its begin; below one per second, equal gaps
    Burst,
}

impl std::str::FromStr for Arrival {
    type Err = BenchError;

    fn from_str(s: &str) -> Result<Self, BenchError> {
        let shape = |t: &str| t.parse::<f64>().ok().filter(|s| (0.01..=1000.0).contains(s));
        match (s, s.strip_prefix("gamma:").and_then(shape)) {
            ("poisson", _) => Ok(Arrival::Poisson),
            ("constant", _) => Ok(Arrival::Constant),
            ("burst", _) => Ok(Arrival::Burst),
            (_, Some(shape)) => Ok(Arrival::Gamma(shape)),
            _ => Err(BenchError::Ask(format!(
                "there is no arrival `{s}`; known: poisson, constant, burst, gamma:SHAPE with SHAPE 0.01 to 1000"
            ))),
        }
    }
}

impl std::fmt::Display for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Arrival::Poisson => f.write_str("poisson"),
            Arrival::Constant => f.write_str("constant"),
            Arrival::Gamma(shape) => write!(f, "gamma:{shape}"),
            Arrival::Burst => f.write_str("burst"),
        }
    }
}

impl Arrival {
    /// The intended times, ascending, from the start of the load on; `rate` per second, above 0. Endless.
    pub fn times(self, rate: f64, seed: u64) -> impl Iterator<Item = Duration> {
        let mut draw = Draw::keyed(seed, u64::from_le_bytes(*b"arrivals"));
        let mut at = 0.0;
        (0u64..).map(move |i| {
            let gap = match self {
                Arrival::Poisson => draw.exponential(),
                Arrival::Constant => 1.0,
                Arrival::Gamma(shape) => draw.gamma(shape),
                // The last of a second's requests waits for the next second.
                Arrival::Burst if rate >= 1.0 => {
                    let each = rate.round() as u64;
                    if (i + 1) % each == 0 { rate } else { 0.0 }
                }
                Arrival::Burst => 1.0,
            };
            let now = at;
            at += gap / rate;
            Duration::from_secs_f64(now)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(a: Arrival, rate: f64, n: usize) -> Vec<f64> {
        a.times(rate, 3).take(n).map(|t| t.as_secs_f64()).collect()
    }

    #[test]
    fn every_process_keeps_its_rate_and_its_own_unevenness() {
        // Squared coefficient of variation of the gaps: 1 of Poisson, 1 ÷ shape of gamma, 0 of constant.
        for (a, want) in [
            (Arrival::Poisson, 1.0),
            (Arrival::Constant, 0.0),
            (Arrival::Gamma(0.25), 4.0),
            (Arrival::Gamma(4.0), 0.25),
        ] {
            let t = times(a, 20.0, 40_000);
            let gaps: Vec<f64> = t.windows(2).map(|w| w[1] - w[0]).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let cv2 = gaps.iter().map(|g| (g / mean - 1.0).powi(2)).sum::<f64>() / gaps.len() as f64;
            assert!((mean * 20.0 - 1.0).abs() < 0.04, "{a}: {mean}");
            assert!((cv2 - want).abs() < 0.06 * (1.0 + want), "{a}: {cv2}");
        }
    }

    #[test]
    fn a_burst_is_a_second_of_requests_at_once() {
        assert_eq!(times(Arrival::Burst, 3.0, 7), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0]);
        assert_eq!(times(Arrival::Burst, 0.5, 3), [0.0, 2.0, 4.0]);
    }

    #[test]
    fn an_arrival_is_read_as_it_is_written_and_a_stranger_is_refused_with_the_known_ones() {
        for word in ["poisson", "constant", "burst", "gamma:0.5"] {
            assert_eq!(word.parse::<Arrival>().unwrap().to_string(), word);
        }
        for word in ["uniform", "gamma:", "gamma:0", "gamma:nan", "gamma:-1", ""] {
            assert!(word.parse::<Arrival>().unwrap_err().to_string().contains("gamma:SHAPE"), "{word}");
        }
    }
}
