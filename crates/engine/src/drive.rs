//! An engine on its own thread, and the handle by which others use it. A server sees nothing else of an engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tamp_base::clock::Clock;
use tamp_kv::Device;
use tamp_text::Tokenizer;

use crate::error::EngineError;
use crate::intake::Intake;
use crate::outlet::Outlet;
use crate::plan::Plan;
use crate::request::Request;
use crate::{Engine, Stats};

/// An idle engine looks this often whether it is to end, and a paused reader is seen again after at most this long.
const NAP: Duration = Duration::from_millis(2);

/// What the thread tells others.
struct Shared {
    stats: Mutex<Stats>,
    broken: Mutex<Option<String>>,
    ends: AtomicBool,
    alive: AtomicBool,
}

/// Hands requests to an engine on its own thread. Clones share it.
#[derive(Clone)]
pub struct Handle {
    intake: Intake,
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    tokenizer: Arc<Tokenizer>,
    clock: Arc<dyn Clock>,
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
        ends: AtomicBool::new(false),
        alive: AtomicBool::new(true),
    });
    let handle = Handle {
        intake: engine.intake(),
        shared: shared.clone(),
        plan: Arc::new(engine.plan().clone()),
        tokenizer: engine.tokenizer().clone(),
        clock: engine.clock().clone(),
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
    while !shared.ends.load(Ordering::Acquire) {
        let worked = !engine.step()?.parts.is_empty();
        *lock(&shared.stats) = engine.stats();
        if !worked {
            engine.wait(NAP);
        }
    }
    Ok(())
}

impl Handle {
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
