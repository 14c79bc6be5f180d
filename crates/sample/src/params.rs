//! What a request may ask of the chain.

use serde::Serialize;
use tamp_base::ids::Token;

use crate::SampleError;

/// Sampling parameters. The default is greedy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Params {
    /// divides the logits; 0 = the best token after bias and penalties
    pub temperature: f32,
    /// keep the k best; 0 = off
    pub top_k: usize,
    /// keep the smallest set of best tokens with this probability; 1 = off
    pub top_p: f32,
    /// keep tokens with at least this fraction of the best probability; 0 = off
    pub min_p: f32,
    /// divides positive and multiplies negative logits of tokens seen in prompt or answer; 1 = off
    pub repetition_penalty: f32,
    /// subtracted from the logits of tokens in the answer; 0 = off
    pub presence_penalty: f32,
    /// subtracted once per occurrence in the answer; 0 = off
    pub frequency_penalty: f32,
    /// added to the logits of single tokens
    pub logit_bias: Vec<(Token, f32)>,
    /// key of the noise
    pub seed: u64,
    /// index of the answer when a request wants several
    pub choice: u32,
    /// log-probabilities of this many best tokens, from the raw logits; `None` = none at all
    pub logprobs: Option<usize>,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            choice: 0,
            logprobs: None,
        }
    }
}

/// Longest `logprobs` list.
pub const MAX_LOGPROBS: usize = 64;

impl Params {
    /// Refuses the first field out of its range, by name.
    pub fn check(&self, vocab: usize) -> Result<(), SampleError> {
        let range = |field, v: f32, ok: bool, want: &str| {
            if ok && v.is_finite() {
                return Ok(());
            }
            Err(SampleError::Range { field, got: v.to_string(), want: want.into() })
        };
        let within = |field, v: f32, lo: f32, hi: f32| {
            range(field, v, (lo..=hi).contains(&v), &format!("a number from {lo} to {hi}"))
        };
        within("temperature", self.temperature, 0.0, 100.0)?;
        let p = self.top_p;
        range("top_p", p, p > 0.0 && p <= 1.0, "a number above 0, up to 1")?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        let r = self.repetition_penalty;
        range("repetition_penalty", r, r > 0.0 && r <= 100.0, "a number above 0, up to 100")?;
        within("presence_penalty", self.presence_penalty, -10.0, 10.0)?;
        within("frequency_penalty", self.frequency_penalty, -10.0, 10.0)?;
        for &(token, bias) in &self.logit_bias {
            within("logit_bias", bias, -100.0, 100.0)?;
            if token as usize >= vocab {
                let want = format!("a token id below {vocab}");
                return Err(SampleError::Range { field: "logit_bias", got: token.to_string(), want });
            }
        }
        if let Some(n) = self.logprobs.filter(|&n| n > MAX_LOGPROBS) {
            let want = format!("at most {MAX_LOGPROBS}");
            return Err(SampleError::Range { field: "logprobs", got: n.to_string(), want });
        }
        Ok(())
    }

    /// Whether tokens already seen change later logits.
    pub fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Whether the head's best token is the answer, so that nobody needs all logits.
    pub fn is_plain_greedy(&self) -> bool {
        self.temperature == 0.0 && !self.penalises() && self.logit_bias.is_empty() && self.logprobs.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_parameter_is_named_with_its_range() {
        let refuse = |change: fn(&mut Params), want: &str| {
            let mut p = Params::default();
            change(&mut p);
            assert_eq!(p.check(10).unwrap_err().to_string(), want);
        };
        refuse(
            |p| p.temperature = -0.5,
            "temperature = -0.5 is out of range; expected a number from 0 to 100",
        );
        refuse(
            |p| p.temperature = f32::NAN,
            "temperature = NaN is out of range; expected a number from 0 to 100",
        );
        refuse(|p| p.top_p = 0.0, "top_p = 0 is out of range; expected a number above 0, up to 1");
        refuse(|p| p.min_p = 1.5, "min_p = 1.5 is out of range; expected a number from 0 to 1");
        refuse(
            |p| p.logit_bias = vec![(10, 1.0)],
            "logit_bias = 10 is out of range; expected a token id below 10",
        );
        refuse(|p| p.logprobs = Some(65), "logprobs = 65 is out of range; expected at most 64");
        assert!(Params::default().check(10).is_ok());
    }
}
