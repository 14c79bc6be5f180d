//! The pool of the token loop: persistent pinned workers, one job for all of them at a time.
//!
//! A token is one [`Pool::run`]; its phases are separated by [`Worker::barrier`] and split by [`Worker::share`].
//! Workers spin for some microseconds before they sleep, because a fork-join through the kernel's scheduler costs more
//! than a whole phase of a small model. The number of workers of a run is not a promise: when another process takes a
//! core away, runs use fewer for a while. Results must not depend on it (DESIGN 5.1).

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use tamp_os::cpu::{self, ThreadClock};

/// Most workers of one pool.
const MAX_THREADS: usize = 1024;
/// Counters of [`Worker::share`].
const TICKETS: usize = 8;
/// Most stealable chunks of one share: a ticket counts them in 16 bits, beside its step.
const MAX_CHUNKS: usize = 1 << 15;
/// Waiting turns from spinning to yielding or parking after this time when every worker has a processor...
const SPIN: Duration = Duration::from_micros(50);
/// ... and after this one when workers share processors, where spinning only keeps the others from working.
const SPIN_CROWDED: Duration = Duration::from_micros(2);
/// A wait of this length is a stall, and the one waited for is suspected of having lost its processor.
const STALL: Duration = Duration::from_micros(100);
/// After this time of yielding, waiting sleeps.
const YIELD: Duration = Duration::from_millis(1);
const NAP: Duration = Duration::from_micros(50);

type Payload = Box<dyn Any + Send>;

/// What a worker unwinds with when another one has panicked.
struct Stopped;

/// A value alone on its cache line pair (the prefetcher of x86 fetches lines in pairs).
#[repr(align(128))]
#[derive(Default)]
struct Line<T>(T);

