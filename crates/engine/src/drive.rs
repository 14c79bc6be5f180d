//! An engine on its own thread, and the handle by which others use it. A server sees nothing else of an engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tamp_base::clock::Clock;
use tamp_base::span::Collector;
use tamp_kv::{Device, KvEvent};
use tamp_text::Tokenizer;

use crate::error::EngineError;
use crate::intake::Intake;
use crate::outlet::Outlet;
use crate::plan::Plan;
use crate::request::Request;
use crate::{Engine, Stats};

/// An idle engine looks this often whether it is to end, and a paused reader is seen again after at most this long.
const NAP: Duration = Duration::from_millis(2);

/// A busy engine hands a cached page to the slower memory once in so many turns: a tenth of a millisecond each.
const KEEP: u64 = 8;

/// An engine that ends saves its cache for so long.
const FLUSH: Duration = Duration::from_secs(10);

/// What the thread tells others.
struct Shared {
    stats: Mutex<Stats>,
    broken: Mutex<Option<String>>,
    notes: Mutex<Vec<String>>,
    ends: AtomicBool,
    alive: AtomicBool,
    kv: Mutex<Vec<KvEvent>>,
    /// of these at most; 0: nobody listens
    kv_most: AtomicUsize,
}

/// Hands requests to an engine on its own thread. Clones share it.
#[derive(Clone)]
pub struct Handle {
    intake: Intake,
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    tokenizer: Arc<Tokenizer>,
    clock: Arc<dyn Clock>,
    spans: Option<Arc<Collector>>,
    ctx: usize,
}

/// The thread itself; dropping it asks the engine to end and waits.
pub struct Driver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves an engine to a thread of its own and starts it.
///
/// # Errors
/// When the system gives no thread.
pub fn drive<D: Device + 'static>(engine: Engine<D>) -> Result<(Handle, Driver), std::io::Error> {
    let shared = Arc::new(Shared {
        stats: Mutex::new(engine.stats()),
        broken: Mutex::new(None),
        notes: Mutex::default(),
        ends: AtomicBool::new(false),
        alive: AtomicBool::new(true),
        kv: Mutex::default(),
        kv_most: AtomicUsize::new(0),
    });
    let handle = Handle {
        intake: engine.intake(),
        shared: shared.clone(),
        plan: Arc::new(engine.plan().clone()),
        tokenizer: engine.tokenizer().clone(),
        clock: engine.clock().clone(),
        spans: engine.spans(),
        ctx: engine.ctx(),
    };
    let told = shared.clone();
    let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
        let ran = catch_unwind(AssertUnwindSafe(|| turn_until_told(engine, &told)));
        let why = match ran {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.to_string()),
            Err(_) => Some("the engine panicked; this is a bug, see the log".to_string()),
        };
        *lock(&told.broken) = why;
        told.alive.store(false, Ordering::Release);
    })?;
    Ok((handle, Driver { shared, thread: Some(thread) }))
}

fn turn_until_told<D: Device>(mut engine: Engine<D>, shared: &Shared) -> Result<(), EngineError> {
    let mut listening = 0;
    let mut turns = 0u64;
    while !shared.ends.load(Ordering::Acquire) {
        let most = shared.kv_most.load(Ordering::Acquire);
        if most != listening {
            engine.listen_kv(most);
            listening = most;
        }
        let worked = !engine.step()?.parts.is_empty();
        *lock(&shared.stats) = engine.stats();
        if listening > 0 {
            hand_over(engine.take_kv_events(), &mut lock(&shared.kv), listening);
        }
        turns += 1;
        if worked && turns.is_multiple_of(KEEP) {
            // Else a page that is evicted before the engine rests would be lost.
            engine.keep_pages(1);
        }
        if !worked {
            engine.idle();
            lock(&shared.notes).extend(engine.notes());
            engine.wait(NAP);
        }
    }
    engine.flush(FLUSH);
    Ok(())
}

/// Adds new events to those that wait. When they do not fit, all are void: who missed one must start over.
fn hand_over(new: Vec<KvEvent>, waiting: &mut Vec<KvEvent>, most: usize) {
    if waiting.len() + new.len() > most {
        waiting.clear();
        waiting.push(KvEvent::Cleared);
        return;
    }
    waiting.extend(new);
}

impl Handle {
    /// Keeps up to `most` changes of the set of cached pages for [`Handle::take_kv_events`]; 0 keeps none.
    pub fn listen_kv(&self, most: usize) {
        self.shared.kv_most.store(most, Ordering::Release);
    }

    /// Changes since the last call, oldest first; `Cleared` stands for those that nobody took in time.
    pub fn take_kv_events(&self) -> Vec<KvEvent> {
        std::mem::take(&mut *lock(&self.shared.kv))
    }

    /// Hands a request in; never blocks. A refusal by the engine comes through the outlet.
    pub fn submit(&self, request: Request, outlet: Box<dyn Outlet>) -> Result<(), EngineError> {
        if !self.is_alive() {
            return Err(EngineError::Gone);
        }
        self.intake.send(request, outlet)
    }

    /// Counters and state after the last step.
    pub fn stats(&self) -> Stats {
        *lock(&self.shared.stats)
    }

    /// Sentences for the operator since the last call.
    pub fn notes(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.shared.notes))
    }

    /// The loop turns.
    pub fn is_alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// Why it no longer turns.
    pub fn broken(&self) -> Option<String> {
        lock(&self.shared.broken).clone()
    }

    /// The accepted plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Tokens ⇄ text.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The engine's time.
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Where spans are kept, when they are.
    pub fn spans(&self) -> Option<&Arc<Collector>> {
        self.spans.as_ref()
    }

    /// Positions per sequence.
    pub fn ctx(&self) -> usize {
        self.ctx
    }
}

impl Driver {
    /// Ends the loop after the step it is in; sequences that still live are dropped, and their listeners see that.
    pub fn end(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // The thread catches its own panics, so there is nothing to learn from joining it.
            let _ = thread.join();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_nobody_took_in_time_are_void_together() {
        let removed = |n: u8| KvEvent::Removed { hash: [n; 32] };
        let mut waiting = vec![];
        hand_over(vec![removed(1), removed(2)], &mut waiting, 3);
        hand_over(vec![removed(3)], &mut waiting, 3);
        assert_eq!(waiting, [removed(1), removed(2), removed(3)]);
        hand_over(vec![removed(4)], &mut waiting, 3);
        assert_eq!(waiting, [KvEvent::Cleared], "the lost ones would be believed to be there for ever");
        hand_over(vec![removed(5)], &mut waiting, 3);
        assert_eq!(waiting, [KvEvent::Cleared, removed(5)]);
    }
}
