//! The bounded queue through which other threads hand requests in.

pub mod coalesce;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use tamp_base::clock::Clock;

use crate::error::EngineError;
use crate::outlet::Outlet;
use crate::request::Request;

/// A request on its way in.
pub struct Letter {
    /// what is asked
    pub request: Request,
    /// where its events go
    pub outlet: Box<dyn Outlet>,
    /// receipt, on the engine's clock
    pub received: Duration,
}

/// Hands requests to an engine on another thread. Clones share one queue.
#[derive(Clone)]
pub struct Intake {
    send: SyncSender<Letter>,
    clock: Arc<dyn Clock>,
    cap: usize,
}

/// The engine's end.
pub struct Mail(Receiver<Letter>);

/// A queue of `cap` requests.
pub fn intake(cap: usize, clock: Arc<dyn Clock>) -> (Intake, Mail) {
    let (send, receive) = mpsc::sync_channel(cap.max(1));
    (Intake { send, clock, cap }, Mail(receive))
}

impl Intake {
    /// Hands a request in; never blocks. What the engine refuses comes back through the outlet as an answer that
    /// failed with cause `request`.
    pub fn send(&self, request: Request, outlet: Box<dyn Outlet>) -> Result<(), EngineError> {
        let letter = Letter { request, outlet, received: self.clock.now() };
        self.send.try_send(letter).map_err(|e| match e {
            TrySendError::Full(_) => EngineError::Queue { waiting: self.cap },
            TrySendError::Disconnected(_) => EngineError::Gone,
        })
    }
}

impl Mail {
    /// The next request, if there is one now.
    pub fn try_take(&self) -> Option<Letter> {
        self.0.try_recv().ok()
    }

    /// The next request; `None` when time is up or nobody can send any more.
    pub fn take_within(&self, timeout: Duration) -> Option<Letter> {
        self.0.recv_timeout(timeout).ok()
    }
}
