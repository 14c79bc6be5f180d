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
    /// keeps tokens within this many standard deviations of the best logit; 0 = all (top-nσ, arXiv 2411.07641)
    pub top_n_sigma: f32,
    /// keeps the tokens whose surprise is nearest to the expected one, up to this probability; 1 = all (locally typical
    /// sampling, arXiv 2202.00666)
    pub typical_p: f32,
    /// how often the likeliest tokens are left out; 0 = never (XTC, "exclude top choices", text-generation-webui)
    pub xtc_probability: f32,
    /// the probability that makes a token one of the likeliest; all of them but the least likely are left out
    pub xtc_threshold: f32,
    /// punishes a token that would prolong a repeated sequence; 0 = not (DRY, "don't repeat yourself",
    /// text-generation-webui)
    pub dry_multiplier: f32,
    /// the punishment grows by this factor with each token of the repetition
    pub dry_base: f32,
    /// repetitions shorter than this are free, tokens
    pub dry_allowed_length: usize,
    /// how many of the last tokens are searched, prompt included; `None` = all
    pub dry_last_n: Option<usize>,
    /// tokens that no repetition runs across, see [`crate::dry::breakers`]
    pub dry_breakers: Vec<Token>,
    /// 2 = mirostat, version 2, keeps the surprise of the answer at `mirostat_tau` (arXiv 2007.14966); 0 = not
    pub mirostat: u32,
    /// the surprise aimed at, bits per token
    pub mirostat_tau: f32,
    /// how fast it is corrected
    pub mirostat_eta: f32,
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
            top_n_sigma: 0.0,
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_last_n: None,
            dry_breakers: Vec::new(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
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
        within("top_n_sigma", self.top_n_sigma, 0.0, 100.0)?;
        let p = self.typical_p;
        range("typical_p", p, p > 0.0 && p <= 1.0, "a number above 0, up to 1")?;
        within("xtc_probability", self.xtc_probability, 0.0, 1.0)?;
        // Above a half no two tokens can reach it.
        within("xtc_threshold", self.xtc_threshold, 0.0, 0.5)?;
        within("dry_multiplier", self.dry_multiplier, 0.0, 100.0)?;
        within("dry_base", self.dry_base, 1.0, 100.0)?;
        let n = self.dry_allowed_length;
        range("dry_allowed_length", n as f32, (1..=1 << 20).contains(&n), "1 to 1048576")?;
        if let Some(&t) = self.dry_breakers.iter().find(|&&t| t as usize >= vocab) {
            let want = format!("token ids below {vocab}");
            return Err(SampleError::Range { field: "dry_breakers", got: t.to_string(), want });
        }
        let tau = self.mirostat_tau;
        range("mirostat_tau", tau, tau > 0.0 && tau <= 100.0, "a number above 0, up to 100")?;
        within("mirostat_eta", self.mirostat_eta, 0.0, 1.0)?;
        self.check_together()
    }

    /// Fields that cannot act together: one of them would be ignored in silence.
    fn check_together(&self) -> Result<(), SampleError> {
        let refuse =
            |field, got: String, want: &str| Err(SampleError::Range { field, got, want: want.into() });
        let cold = self.temperature == 0.0;
        let mirostat = self.mirostat;
        match mirostat {
            0 => {}
            2 if cold => return refuse("mirostat", "2".into(), "0 at temperature 0, where nothing is drawn"),
            2 => {
                let others = [
                    ("top_k", self.top_k != 0),
                    ("top_p", self.top_p < 1.0),
                    ("min_p", self.min_p != 0.0),
                    ("top_n_sigma", self.top_n_sigma != 0.0),
                    ("typical_p", self.typical_p < 1.0),
                    ("xtc_probability", self.xtc_probability != 0.0),
                ];
                if let Some((other, _)) = others.iter().find(|o| o.1) {
                    return refuse(
                        "mirostat",
                        "2".into(),
                        &format!("0 beside {other}, whose place it takes"),
                    );
                }
            }
            n => return refuse("mirostat", n.to_string(), "0 or 2"),
        }
        if cold && self.xtc_probability > 0.0 {
            let want = "0 at temperature 0, where the best token is the answer";
            return refuse("xtc_probability", self.xtc_probability.to_string(), want);
        }
        if cold && self.typical_p < 1.0 {
            let want = "1 at temperature 0, where the best token is the answer";
            return refuse("typical_p", self.typical_p.to_string(), want);
        }
        Ok(())
    }

    /// Whether repeated sequences are punished.
    pub fn dry(&self) -> bool {
        self.dry_multiplier > 0.0 && self.dry_last_n != Some(0)
    }

    /// Whether tokens already seen change later logits.
    pub fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Whether the head's best token is the answer, so that nobody needs all logits.
    pub fn is_plain_greedy(&self) -> bool {
        self.temperature == 0.0
            && !self.penalises()
            && !self.dry()
            && self.logit_bias.is_empty()
            && self.logprobs.is_none()
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
        refuse(|p| p.typical_p = 0.0, "typical_p = 0 is out of range; expected a number above 0, up to 1");
        refuse(
            |p| p.xtc_threshold = 0.6,
            "xtc_threshold = 0.6 is out of range; expected a number from 0 to 0.5",
        );
        refuse(|p| p.dry_base = 0.5, "dry_base = 0.5 is out of range; expected a number from 1 to 100");
        refuse(
            |p| p.dry_breakers = vec![3, 11],
            "dry_breakers = 11 is out of range; expected token ids below 10",
        );
        refuse(|p| p.mirostat = 1, "mirostat = 1 is out of range; expected 0 or 2");
        assert!(Params::default().check(10).is_ok());
    }

    #[test]
    fn fields_that_would_be_ignored_are_refused() {
        let refused = |p: Params, want: &str| assert_eq!(p.check(10).unwrap_err().to_string(), want);
        let warm = Params { temperature: 1.0, ..Params::default() };
        let both = Params { mirostat: 2, top_p: 0.9, ..warm.clone() };
        refused(both, "mirostat = 2 is out of range; expected 0 beside top_p, whose place it takes");
        let cold = Params { xtc_probability: 0.5, ..Params::default() };
        refused(
            cold,
            "xtc_probability = 0.5 is out of range; expected 0 at temperature 0, where the best token is the answer",
        );
        assert!(Params { typical_p: 0.5, ..Params::default() }.check(10).is_err());
        assert!(Params { mirostat: 2, ..Params::default() }.check(10).is_err());
        assert!(Params { mirostat: 2, ..warm }.check(10).is_ok());
    }
}