#[derive(Clone, Copy)]
struct Job {
    data: *const (),
    call: unsafe fn(*const (), &Worker<'_>),
    count: usize,
    step: u64,
}

/// One thread of the pool; slot 0 is whoever calls `run`.
#[derive(Default)]
struct Slot {
    mail: Line<Mail>,
    done: Line<Done>,
    clock: OnceLock<ThreadClock>,
    /// Nanoseconds that others stood waiting while this one had no processor.
    late: AtomicU64,
}

/// Written by the caller, polled by the worker.
#[derive(Default)]
struct Mail {
    /// Run number << 17 | worker index << 1 | whether the worker sleeps.
    word: AtomicU64,
    /// Logical processor to sit on plus 1, or 0 for anywhere.
    seat: AtomicUsize,
}

/// Written by the worker, polled by the caller.
#[derive(Default)]
struct Done {
    word: AtomicU64,
    step: AtomicU64,
}

const SLEEPS: u64 = 1;
/// An index that no worker has: leave.
const LEAVE: u64 = 0xffff << 1;

struct Shared {
    slots: Box<[Slot]>,
    job: UnsafeCell<Job>,
    tickets: [Line<AtomicU64>; TICKETS],
    /// The barrier's flags: `rounds` × workers, each the last step its sender has reached.
    flags: Box<[Line<AtomicU64>]>,
    /// Which slot has which index in the present run.
    slot_of: Box<[AtomicUsize]>,
    spin: Duration,
    broken: AtomicBool,
    /// Set with every addition to a slot's `late`.
    trouble: AtomicBool,
    panic: Mutex<Option<Payload>>,
}

// SAFETY: `job` is the only part that is not Sync. The caller writes it while no worker has mail it has not answered,
// workers read it between taking their mail (acquire) and answering it (release). What it points to is `Sync`, which
// `Pool::run` demands, and outlives the run, which returns only when all workers have answered.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a particular thread.
unsafe impl Send for Shared {}

/// Persistent workers for short parallel jobs. Worker 0 is the thread that calls [`Pool::run`].
pub struct Pool {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    lead: Mutex<Lead>,
}

/// What the calling side remembers between runs.
struct Lead {
    run: u64,
    step: u64,
    /// Slots by index: those past `governor.active` rest.
    order: Vec<usize>,
    /// Seat of each slot; empty when threads are not pinned.
    seats: Vec<usize>,
    /// The thread pinned as worker 0.
    seated: Option<usize>,
    governor: Governor,
}

impl Pool {
    /// A pool of `threads` workers (at least 1, at most 1024, fewer if the system refuses threads): the caller and
    /// `threads - 1` threads of its own, which end when the pool is dropped.
    ///
    /// With `pin`, and when the process may use at least `threads` processors, each worker stays on its own one, one
    /// per physical core first. This includes the thread that calls [`Pool::run`], from its first call until it drops
    /// the pool: threads it starts meanwhile inherit its place, unless they call [`tamp_os::cpu::unpin`]. A pool of
    /// one pins nothing.
    pub fn new(threads: usize, pin: bool) -> Pool {
        let threads = threads.clamp(1, MAX_THREADS);
        let allowed = cpu::allowed_cpus();
        let seats = if pin && threads > 1 && allowed.len() >= threads { seats(&allowed, threads) } else { vec![] };
        let rounds = threads.next_power_of_two().trailing_zeros() as usize;
        let shared = Arc::new(Shared {
            slots: (0..threads).map(|_| Slot::default()).collect(),
            job: UnsafeCell::new(Job { data: std::ptr::null(), call: nothing, count: 1, step: 0 }),
            tickets: Default::default(),
            flags: (0..rounds * threads).map(|_| Line::default()).collect(),
            slot_of: (0..threads).map(AtomicUsize::new).collect(),
            spin: if threads <= allowed.len() { SPIN } else { SPIN_CROWDED },
            broken: AtomicBool::new(false),
            trouble: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut handles = Vec::with_capacity(threads - 1);
        for slot in 1..threads {
            if let Some(&seat) = seats.get(slot) {
                shared.slots[slot].mail.0.seat.store(seat + 1, Ordering::Relaxed);
            }
            let theirs = Arc::clone(&shared);
            let named = std::thread::Builder::new().name(format!("tamp-{slot}"));
            match named.spawn(move || serve(&theirs, slot)) {
                Ok(handle) => handles.push(handle),
                Err(_) => break,
            }
        }
        let count = handles.len() + 1;
        let lead = Lead {
            run: 0,
            step: 0,
            order: (0..count).collect(),
            seats,
            seated: None,
            governor: Governor::new(count),
        };
        Pool { shared, handles, lead: Mutex::new(lead) }
    }

    /// Number of workers, the caller included. A run may use fewer; see [`Worker::count`].
    pub fn threads(&self) -> usize {
        self.handles.len() + 1
    }

    /// Runs `job` on every worker at once and returns when all are done. Allocates nothing.
    ///
    /// Calls from several threads take turns. With one thread this is a plain call.
    ///
    /// # Panics
    ///
    /// With the first panic of any worker's `job`, once all have stopped: the others stop at their next barrier, or
    /// when they are done. Also when called from inside a job of the same pool of several threads, which could never
    /// return.
    pub fn run<F: Fn(&Worker<'_>) + Sync>(&self, job: F) {
        if self.handles.is_empty() {
            return job(&Worker { index: 0, count: 1, step: Cell::new(0), shared: &self.shared });
        }
        let shared = &*self.shared;
        let key = std::ptr::from_ref(shared);
        let outer = INSIDE.get();
        assert!(outer != key.cast(), "a job of a pool called run on the same pool; use Worker::share instead");
        let mut lead = self.lead();
        let lead = &mut *lead;
        self.sit(lead);
        if lead.governor.resting() {
            let back = lead.governor.wake(Instant::now());
            debug_assert!(back <= lead.order.len());
        }
        let count = lead.governor.active;
        if count == 1 {
            return job(&Worker { index: 0, count: 1, step: Cell::new(0), shared });
        }

        lead.run += 1;
        // SAFETY: all workers have answered their last mail (see below), so none reads the job now.
        unsafe {
            *shared.job.get() =
                Job { data: std::ptr::from_ref(&job).cast(), call: call::<F>, count, step: lead.step };
        }
        let word = |index: usize| lead.run << 17 | (index as u64) << 1;
        for index in 1..count {
            let slot = lead.order[index];
            let before = shared.slots[slot].mail.0.word.swap(word(index), Ordering::AcqRel);
            if before & SLEEPS != 0 {
                self.thread(slot).unpark();
            }
        }
        let me = Worker { index: 0, count, step: Cell::new(lead.step), shared };
        INSIDE.set(key.cast());
        let own = catch_unwind(AssertUnwindSafe(|| job(&me)));
        INSIDE.set(outer);
        if own.is_err() {
            shared.broken.store(true, Ordering::Release);
        }
        let mut step = me.step.get();
        for index in 1..count {
            let slot = lead.order[index];
            let done = &shared.slots[slot].done.0;
            let answered = || done.word.load(Ordering::Acquire) == word(index);
            // A worker that panicked answers too, so this wait ends whatever happened.
            shared.wait(answered, || false, || Some(slot), 1);
            step = step.max(done.step.load(Ordering::Relaxed));
        }
        lead.step = step;
        if shared.trouble.load(Ordering::Relaxed) {
            self.govern(lead);
        }
        if let Some(payload) = shared.take_panic(own.err()) {
            resume_unwind(payload);
        }
    }

    fn lead(&self) -> MutexGuard<'_, Lead> {
        self.lead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thread(&self, slot: usize) -> &Thread {
        self.handles[slot - 1].thread()
    }

    /// Pins the calling thread to slot 0's seat, once.
    fn sit(&self, lead: &mut Lead) {
        if let Some(&seat) = lead.seats.first() {
            let me = thread_key();
            if lead.seated != Some(me) {
                cpu::pin_to(seat);
                let _ = self.shared.slots[0].clock.set_if_some(ThreadClock::of_this_thread());
                lead.seated = Some(me);
            }
        }
    }

    /// Takes the stalls of the last run into account, and lets the worker that caused most of them rest if it costs
    /// more than it gives.
    #[cold]
    fn govern(&self, lead: &mut Lead) {
        let shared = &*self.shared;
        shared.trouble.store(false, Ordering::Relaxed);
        for (slot, s) in shared.slots.iter().enumerate() {
            lead.governor.note(slot, Duration::from_nanos(s.late.swap(0, Ordering::Relaxed)));
        }
        let Some(culprit) = lead.governor.judge(Instant::now()) else { return };
        let last = lead.governor.active; // one less than in the run that stalled, so the index of its last worker
        match lead.order[..=last].iter().position(|&s| s == culprit) {
            Some(0) => {
                // The caller cannot rest; it takes the seat of the last worker, who gets the contested one.
                let other = lead.order[last];
                if lead.seats.len() > other {
                    lead.seats.swap(0, other);
                    shared.slots[other].mail.0.seat.store(lead.seats[other] + 1, Ordering::Relaxed);
                    lead.seated = None;
                }
            }
            Some(at) => {
                lead.order.swap(at, last);
                for (index, &slot) in lead.order.iter().enumerate() {
                    shared.slot_of[index].store(slot, Ordering::Relaxed);
                }
            }
            None => {}
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let lead = self.lead.get_mut().unwrap_or_else(PoisonError::into_inner);
        if lead.seated == Some(thread_key()) {
            cpu::unpin();
        }
        let word = (lead.run + 1) << 17 | LEAVE;
        for (slot, handle) in self.shared.slots[1..].iter().zip(&self.handles) {
            slot.mail.0.word.swap(word, Ordering::AcqRel);
            handle.thread().unpark();
        }
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

/// One processor per worker: the caller's present one first, one per physical core before any sibling.
fn seats(allowed: &[usize], threads: usize) -> Vec<usize> {
    let mut seats = cpu::core_cpus();
    if let Some(at) = cpu::current_cpu().and_then(|c| seats.iter().position(|&s| s == c)) {
        seats.rotate_left(at);
    }
    let siblings: Vec<usize> = allowed.iter().copied().filter(|c| !seats.contains(c)).collect();
    seats.extend(siblings);
    seats.truncate(threads);
    seats
}

thread_local! {
    /// The pool whose job this thread is running.
    static INSIDE: Cell<*const ()> = const { Cell::new(std::ptr::null()) };
}

/// Tells living threads apart without asking the system.
fn thread_key() -> usize {
    INSIDE.with(|c| std::ptr::from_ref(c).addr())
}

/// # Safety
///
/// `data` points to an `F` that lives and is not written to during the call.
unsafe fn call<F: Fn(&Worker<'_>) + Sync>(data: *const (), worker: &Worker<'_>) {
    // SAFETY: the caller's promise.
    unsafe { (*data.cast::<F>())(worker) }
}

unsafe fn nothing(_: *const (), _: &Worker<'_>) {}

trait SetIfSome<T> {
    fn set_if_some(&self, value: Option<T>);
}

impl<T> SetIfSome<T> for OnceLock<T> {
    fn set_if_some(&self, value: Option<T>) {
        if let Some(value) = value {
            let _ = self.set(value);
        }
    }
}
