//! The logits chain, in this order:
//!
//! | stage | what it does |
//! |---|---|
//! | constraint | rules out what the grammar does not allow |
//! | bias, penalties | repetition, then presence and frequency |
//! | DRY | punishes what would prolong a repeated sequence |
//! | (temperature 0) | the best token is the answer |
//! | temperature | divides |
//! | mirostat | in place of the next six |
//! | top-nσ, top-k, typical, top-p, min-p | each keeps a part of what the one before kept |
//! | XTC | by a coin of (seed, choice, position), leaves the likeliest out |
//! | Gumbel-max | draws |
//!
//! A chain belongs to a sequence. Its state (which tokens were seen, where the grammar stands, mirostat's surprise) advances
//! along committed tokens only; judging a draft passes the path as an overlay and changes nothing.

use std::cell::RefCell;
use std::collections::HashMap;

use tamp_base::ids::Token;
use tamp_text::grammar::{Grammar, State};

use crate::dry;
use crate::filter::{Candidate, best_of, exclude_top, min_p, sigma_floor, top_k, top_p, typical, weight};
use crate::mirostat::Mirostat;
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
    /// prompt and answer. Empty when repeated sequences go unpunished
    context: Vec<Token>,
    mirostat: Option<Mirostat>,
    constraint: Option<Constraint>,
}

/// Where the sequence stands in its grammar.
#[derive(Clone, Debug)]
struct Constraint {
    /// moved along a path and back by every question
    state: RefCell<State>,
    /// a token was committed that the grammar does not allow
    lost: Option<String>,
}

impl Chain {
    /// A chain whose penalties know the prompt.
    pub fn new(params: Params, prompt: &[Token], vocab: usize) -> Result<Chain, SampleError> {
        params.check(vocab)?;
        let noise = Noise::new(params.seed, params.choice);
        let seen = if params.penalises() { prompt.iter().map(|&t| (t, 0)).collect() } else { HashMap::new() };
        let context = if params.dry() { prompt.to_vec() } else { Vec::new() };
        let mirostat =
            (params.mirostat == 2).then(|| Mirostat::new(params.mirostat_tau, params.mirostat_eta));
        Ok(Chain { params, noise, bounds: bounds(), seen, context, mirostat, constraint: None })
    }

    /// A chain whose answer stays inside a grammar, from its first token on.
    pub fn with_constraint(
        params: Params,
        prompt: &[Token],
        vocab: usize,
        grammar: &Grammar,
    ) -> Result<Chain, SampleError> {
        let constraint = Constraint { state: RefCell::new(grammar.start()), lost: None };
        Ok(Chain { constraint: Some(constraint), ..Chain::new(params, prompt, vocab)? })
    }

    /// Whether the constraint leaves nothing but an end token after the committed tokens: the answer is whole, and may end
    /// here without another forward pass.
    pub fn must_end(&self) -> bool {
        self.constraint.as_ref().is_some_and(|c| c.lost.is_none() && c.state.borrow().must_end())
    }

    /// Tokens that spell what the constraint forces after the committed tokens and `path`, as a guess to be judged like any
    /// other; empty without a constraint.
    pub fn forced(&self, path: &[Token]) -> Vec<Token> {
        let state = self.constraint.as_ref().map(|c| c.state.borrow_mut().forced(path));
        // Where the grammar cannot say, there is nothing to guess; choosing says why.
        state.and_then(Result::ok).unwrap_or_default()
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Whether [`Chain::choose`] needs all logits; otherwise the head's best token does.
    pub fn needs_full(&self) -> bool {
        self.constraint.is_some() || !self.params.is_plain_greedy()
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
        self.constrain(path, logits, position)?;
        for &(token, bias) in &self.params.logit_bias {
            if let Some(x) = logits.get_mut(token as usize) {
                *x += bias;
            }
        }
        self.penalise(path, logits);
        dry::punish(&self.params, &self.context, path, logits);
        let (best, max) = argmax(logits);
        if max == f32::NEG_INFINITY {
            return Err(SampleError::Empty { position });
        }
        let token = match self.params.temperature {
            0.0 => best,
            t => self.draw(path, logits, (best, max), f64::from(t), self.noise.at(position)),
        };
        Ok(Choice { token, logprobs: raw.map(|r| r.take(token)) })
    }

    /// Records a committed token.
    pub fn advance(&mut self, token: Token) {
        if self.params.penalises() {
            *self.seen.entry(token).or_insert(0) += 1;
        }
        if self.params.dry() {
            self.context.push(token);
        }
        if let Some(m) = &mut self.mirostat {
            m.advance(token);
        }
        if let Some(c) = &mut self.constraint
            && let Err(e) = c.state.get_mut().advance(token)
        {
            c.lost.get_or_insert(e.to_string());
        }
    }

    fn constrain(&self, path: &[Token], logits: &mut [f32], position: usize) -> Result<(), SampleError> {
        let Some(c) = &self.constraint else { return Ok(()) };
        let fail = |why: String| SampleError::Constraint { position, why };
        if let Some(why) = &c.lost {
            return Err(fail(why.clone()));
        }
        let mask = c.state.borrow_mut().mask(path).map_err(|e| fail(e.to_string()))?;
        mask.apply(logits);
        Ok(())
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
    fn draw(
        &self,
        path: &[Token],
        logits: &[f32],
        (best, max): (Token, f32),
        temperature: f64,
        noise: Row,
    ) -> Token {
        let scale = 1.0 / temperature;
        let max = f64::from(max) * scale;
        let all = logits.iter().enumerate().map(|(t, &x)| (f64::from(x) * scale, t as Token));
        if let Some(m) = &self.mirostat {
            let mut list: Vec<Candidate> = all.collect();
            m.keep(path, &mut list);
            let token = self.pick(&list, (max, best), noise);
            m.drawn(path, &list, token);
            return token;
        }
        let Params { top_k: k, top_p: p, min_p: m, .. } = self.params;
        let (p, m) = (f64::from(p), f64::from(m));
        let (sigma, near) = (f64::from(self.params.top_n_sigma), f64::from(self.params.typical_p));
        let exclude = f64::from(self.params.xtc_probability);
        if k == 0 && p >= 1.0 && m == 0.0 && sigma == 0.0 && near >= 1.0 && exclude == 0.0 {
            let mut winner = Winner::new(&self.bounds, noise, (max, best));
            all.for_each(|c| winner.offer(c));
            return winner.token;
        }
        let floor = sigma_floor(all.clone().map(|c| c.0), sigma, max);
        let all = all.filter(|c| c.0 >= floor);
        let mut list = if k == 0 && near >= 1.0 {
            top_p(all, p, max)
        } else {
            let mut list = top_k(all, k);
            list.sort_unstable_by_key(|c| c.1);
            typical(&mut list, near);
            top_p(list.iter().copied(), p, best_of(&list))
        };
        let max = best_of(&list);
        min_p(&mut list, m, max);
        if exclude > 0.0 && noise.coin() < exclude {
            exclude_top(&mut list, f64::from(self.params.xtc_threshold));
        }
        self.pick(&list, (max, best), noise)
    }

    /// Gumbel-max over a list; `or` where it is empty.
    fn pick(&self, list: &[Candidate], or: Candidate, noise: Row) -> Token {
        let mut winner = Winner::new(&self.bounds, noise, list.first().copied().unwrap_or(or));
        list.iter().for_each(|&c| winner.offer(c));
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
