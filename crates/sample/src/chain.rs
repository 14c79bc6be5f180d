//! The logits chain: bias → penalties → temperature → top-k → top-p → min-p → Gumbel-max.
//!
//! A chain belongs to a sequence. Its state, which tokens were seen, advances along committed tokens only; judging a
//! draft passes the path as an overlay and changes nothing.

use std::collections::HashMap;

use tamp_base::ids::Token;

use crate::filter::{min_p, top_k, top_p, weight};
use crate::noise::{Noise, Row, bounds, gumbel};
use crate::{Params, SampleError};

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// the token
    pub token: Token,
    /// where the request asked for it
    pub logprobs: Option<Logprobs>,
}

/// Natural-log probabilities under the model's own logits, before every stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// of the chosen token
    pub chosen: f32,
    /// the best tokens, best first
    pub top: Vec<(Token, f32)>,
}

/// The chain of one sequence.
#[derive(Clone, Debug)]
pub struct Chain {
    params: Params,
    noise: Noise,
    bounds: [f64; 65],
    /// how often each token occurs in the answer; prompt tokens are there with 0. Empty when nothing is penalised
    seen: HashMap<Token, u32>,
}

impl Chain {
    /// A chain whose penalties know the prompt.
    pub fn new(params: Params, prompt: &[Token], vocab: usize) -> Result<Chain, SampleError> {
        params.check(vocab)?;
        let noise = Noise::new(params.seed, params.choice);
        let seen = if params.penalises() { prompt.iter().map(|&t| (t, 0)).collect() } else { HashMap::new() };
        Ok(Chain { params, noise, bounds: bounds(), seen })
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Whether [`Chain::choose`] needs all logits; otherwise the head's best token does.
    pub fn needs_full(&self) -> bool {
        !self.params.is_plain_greedy()
    }

    /// The choice when the head's best token is enough.
    pub fn take_best(&self, token: Token, nan: bool, position: usize) -> Result<Choice, SampleError> {
        if nan {
            return Err(SampleError::Nan { position });
        }
        Ok(Choice { token, logprobs: None })
    }

    /// Chooses the token at `position` after the committed tokens; `logits` are changed in place.
    pub fn choose(&self, logits: &mut [f32], position: usize) -> Result<Choice, SampleError> {
        self.choose_after(&[], logits, position)
    }

    /// Chooses the token at `position` after the committed tokens and then `path`. Leaves the state as it is, so a
    /// draft can be judged node by node; draft and target meet the same noise.
    pub fn choose_after(
        &self,
        path: &[Token],
        logits: &mut [f32],
        position: usize,
    ) -> Result<Choice, SampleError> {
        if let Some(i) = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
            return Err(SampleError::Logit { token: i as Token, logit: logits[i], position });
        }
        let raw = self.params.logprobs.map(|n| RawLogprobs::of(logits, n));
        for &(token, bias) in &self.params.logit_bias {
            if let Some(x) = logits.get_mut(token as usize) {
                *x += bias;
            }
        }
        self.penalise(path, logits);
        let (best, max) = argmax(logits);
        if max == f32::NEG_INFINITY {
            return Err(SampleError::Empty { position });
        }
        let token = match self.params.temperature {
            0.0 => best,
            t => self.draw(logits, best, f64::from(t), self.noise.at(position)),
        };
        Ok(Choice { token, logprobs: raw.map(|r| r.take(token)) })
    }

    /// Records a committed token.
    pub fn advance(&mut self, token: Token) {
        if self.params.penalises() {
            *self.seen.entry(token).or_insert(0) += 1;
        }
    }

