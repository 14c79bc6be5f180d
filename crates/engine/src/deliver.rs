//! The two ends of a step: what comes in, what goes out. Neither blocks.

use std::time::Duration;

use tamp_base::ids::SeqId;
use tamp_base::span::{Kind, Span};
use tamp_kv::Device;
use tamp_sample::{FinishReason, SampleError};
use tamp_spec::SpecError;

use crate::Engine;
use crate::error::{Cause, EngineError, Failure};
use crate::intake::Letter;
use crate::request::{Answer, Event, Request, Timings, Usage};
use crate::turn::Outcome;

impl<D: Device> Engine<D> {
    /// Takes in new requests and lets go of those that nobody wants any more.
    pub(crate) fn take_in(&mut self) {
        while self.seqs.len() < self.queue {
            let Some(letter) = self.mail.try_take() else { break };
            self.open_letter(letter);
        }
        let gone: Vec<SeqId> = self
            .seqs
            .values()
            .filter(|s| s.cancel.is_cancelled() || s.outlet.closed())
            .map(|s| s.id)
            .collect();
        gone.into_iter().for_each(|id| self.finish(id, FinishReason::Cancelled, None));
        let now = self.clock.now();
        let late: Vec<SeqId> =
            self.seqs.values().filter(|s| s.ask.deadline.is_some_and(|d| d <= now)).map(|s| s.id).collect();
        late.into_iter().for_each(|id| self.finish(id, FinishReason::Deadline, None));
    }

    /// Sleeps until a request comes in or time is up; for a loop that has nothing to schedule.
    pub fn wait(&mut self, timeout: Duration) {
        if let Some(letter) = self.mail.take_within(timeout) {
            self.open_letter(letter);
        }
    }

    fn open_letter(&mut self, Letter { request, mut outlet, received }: Letter) {
        let request = Request { received: request.received.or(Some(received)), ..request };
        let short = self.aside.eased.refuse_s;
        let checked =
            if short > 0 { Err(EngineError::Short { retry_s: short }) } else { self.check(&request) };
        if let Err(refusal) = checked {
            outlet.give(Event::Done(Box::new(refused(request, &refusal))));
            return;
        }
        // Checked just now, so it cannot be refused; the answer would be lost with the outlet.
        let _ = self.admit(request, outlet);
    }

    /// Gives out the new tokens of every sequence: stop rules, text, events.
    pub(crate) fn give_out(&mut self, kept: Vec<Outcome>) {
        let now = self.now_ns();
        for Outcome { seq: id, verdict } in kept {
            let verdict = match verdict {
                Ok(v) => v,
                Err(e) => {
                    let cause = match e {
                        // A grammar that cannot go on within its bounds was the request's.
                        SpecError::Sample(SampleError::Constraint { .. }) => Cause::Request,
                        SpecError::Sample(_) => Cause::Model,
                        SpecError::Missing { .. } => Cause::Internal,
                    };
                    self.finish(id, FinishReason::Error, Some(Failure { cause, message: e.to_string() }));
                    continue;
                }
            };
            let Some(seq) = self.seqs.get_mut(&id) else { continue };
            self.aside.trace.kept(seq.ask.trace, verdict.choices.len());
            let whole = !seq.ask.goal.answers() && self.kv.len(id) == seq.tokens.len();
            let mut end = whole.then_some(FinishReason::Stop);
            for (i, choice) in verdict.choices.into_iter().enumerate() {
                let token = choice.token;
                arrival(&mut seq.timings, now, i > 0);
                if seq.speech.ends(&self.tokenizer, token) {
                    end = Some(FinishReason::Stop);
                    break;
                }
                seq.tokens.push(token);
                let (text, stopped) = seq.speech.say(&self.tokenizer, token);
                let full = seq.tokens.len() >= seq.limit;
                seq.outlet.give(Event::Token { token, text, logprobs: choice.logprobs });
                if stopped || full {
                    end = Some(if stopped { FinishReason::Stop } else { FinishReason::Length });
                    break;
                }
                end = self.gates.end_thought(seq, &self.tokenizer, token);
                if end.is_some() {
                    break;
                }
            }
            // A constraint that nothing can follow, where the model has no end token to say so.
            let end = end.or_else(|| seq.chain.must_end().then_some(FinishReason::Stop));
            if let Some(reason) = end {
                self.finish(id, reason, None);
            }
        }
        self.aside.turned(self.clock.now());
    }

    /// Ends a sequence: pages back, techniques forget it, the answer goes out.
    pub(crate) fn finish(&mut self, id: SeqId, reason: FinishReason, failure: Option<Failure>) {
        self.kv.close(id);
        self.proposer.forget(id);
        self.coalesce.forget(id);
        self.policy.forget(id);
        let now = self.now_ns();
        if let Some(mut seq) = self.seqs.remove(&id) {
            let tail = seq.speech.finish();
            if !tail.is_empty() {
                seq.outlet.give(Event::Text(tail));
            }
            seq.usage.cost.page_ms = self.meter.release(id, now);
            let ended = seq.known();
            self.gates.forget(id, ended.said);
            if matches!(reason, FinishReason::Stop | FinishReason::Length) {
                self.forecast.learn(ended);
            }
            seq.timings.total_ns = now.saturating_sub(seq.timings.received_ns);
            self.finished += 1;
            let received = Duration::from_nanos(seq.timings.received_ns);
            let span = Span::between(Kind::Request, seq.ask.trace, received, Duration::from_nanos(now));
            self.aside.trace.span(span.counts(seq.tokens.len() - seq.prompt, 0));
            let (answer, mut outlet) = seq.answer(reason, failure);
            outlet.give(Event::Done(Box::new(answer)));
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.clock.now().as_nanos() as u64
    }
}

/// Notes the arrival of a token; `together`: in the same step as the one before.
fn arrival(t: &mut Timings, now: u64, together: bool) {
    if t.first_token_ns == 0 {
        t.first_token_ns = now.saturating_sub(t.received_ns).max(1);
        t.prefill_ns = t.first_token_ns.saturating_sub(t.queue_ns);
        return;
    }
    let before = t.received_ns + t.first_token_ns + t.token_ns.iter().sum::<u64>();
    t.token_ns.push(if together { 0 } else { now.saturating_sub(before) });
}

/// The answer to a request that was never taken.
fn refused(request: Request, refusal: &EngineError) -> Answer {
    Answer {
        text: String::new(),
        tokens: Vec::new(),
        prompt_tokens: request.prompt,
        seed: request.params.seed,
        finish_reason: FinishReason::Error,
        failure: Some(Failure { cause: refusal.cause(), message: refusal.to_string() }),
        timings: Timings {
            received_ns: request.received.map_or(0, |d| d.as_nanos() as u64),
            ..Timings::default()
        },
        usage: Usage::default(),
        embedding: None,
    }
}
