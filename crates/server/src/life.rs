//! The engine's end of a sequence: events go to the reader, the sequence's life to whoever watches.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tamp_engine::outlet::Outlet;
use tamp_engine::request::Timings;
use tamp_engine::{Event, FinishReason, Usage};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::keys::Row;
use crate::observe::{End, Facts, Observers};

/// Takes a sequence's events. The channel itself has no bound: the engine stops scheduling a sequence with `most`
/// unread events, and what one step adds is small.
pub struct Life {
    send: UnboundedSender<Event>,
    unread: Arc<AtomicUsize>,
    most: usize,
    stall: Duration,
    /// since when the reader has taken nothing although there is something
    full: Mutex<Option<Instant>>,
    observers: Observers,
    facts: Facts,
    row: Option<Arc<Row>>,
    /// tokens of the prompt that this sequence pays for; its siblings share them
    owes: usize,
    last: Option<Instant>,
    tokens: usize,
    over: bool,
}

/// The reader's end; dropping it ends the sequence within one step.
pub struct Flow {
    receive: UnboundedReceiver<Event>,
    unread: Arc<AtomicUsize>,
}

/// Both ends. `row` pays for what the sequence takes, and for `owes` tokens of the prompt.
pub fn life(
    facts: Facts,
    observers: Observers,
    row: Option<Arc<Row>>,
    owes: usize,
    most: usize,
    stall: Duration,
) -> (Life, Flow) {
    let (send, receive) = unbounded_channel();
    let unread = Arc::new(AtomicUsize::new(0));
    let life = Life {
        send,
        unread: unread.clone(),
        most: most.max(1),
        stall,
        full: Mutex::default(),
        observers,
        facts,
        row,
        owes,
        last: None,
        tokens: 0,
        over: false,
    };
    (life, Flow { receive, unread })
}

impl Life {
    /// Says that it is on its way into the queue.
    pub fn queued(&self) {
        self.observers.tell(|o| o.queued(&self.facts));
    }

    fn token(&mut self) {
        let now = Instant::now();
        self.tokens += 1;
        match self.last.replace(now) {
            None => {
                let since = now.saturating_duration_since(self.facts.received);
                self.observers.tell(|o| o.first(&self.facts, since));
            }
            Some(before) => {
                let gap = now.saturating_duration_since(before);
                self.observers.tell(|o| o.token(&self.facts, gap));
            }
        }
    }

    fn end(&mut self, end: &End) {
        self.over = true;
        if let Some(row) = &self.row
            && (self.tokens > 0 || end.timings.prompt_rows > 0)
        {
            row.pay(self.owes + end.tokens);
        }
        self.observers.tell(|o| o.ended(&self.facts, end));
    }

    /// Since when the reader's queue has been full.
    fn stalled(&self) -> bool {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if self.unread.load(Ordering::Acquire) < self.most {
            *full = None;
            return false;
        }
        full.get_or_insert_with(Instant::now).elapsed() > self.stall
    }
}

impl Outlet for Life {
    fn ready(&self) -> bool {
        self.unread.load(Ordering::Acquire) < self.most
    }

    fn closed(&self) -> bool {
        self.send.is_closed() || self.stalled()
    }

    fn give(&mut self, event: Event) {
        match &event {
            Event::Token { .. } => self.token(),
            Event::Text(_) => {}
            Event::Done(a) => {
                let end = End {
                    finish: a.finish_reason,
                    error: a.failure.as_ref().map(|f| f.message.clone()),
                    tokens: a.tokens.len(),
                    timings: a.timings.clone(),
                    usage: a.usage.clone(),
                };
                self.end(&end);
            }
        }
        self.unread.fetch_add(1, Ordering::AcqRel);
        // A reader that left is seen by `closed`.
        let _ = self.send.send(event);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if !self.over {
            self.end(&End {
                finish: FinishReason::Error,
                error: Some("the engine let go of the sequence".into()),
                tokens: self.tokens,
                timings: Timings::default(),
                usage: Usage::default(),
            });
        }
    }
}

impl Flow {
    /// The next event; `None` when the engine is gone.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.receive.recv().await;
        self.took(event)
    }

    /// The next event, if there is one now.
    pub fn try_next(&mut self) -> Option<Event> {
        let event = self.receive.try_recv().ok();
        self.took(event)
    }

    /// The next event, for `poll_fn`.
    pub fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Event>> {
        self.receive.poll_recv(cx).map(|event| self.took(event))
    }

    fn took(&self, event: Option<Event>) -> Option<Event> {
        if event.is_some() {
            self.unread.fetch_sub(1, Ordering::AcqRel);
        }
        event
    }
}