    fn penalise(&self, path: &[Token], logits: &mut [f32]) {
        let p = &self.params;
        if !p.penalises() {
            return;
        }
        let mut one = |token: Token, count: u32| {
            let Some(x) = logits.get_mut(token as usize) else { return };
            *x = if *x > 0.0 { *x / p.repetition_penalty } else { *x * p.repetition_penalty };
            if count > 0 {
                *x -= p.presence_penalty + p.frequency_penalty * count as f32;
            }
        };
        for (&token, &count) in self.seen.iter().filter(|(t, _)| !path.contains(t)) {
            one(token, count);
        }
        for (i, &token) in path.iter().enumerate() {
            if !path[..i].contains(&token) {
                let drafted = path.iter().filter(|&&t| t == token).count() as u32;
                one(token, drafted + self.seen.get(&token).copied().unwrap_or(0));
            }
        }
    }

    /// Gumbel-max over the tokens that the filters leave.
    fn draw(&self, logits: &[f32], best: Token, temperature: f64, noise: Row) -> Token {
        let scale = 1.0 / temperature;
        let max = f64::from(logits[best as usize]) * scale;
        let all = logits.iter().enumerate().map(|(t, &x)| (f64::from(x) * scale, t as Token));
        let mut winner = Winner::new(&self.bounds, noise, (max, best));
        let Params { top_k: k, top_p: p, min_p: m, .. } = self.params;
        let (p, m) = (f64::from(p), f64::from(m));
        if k == 0 && p >= 1.0 && m == 0.0 {
            all.for_each(|c| winner.offer(c));
            return winner.token;
        }
        let mut list = match k {
            0 => top_p(all, p, max),
            k => {
                let mut list = top_k(all, k);
                list.sort_unstable_by_key(|c| c.1);
                top_p(list.iter().copied(), p, max)
            }
        };
        min_p(&mut list, m, max);
        list.into_iter().for_each(|c| winner.offer(c));
        winner.token
    }
}

/// Running maximum of logit + noise; ties go to the lowest id.
///
/// Two logarithms per token of a large vocabulary would cost milliseconds. The number of leading ones of the random
/// bits bounds the noise from above, and almost every token is out by that bound alone.
struct Winner<'a> {
    bounds: &'a [f64; 65],
    noise: Row,
    score: f64,
    token: Token,
}

impl<'a> Winner<'a> {
    fn new(bounds: &'a [f64; 65], noise: Row, first: (f64, Token)) -> Self {
        Winner { bounds, noise, score: first.0 + noise.gumbel(first.1), token: first.1 }
    }

    fn offer(&mut self, (logit, token): (f64, Token)) {
        if logit + self.bounds[64] < self.score {
            return;
        }
        let bits = self.noise.bits(token);
        if logit + self.bounds[bits.leading_ones() as usize] < self.score {
            return;
        }
        let score = logit + gumbel(bits);
        if score > self.score || (score == self.score && token < self.token) {
            (self.score, self.token) = (score, token);
        }
    }
}

/// The largest logit, the lowest id among equals.
fn argmax(logits: &[f32]) -> (Token, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &x) in logits.iter().enumerate() {
        if x > best.1 {
            best = (i as Token, x);
        }
    }
    best
}

/// Log-probabilities taken before the stages change the logits.
struct RawLogprobs {
    logits: Vec<f32>,
    log_sum: f64,
    top: Vec<(Token, f32)>,
}

impl RawLogprobs {
    fn of(logits: &[f32], n: usize) -> Self {
        let max = f64::from(argmax(logits).1);
        let log_sum = max + libm::log(logits.iter().map(|&x| weight(f64::from(x) - max)).sum::<f64>());
        let all = logits.iter().enumerate().map(|(t, &x)| (f64::from(x), t as Token));
        let mut list = if n > 0 { top_k(all, n) } else { Vec::new() };
        list.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let top = list.iter().map(|&(x, t)| (t, (x - log_sum) as f32)).collect();
        RawLogprobs { logits: logits.to_vec(), log_sum, top }
    }

    fn take(self, token: Token) -> Logprobs {
        let chosen = self
            .logits
            .get(token as usize)
            .map_or(f32::NEG_INFINITY, |&x| (f64::from(x) - self.log_sum) as f32);
        Logprobs { chosen, top: self.top }
    }
}
