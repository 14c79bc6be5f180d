//! Mirostat, version 2: only tokens below a surprise are drawn, and that surprise is moved so that the answer's comes to
//! what was asked for (Basu et al., arXiv 2007.14966; version 2 as in the authors' code).

use std::cell::RefCell;

use tamp_base::ids::Token;

use crate::filter::{Candidate, best_of, weight};

/// The state of one sequence. It advances along committed tokens; what drawing after a draft's path would do to it is
/// kept aside until those tokens are committed.
#[derive(Clone, Debug)]
pub(crate) struct Mirostat {
    tau: f64,
    eta: f64,
    /// largest surprise that may be drawn, bits
    mu: f64,
    /// the path last drawn along: each token and the surprise allowed after it
    ahead: RefCell<Vec<(Token, f64)>>,
}

impl Mirostat {
    pub fn new(tau: f32, eta: f32) -> Self {
        let tau = f64::from(tau);
        Self { tau, eta: f64::from(eta), mu: 2.0 * tau, ahead: RefCell::default() }
    }

    /// The surprise allowed after `path`. A path that was never drawn, such as a guess nobody judged, leaves the
    /// committed one.
    fn allowed(&self, path: &[Token]) -> f64 {
        let ahead = self.ahead.borrow();
        let drawn = path.len() <= ahead.len() && ahead.iter().zip(path).all(|(a, &t)| a.0 == t);
        match path.len() {
            n if n > 0 && drawn => ahead[n - 1].1,
            _ => self.mu,
        }
    }

    /// Keeps the tokens that may be drawn after `path`; the best one always.
    pub fn keep(&self, path: &[Token], list: &mut Vec<Candidate>) {
        let allowed = self.allowed(path);
        let max = best_of(list);
        let total: f64 = list.iter().map(|c| weight(c.0 - max)).sum();
        list.retain(|c| {
            let p = weight(c.0 - max) / total;
            c.0 == max || (p > 0.0 && -libm::log2(p) <= allowed)
        });
    }

    /// Notes what was drawn of the tokens kept after `path`.
    pub fn drawn(&self, path: &[Token], list: &[Candidate], token: Token) {
        let max = best_of(list);
        let total: f64 = list.iter().map(|c| weight(c.0 - max)).sum();
        let Some(c) = list.iter().find(|c| c.1 == token) else { return };
        let surprise = -libm::log2(weight(c.0 - max) / total);
        let next = self.allowed(path) - self.eta * (surprise - self.tau);
        let mut ahead = self.ahead.borrow_mut();
        if path.len() <= ahead.len() && ahead.iter().zip(path).all(|(a, &t)| a.0 == t) {
            ahead.truncate(path.len());
            ahead.push((token, next));
        }
    }

    /// Takes a committed token in.
    pub fn advance(&mut self, token: Token) {
        let ahead = self.ahead.get_mut();
        match ahead.first() {
            Some(&(t, mu)) if t == token => {
                self.mu = mu;
                ahead.remove(0);
            }
            _ => ahead.clear(),
        }
    }
}
