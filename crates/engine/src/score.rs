//! What the model thinks of an answer that is given to it: the one loop runs as ever, and where a token would be
//! chosen, the given one is taken and the logits it was to be chosen from are handed out. So a score is of what decodes,
//! kernels, KV format and scheduling included, and not of a second path beside it.

use std::mem::replace;
use std::sync::mpsc::{Receiver, Sender, channel};

use tamp_base::count::Acts;
use tamp_base::ids::Token;
use tamp_kv::Device;
use tamp_model::batch::Outputs;
use tamp_sample::{Choice, FinishReason, Params};
use tamp_spec::{Acceptor, Exam, SpecError, Verdict};

use crate::Engine;
use crate::error::EngineError;
use crate::outlet;
use crate::request::{Event, Request};

/// Gets the place in the answer, from 0, and the `[vocab]` logits its token would have been chosen from.
pub type See<'a, E> = dyn FnMut(usize, &[f32]) -> Result<(), E> + 'a;

/// Takes the given tokens and no draft.
struct Given {
    answer: Vec<Token>,
    /// tokens of the prompt
    prompt: usize,
    /// `[vocab]` logits of each position of the answer
    seen: Sender<Vec<f32>>,
}

impl Acceptor for Given {
    fn judge(&mut self, exam: Exam<'_>, out: &mut Outputs) -> Result<Verdict, SpecError> {
        let row = exam.first + exam.root;
        let logits = out.logits(row).ok_or(SpecError::Missing { row })?;
        let at = exam.position.checked_sub(self.prompt).and_then(|i| self.answer.get(i));
        let token = *at.ok_or(SpecError::Missing { row })?;
        // Nobody listens any more when the caller gave up; the answer is short, so it just ends.
        let _ = self.seen.send(logits.to_vec());
        let choices = vec![Choice { token, logprobs: None }];
        Ok(Verdict { kept: (0..=exam.root as u32).collect(), choices, tested: 0 })
    }

    fn acts(&self) -> Acts {
        Acts::default()
    }
}

impl<D: Device> Engine<D> {
    /// Runs `prompt` and then `answer`, token by token as if they had been chosen, and hands `see` the `[vocab]` logits
    /// of each position of the answer before the next one is run. The first error of `see` ends it and is the result.
    ///
    /// # Errors
    /// Those of [`Engine::check`]; an engine that has other sequences, whose choices would be given too; what `see` says.
    pub fn score<E: From<EngineError>>(
        &mut self,
        prompt: &[Token],
        answer: &[Token],
        see: &mut See<'_, E>,
    ) -> Result<(), E> {
        if !self.is_idle() {
            let why = "an answer is scored while nothing else runs".to_string();
            return Err(EngineError::Option { name: "score", got: self.seqs.len(), why }.into());
        }
        let (seen, logits) = channel();
        let given = Given { answer: answer.to_vec(), prompt: prompt.len(), seen };
        let usual = replace(&mut self.accept, Box::new(given));
        let done = self.scored(prompt, answer, &logits, see);
        self.accept = usual;
        done
    }

    fn scored<E: From<EngineError>>(
        &mut self,
        prompt: &[Token],
        answer: &[Token],
        logits: &Receiver<Vec<f32>>,
        see: &mut See<'_, E>,
    ) -> Result<(), E> {
        if let Some(&token) = answer.iter().find(|&&t| t as usize >= self.models[0].shape.vocab) {
            return Err(EngineError::Token { token, vocab: self.models[0].shape.vocab }.into());
        }
        // Asking for log-probabilities is what makes a row bring all its logits home.
        let params = Params { logprobs: Some(0), ..Params::default() };
        let request = Request {
            prompt: prompt.to_vec(),
            max_tokens: Some(answer.len()),
            params,
            ignore_eos: true,
            ..Request::default()
        };
        let cancel = request.cancel.clone();
        let (sender, events) = outlet::channel(usize::MAX);
        self.submit(request, Box::new(sender))?;
        let mut at = 0;
        let mut failed = None;
        loop {
            let idle = self.step()?.parts.is_empty() && !cancel.is_cancelled();
            for row in logits.try_iter() {
                if failed.is_none()
                    && let Err(e) = see(at, &row)
                {
                    failed = Some(e);
                    cancel.cancel();
                }
                at += 1;
            }
            while let Some(event) = events.try_recv() {
                let Event::Done(answer) = event else { continue };
                return match (failed, answer.finish_reason) {
                    (Some(e), _) => Err(e),
                    (None, FinishReason::Length) => Ok(()),
                    (None, _) => Err(EngineError::Stalled.into()),
                };
            }
            if idle {
                return Err(EngineError::Stalled.into());
            }
        }
    }
}
