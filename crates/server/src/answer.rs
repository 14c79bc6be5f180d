//! From the engine's events to what a route says: several flows as one, and the gathering of whole answers.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tamp_base::ids::Token;
use tamp_engine::{Answer, Event, FinishReason};
use tamp_text::Tokenizer;

use crate::error::ApiError;
use crate::life::Flow;

/// A token with its likelihood, and the likeliest ones beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Likely {
    /// the chosen token
    pub token: Token,
    /// its natural-log probability
    pub logprob: f32,
    /// the best ones, best first
    pub top: Vec<(Token, f32)>,
}

/// What happens to one of several sequences.
#[derive(Clone, Debug)]
pub enum Said {
    /// a token, and the text it completes
    Token {
        /// its id
        token: Token,
        /// often empty
        text: String,
        /// where the request asked for them
        likely: Option<Likely>,
    },
    /// text that was held back as a possible stop string
    Text(String),
    /// it is over
    Done(Box<Answer>),
}

/// The sequences of one request; dropping it ends all of them.
pub struct Flows {
    /// `None` once it is over
    flows: Vec<Option<Flow>>,
    /// an event that was taken to see whether there is one
    peeked: Option<(usize, Event)>,
    next: usize,
}

fn gone() -> ApiError {
    ApiError::unavailable("engine_gone", "the engine ended while it answered", Duration::from_secs(1))
}

impl Flows {
    /// Of these sequences.
    pub fn new(flows: Vec<Flow>) -> Self {
        Self { flows: flows.into_iter().map(Some).collect(), peeked: None, next: 0 }
    }

    /// How many sequences.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// No sequence at all.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Waits for the first event of any; one that failed before it said anything is a refusal of the whole.
    ///
    /// # Errors
    /// The refusal.
    pub async fn begin(&mut self) -> Result<(), ApiError> {
        let first = self.event().await?;
        if let Some((_, Event::Done(a))) = &first
            && let Some(failure) = &a.failure
        {
            return Err(failure.into());
        }
        self.peeked = first;
        Ok(())
    }

    /// The next event and whose it is; `None` when all are over.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn next(&mut self) -> Result<Option<(usize, Said)>, ApiError> {
        let event = match self.peeked.take() {
            Some(e) => Some(e),
            None => self.event().await?,
        };
        Ok(event.map(|(i, e)| (i, self.said(i, e))))
    }

    /// The next event, if there is one now.
    pub fn try_next(&mut self) -> Option<(usize, Said)> {
        let (n, start) = (self.flows.len(), self.next);
        let mut order = (0..n).map(|k| (start + k) % n);
        let found = order.find_map(|i| Some((i, self.flows[i].as_mut()?.try_next()?)));
        found.map(|(i, e)| (i, self.said(i, e)))
    }

    fn said(&mut self, i: usize, event: Event) -> Said {
        match event {
            Event::Token { token, text, logprobs } => {
                let likely = logprobs.map(|l| Likely { token, logprob: l.chosen, top: l.top });
                Said::Token { token, text, likely }
            }
            Event::Text(text) => Said::Text(text),
            Event::Done(a) => {
                self.flows[i] = None;
                Said::Done(a)
            }
        }
    }

    async fn event(&mut self) -> Result<Option<(usize, Event)>, ApiError> {
        let n = self.flows.len();
        let start = self.next;
        let found = poll_fn(|cx| {
            let mut open = false;
            for i in (0..n).map(|k| (start + k) % n) {
                let Some(flow) = &mut self.flows[i] else { continue };
                open = true;
                if let Poll::Ready(e) = flow.poll_next(cx) {
                    return Poll::Ready(Some((i, e)));
                }
            }
            if open { Poll::Pending } else { Poll::Ready(None) }
        })
        .await;
        match found {
            None => Ok(None),
            Some((_, None)) => Err(gone()),
            Some((i, Some(e))) => {
                // The others first next time: no sequence of a request starves its siblings.
                self.next = (i + 1) % n;
                Ok(Some((i, e)))
            }
        }
    }

    /// Waits for all answers.
    ///
    /// # Errors
    /// The first that failed.
    pub async fn whole(mut self) -> Result<Vec<Whole>, ApiError> {
        let mut said: Vec<Vec<Said>> = vec![Vec::new(); self.flows.len()];
        let mut answers: Vec<Option<Answer>> = vec![None; self.flows.len()];
        while let Some((i, event)) = self.next().await? {
            match event {
                Said::Done(a) => match &a.failure {
                    Some(f) => return Err(f.into()),
                    None => answers[i] = Some(*a),
                },
                other => said[i].push(other),
            }
        }
        let whole = answers.into_iter().zip(said);
        whole.map(|(a, said)| Ok(Whole { answer: a.ok_or_else(gone)?, said })).collect()
    }
}

/// A finished answer.
#[derive(Clone, Debug)]
pub struct Whole {
    /// the answer
    pub answer: Answer,
    /// what was said, without the end: at most as much as the context holds
    pub said: Vec<Said>,
}

impl Whole {
    /// The likelihoods of the answer's tokens, where the request asked.
    pub fn likely(&self) -> Vec<Likely> {
        let of = |s: &Said| if let Said::Token { likely, .. } = s { likely.clone() } else { None };
        self.said.iter().filter_map(of).collect()
    }
}

/// OpenAI's word for why an answer ended. `deadline` has none of theirs, and cutting an answer short must not look
/// like its end.
pub fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Error => "error",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Deadline => "deadline",
    }
}

/// A token's text for lists of likelihoods: control tokens by their name, half characters with U+FFFD.
pub fn token_text(t: &Tokenizer, token: Token) -> String {
    if t.is_control(token) {
        return t.piece(token).to_string();
    }
    String::from_utf8_lossy(t.bytes(token)).into_owned()
}
