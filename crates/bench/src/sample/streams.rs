//! Many requests in one engine, side by side and without a server: what batching, chunks, the prefix cache and the
//! scheduling policy do, apart from HTTP.

use std::time::Duration;

use tamp_base::ids::{TenantId, Token};
use tamp_base::record::{RequestRun, Streams, TenantRun};
use tamp_engine::outlet::{self, Receiver};
use tamp_engine::request::Who;
use tamp_engine::{EngineError, Event, Request};
use tamp_kernels::device::Device;
use tamp_text::Special;

use super::{Ask, request, told};
use crate::prompt::{PROSE, Prompt};
use crate::serve::draw::Draw;
use crate::{BenchError, Subject};

/// An engine that schedules nobody for so long, though somebody waits, never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests side by side.
#[derive(Clone, Debug)]
pub struct Together {
    /// requests under way at once
    pub streams: usize,
    /// requests in all
    pub requests: usize,
    /// tokens that all prompts begin with
    pub shared: usize,
    /// tokens of each prompt behind those: fewest and most
    pub own: (usize, usize),
    /// who asks; empty: one caller
    pub callers: Vec<Caller>,
}

/// One of several callers.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// its name
    pub name: String,
    /// its share of requests, against the others'
    pub load: f64,
    /// its share of service, against the others'
    pub weight: f64,
}

impl std::str::FromStr for Caller {
    type Err = BenchError;

    fn from_str(s: &str) -> Result<Self, BenchError> {
        let no = || {
            BenchError::Ask(format!(
                "`{s}` is no tenant; write NAME=LOAD or NAME=LOAD:WEIGHT, numbers above 0"
            ))
        };
        let (name, rest) = s.split_once('=').ok_or_else(no)?;
        let (load, weight) = rest.split_once(':').unwrap_or((rest, "1"));
        let number = |t: &str| t.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0).ok_or_else(no);
        Ok(Caller { name: name.into(), load: number(load)?, weight: number(weight)? })
    }
}

/// A request of a side-by-side run.
pub(super) struct Asked {
    pub prompt: Prompt,
    caller: usize,
}

/// A request under way.
struct Open {
    at: usize,
    events: Receiver,
    text: String,
    begun: bool,
}

impl Together {
    /// The longest prompt with its answer, positions.
    pub fn positions(&self, max_tokens: usize) -> usize {
        self.shared + self.own.1 + max_tokens
    }

    /// All requests in the order they are handed in: the same for every arm of a seed.
    pub(super) fn asked<D: Device>(&self, s: &Subject<'_, D>, ask: &Ask) -> Result<Vec<Asked>, BenchError> {
        let (fewest, most) = self.own;
        if self.streams == 0 || self.requests == 0 || fewest == 0 || fewest > most {
            return Err(BenchError::Ask(
                "--streams and --requests are 1 at least, --stream-tokens FEWEST-MOST with 1 ≤ FEWEST ≤ MOST"
                    .into(),
            ));
        }
        let tokenizer = s.engine.tokenizer();
        let bos = tokenizer.adds_bos().then(|| tokenizer.bos()).flatten();
        let text = tokenizer.encode(PROSE, Special::Plain, false);
        let want = self.shared.saturating_add(most).saturating_add(1);
        if text.len() < want {
            return Err(BenchError::Text { have: text.len(), want });
        }
        // Evenly mixed rather than drawn: a light caller of a short run must not be left without requests by chance.
        let all: f64 = self.callers.iter().map(|c| c.load).sum();
        let mut owed = vec![0.0; self.callers.len()];
        let mut turn = || {
            owed.iter_mut().zip(&self.callers).for_each(|(o, c)| *o += c.load);
            let most = (0..owed.len()).max_by(|&a, &b| owed[a].total_cmp(&owed[b]).then(b.cmp(&a)))?;
            owed[most] -= all;
            Some(most)
        };
        let draw = |i: usize| {
            let mut draw = Draw::keyed(ask.params.seed, i as u64);
            let len = draw.within(self.own);
            let from = self.shared + draw.below(text.len() - self.shared - len);
            let own: &[Token] = &text[from..from + len];
            let ids = bos.into_iter().chain(text[..self.shared].iter().copied()).chain(own.iter().copied());
            let prompt = Prompt { name: format!("stream-{i:04}"), ids: ids.collect() };
            Asked { prompt, caller: turn().unwrap_or(0) }
        };
        Ok((0..self.requests).map(draw).collect())
    }

