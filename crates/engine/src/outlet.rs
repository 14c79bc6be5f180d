//! Where a sequence's events go. An outlet never blocks the engine: one that is full pauses its sequence.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::request::Event;

/// Takes a sequence's events.
pub trait Outlet: Send {
    /// Whether the sequence may go on. Checked before it is scheduled; the events of one step are then taken in any
    /// case, so the bound is soft by one step.
    fn ready(&self) -> bool;
    /// Whether nobody listens any more; ends the sequence.
    fn closed(&self) -> bool;
    /// Takes an event. Never blocks.
    fn give(&mut self, event: Event);
}

/// Listens to nothing and never leaves.
pub(crate) struct Nobody;

impl Outlet for Nobody {
    fn ready(&self) -> bool {
        true
    }

    fn closed(&self) -> bool {
        false
    }

    fn give(&mut self, _: Event) {}
}

#[derive(Default)]
struct Shared {
    queue: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    /// one of the two ends is gone
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine's end of [`channel`].
pub struct Sender {
    shared: Arc<Shared>,
    cap: usize,
}

/// The listener's end of [`channel`]; dropping it ends the sequence.
pub struct Receiver {
    shared: Arc<Shared>,
}

/// A queue of about `cap` events between threads.
pub fn channel(cap: usize) -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender { shared: shared.clone(), cap: cap.max(1) }, Receiver { shared })
}

impl Outlet for Sender {
    fn ready(&self) -> bool {
        self.shared.lock().events.len() < self.cap
    }

    fn closed(&self) -> bool {
        self.shared.lock().closed
    }

    fn give(&mut self, event: Event) {
        self.shared.lock().events.push_back(event);
        self.shared.more.notify_one();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.more.notify_one();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
    }
}

impl Receiver {
    /// The next event, if there is one now.
    pub fn try_recv(&self) -> Option<Event> {
        self.shared.lock().events.pop_front()
    }

    /// The next event; `None` when time is up, or the engine is gone.
    pub fn recv_timeout(&self, wait: Duration) -> Option<Event> {
        let state = self.shared.lock();
        let empty = |s: &mut State| s.events.is_empty() && !s.closed;
        let (mut state, _) =
            self.shared.more.wait_timeout_while(state, wait, empty).unwrap_or_else(PoisonError::into_inner);
        state.events.pop_front()
    }
}
