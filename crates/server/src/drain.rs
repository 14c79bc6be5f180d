//! The way out: no new work, what is under way finishes, then the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::ApiError;

/// Counts work under way and says when no more is taken. Clones share it.
#[derive(Clone)]
pub struct Drain(Arc<Shared>);

struct Shared {
    draining: watch::Sender<bool>,
    busy: watch::Sender<usize>,
}

/// Work under way; it is over when this is dropped.
pub struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|n| *n -= 1);
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self(Arc::new(Shared { draining: watch::Sender::new(false), busy: watch::Sender::new(0) }))
    }
}

impl Drain {
    /// From now on new work is refused.
    pub fn begin(&self) {
        self.0.draining.send_replace(true);
    }

    /// Whether it has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Ends when draining begins.
    pub async fn begun(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.0.draining.subscribe().wait_for(|d| *d).await;
    }

    /// Ends when nothing is under way.
    pub async fn idle(&self) {
        let _ = self.0.busy.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Pieces of work under way.
    pub fn busy(&self) -> usize {
        *self.0.busy.borrow()
    }

    /// Takes on a piece of work, or refuses it: 503.
    pub fn enter(&self) -> Result<Busy, ApiError> {
        // Counted first: who sees the count at 0 after draining began sees it stay there.
        self.0.busy.send_modify(|n| *n += 1);
        let busy = Busy(self.0.clone());
        if self.is_draining() {
            let soon = Duration::from_secs(5);
            return Err(ApiError::unavailable(
                "draining",
                "the server is shutting down; try again later",
                soon,
            ));
        }
        Ok(busy)
    }
}