    fn who(&self, caller: usize) -> Who {
        let Some(c) = self.callers.get(caller) else { return Who::default() };
        // Weights are small numbers somebody typed.
        Who { tenant: TenantId(caller as u32 + 1), weight: c.weight as f32, ..Who::default() }
    }

    /// Runs them, `streams` at a time, and gives their records in the order they were handed in.
    pub(super) fn run<D: Device>(
        &self,
        s: &mut Subject<'_, D>,
        all: &[Asked],
        ask: &Ask,
    ) -> Result<(Vec<RequestRun>, Streams), BenchError> {
        let clock = s.clock();
        let mut tenants: Vec<TenantRun> = self
            .callers
            .iter()
            .enumerate()
            .map(|(i, c)| TenantRun {
                name: c.name.clone(),
                weight: c.weight,
                requests: all.iter().filter(|a| a.caller == i).count(),
                served: 0,
            })
            .collect();
        if let Some(t) = tenants.iter().find(|t| t.requests == 0) {
            return Err(BenchError::Ask(format!(
                "tenant {} has none of {} requests; give more --requests or it a larger load",
                t.name,
                all.len()
            )));
        }
        let mut left: Vec<usize> = tenants.iter().map(|t| t.requests).collect();
        let mut runs: Vec<Option<RequestRun>> = (0..all.len()).map(|_| None).collect();
        let (mut open, mut next): (Vec<Open>, usize) = (Vec::new(), 0);
        let start = clock.now();
        let (mut moved, mut last, mut steps) = (start, start, 0);
        while next < all.len() || !open.is_empty() {
            while open.len() < self.streams && next < all.len() {
                let (sender, events) = outlet::channel(usize::MAX);
                let a = &all[next];
                let received = Some(clock.now());
                let request = Request { received, who: self.who(a.caller), ..request(&a.prompt, ask) };
                s.engine.submit(request, Box::new(sender))?;
                open.push(Open { at: next, events, text: String::new(), begun: false });
                next += 1;
            }
            s.engine.step()?;
            let now = clock.now();
            let contended = left.iter().all(|&n| n > 0);
            let mut ended = Vec::new();
            for (place, o) in open.iter_mut().enumerate() {
                let caller = all[o.at].caller;
                while let Some(event) = o.events.try_recv() {
                    match event {
                        Event::Token { text, .. } => {
                            o.text.push_str(&text);
                            if let Some(t) = tenants.get_mut(caller).filter(|_| contended) {
                                t.served += 1 + if o.begun { 0 } else { all[o.at].prompt.ids.len() as u64 };
                            }
                            o.begun = true;
                        }
                        Event::Text(text) => o.text.push_str(&text),
                        Event::Done(answer) => {
                            let text = std::mem::take(&mut o.text);
                            runs[o.at] = Some(told(&all[o.at].prompt, text, *answer, ask)?);
                            ended.push(place);
                            last = now;
                        }
                    }
                }
            }
            for place in ended.into_iter().rev() {
                let o = open.swap_remove(place);
                if let Some(n) = left.get_mut(all[o.at].caller) {
                    *n -= 1;
                }
            }
            let forwards = s.engine.stats().work.target_forwards;
            if std::mem::replace(&mut steps, forwards) != forwards {
                moved = now;
            } else if now.saturating_sub(moved) > PATIENCE {
                return Err(EngineError::Stalled.into());
            }
        }
        let wall_ns = (last - start).as_nanos() as u64;
        Ok((runs.into_iter().flatten().collect(), Streams { concurrency: self.streams, wall_ns, tenants }))
    }
}
