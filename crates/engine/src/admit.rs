//! From a request to a sequence: what is refused, and what a sequence starts as.

use std::time::Duration;

use tamp_base::ids::{PAGE, SeqId};
use tamp_kv::{Device, PrefixKey};
use tamp_sample::{Chain, Matcher};

use crate::Engine;
use crate::error::EngineError;
use crate::forecast::{Forecaster, Known};
use crate::outlet::{Nobody, Outlet};
use crate::policy::Line;
use crate::request::{Request, Task, Timings, Usage};
use crate::seq::{Ask, Goal, Pool, Seq, Speech};

impl<D: Device> Engine<D> {
    /// Takes a request, or refuses it in one sentence. Its events go to `outlet`.
    pub fn submit(&mut self, request: Request, outlet: Box<dyn Outlet>) -> Result<SeqId, EngineError> {
        if self.seqs.len() >= self.queue {
            return Err(EngineError::Queue { waiting: self.seqs.len() });
        }
        self.check(&request)?;
        self.admit(request, outlet)
    }

    /// Whether a request can be answered at all.
    pub fn check(&self, request: &Request) -> Result<(), EngineError> {
        let (vocab, ctx, prompt) = (self.models[0].shape.vocab, self.ctx, request.prompt.len());
        if prompt == 0 {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt >= ctx {
            return Err(EngineError::Prompt { prompt, ctx });
        }
        if let Some(max_tokens) = request.max_tokens
            && prompt.saturating_add(max_tokens) > ctx
        {
            return Err(EngineError::TooLong { prompt, max_tokens, ctx });
        }
        if request.max_tokens == Some(0) {
            return Err(EngineError::Option { name: "max_tokens", got: 0, why: "ask for at least 1".into() });
        }
        if let Some(&token) = request.prompt.iter().find(|&&t| t as usize >= vocab) {
            return Err(EngineError::Token { token, vocab });
        }
        request.think.as_ref().map_or(Ok(()), |t| t.check(vocab))?;
        let tokens = self.limit(request);
        let (need, total) = (tokens.div_ceil(PAGE), self.kv.total());
        if need > total {
            return Err(EngineError::Pool { tokens, need, total });
        }
        request.params.check(vocab)?;
        Matcher::new(&request.stop)?;
        Ok(())
    }

    fn limit(&self, request: &Request) -> usize {
        request.max_tokens.map_or(self.ctx, |n| request.prompt.len() + n)
    }

    pub(crate) fn admit(&mut self, request: Request, outlet: Box<dyn Outlet>) -> Result<SeqId, EngineError> {
        let root = self.roots.of(&request.who.namespace);
        let goal = match request.task {
            Task::Generate => Goal::Answer,
            Task::Embed => Goal::Embed(Pool::default()),
        };
        self.admit_for(request, outlet, root, goal)
    }

    /// A sequence for nobody: its pages are wanted under `root`.
    pub(crate) fn admit_warm(&mut self, root: PrefixKey, request: Request) -> Result<SeqId, EngineError> {
        self.admit_for(request, Box::new(Nobody), root, Goal::Keep)
    }

    fn admit_for(
        &mut self,
        request: Request,
        outlet: Box<dyn Outlet>,
        root: PrefixKey,
        goal: Goal,
    ) -> Result<SeqId, EngineError> {
        let (params, vocab) = (request.params.clone(), self.models[0].shape.vocab);
        let chain = match &request.constraint {
            Some(g) => Chain::with_constraint(params, &request.prompt, vocab, g)?,
            None => Chain::new(params, &request.prompt, vocab)?,
        };
        let speech = Speech::new(Matcher::new(&request.stop)?, request.ignore_eos);
        let received = request.received.unwrap_or_else(|| self.clock.now()).as_nanos() as u64;
        let id = self.kv.open();
        let seq = Seq {
            id,
            limit: self.limit(&request),
            prompt: request.prompt.len(),
            tokens: request.prompt,
            chain,
            speech,
            outlet,
            cancel: request.cancel,
            timings: Timings { received_ns: received, ..Timings::default() },
            usage: Usage::default(),
            ask: Ask {
                root,
                explain: request.explain_cache,
                who: request.who,
                goal,
                fetched: false,
                deadline: request.deadline,
                trace: if request.trace == 0 { id.0 + 1 } else { request.trace },
            },
        };
        if let Some(think) = request.think {
            self.gates.think(id, think);
        }
        self.seqs.insert(id, seq);
        Ok(id)
    }
}

impl Seq {
    pub(crate) fn known(&self) -> Known {
        Known { prompt: self.prompt, said: self.tokens.len() - self.prompt }
    }

    pub(crate) fn line(&self, forecast: &Forecaster, held: bool) -> Line {
        let who = &self.ask.who;
        Line {
            seq: self.id,
            tokens: self.tokens.len(),
            prompt: self.prompt,
            limit: self.limit,
            ready: self.outlet.ready(),
            held,
            tenant: who.tenant,
            weight: who.weight,
            most_running: who.most_running,
            priority: who.priority,
            received: Duration::from_nanos(self.timings.received_ns),
            deadline: self.ask.deadline,
            expect: forecast.rest(self.known()),
        }
    }
}
