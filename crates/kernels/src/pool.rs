//! The pool of the token loop: persistent pinned workers, one job for all of them at a time.
//!
//! A token is one [`Pool::run`]; its phases are separated by [`Worker::barrier`] and split by [`Worker::share`].
//! Workers spin for some microseconds before they sleep, because a fork-join through the kernel's scheduler costs more
//! than a whole phase of a small model. The number of workers of a run is not a promise: when another process takes a
//! core away, runs use fewer for a while. Results must not depend on it (DESIGN 5.1).

mod governor;
mod worker;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use tamp_os::arena::Arena;
use tamp_os::cpu::{self, ThreadClock};

use governor::Governor;
pub use worker::Worker;
use worker::serve;

/// Most workers of one pool.
const MAX_THREADS: usize = 1024;
/// Counters of [`Worker::share`].
const TICKETS: usize = 8;
/// Waiting turns from spinning to yielding or parking after this time when every worker has a processor...
const SPIN: Duration = Duration::from_micros(50);
/// ... and after this one when workers share processors, where spinning only keeps the others from working.
const SPIN_CROWDED: Duration = Duration::from_micros(2);

type Payload = Box<dyn Any + Send>;

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
    /// Of the thread that last sat here.
    clock: Mutex<Option<ThreadClock>>,
    /// Nanoseconds without a processor while somebody waited.
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
    memory: Arena,
    runs: AtomicU64,
    short: AtomicU64,
}

/// Runs of a pool so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// All of them.
    pub all: u64,
    /// Those that had to do with fewer workers, because another process held a processor.
    pub short: u64,
}

/// What the calling side remembers between runs.
struct Lead {
    /// Number of the last mail.
    run: u64,
    step: u64,
    /// Slots by index: those past `governor.active` rest.
    order: Vec<usize>,
    /// Seat of each slot; empty when threads are not pinned.
    seats: Vec<usize>,
    /// The thread that was worker 0 last.
    seated: Option<u64>,
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
        let seats =
            if pin && threads > 1 && allowed.len() >= threads { seats(&allowed, threads) } else { vec![] };
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
        Pool {
            shared,
            handles,
            lead: Mutex::new(lead),
            memory: Arena::default(),
            runs: AtomicU64::new(0),
            short: AtomicU64::new(0),
        }
    }

    /// The same pool, but every run has all workers, whatever that costs on a disturbed machine. For tests that are
    /// about the number of workers.
    pub fn steady(mut self) -> Pool {
        self.lead.get_mut().unwrap_or_else(PoisonError::into_inner).governor.steady = true;
        self
    }

    /// Number of workers, the caller included. A run may use fewer; see [`Worker::count`].
    pub fn threads(&self) -> usize {
        self.handles.len() + 1
    }

    /// Memory that its workers are the first to touch.
    pub fn memory(&self) -> &Arena {
        &self.memory
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
            return job(&Worker { slot: 0, index: 0, count: 1, step: Cell::new(0), shared: &self.shared });
        }
        let shared = &*self.shared;
        let key = std::ptr::from_ref(shared);
        assert!(
            INSIDE.get() != key.cast(),
            "a job of a pool called run on the same pool; use Worker::share instead"
        );
        let mut lead = lock(&self.lead);
        let lead = &mut *lead;
        self.sit(lead);
        if lead.governor.resting() {
            lead.governor.wake(Instant::now());
        }
        let count = lead.governor.active;
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.short.fetch_add(u64::from(lead.governor.resting()), Ordering::Relaxed);
        let inside = Inside::enter(key.cast());
        if count == 1 {
            return job(&Worker { slot: 0, index: 0, count: 1, step: Cell::new(0), shared });
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
        let me = Worker { slot: 0, index: 0, count, step: Cell::new(lead.step), shared };
        let own = catch_unwind(AssertUnwindSafe(|| job(&me)));
        drop(inside);
        if own.is_err() {
            shared.broken.store(true, Ordering::Release);
        }
        let mut step = me.step.get();
        for index in 1..count {
            let slot = lead.order[index];
            let done = &shared.slots[slot].done.0;
            let answered = || done.word.load(Ordering::Acquire) == word(index);
            // A worker that panicked answers too, so this wait ends whatever happened.
            shared.wait(0, answered, || false, || Some(slot), 1);
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

    /// How many runs there were, and how many of them with fewer workers than [`Pool::threads`]: a figure taken while
    /// the second number grows is one of a disturbed machine. A pool of one counts nothing.
    pub fn runs(&self) -> Runs {
        Runs { all: self.runs.load(Ordering::Relaxed), short: self.short.load(Ordering::Relaxed) }
    }

    fn thread(&self, slot: usize) -> &Thread {
        self.handles[slot - 1].thread()
    }

    /// Puts the calling thread on slot 0's seat, unless it sits there already.
    fn sit(&self, lead: &mut Lead) {
        let me = thread_key();
        if lead.seated != Some(me) {
            if let Some(&seat) = lead.seats.first() {
                cpu::pin_to(seat);
            }
            *lock(&self.shared.slots[0].clock) = ThreadClock::of_this_thread();
            lead.seated = Some(me);
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
        if lead.seated == Some(thread_key()) && !lead.seats.is_empty() {
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

/// Runs `f` on a thread of its own that may use every processor of the process, whatever pool its caller is seated in:
/// programs inherit the processors of the thread that starts them, and a peer measured on one core is no peer.
///
/// # Panics
///
/// With `f`'s panic.
pub fn unpinned<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    let ran = std::thread::scope(|s| {
        s.spawn(|| {
            cpu::unpin();
            f()
        })
        .join()
    });
    ran.unwrap_or_else(|payload| resume_unwind(payload))
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

/// Marks the calling thread as inside a pool's job until dropped.
struct Inside(*const ());

impl Inside {
    fn enter(pool: *const ()) -> Inside {
        Inside(INSIDE.replace(pool))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing of ours is left half-written by a panic: jobs run outside of changes.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The calling thread's number, never given twice. Faster than `thread::current().id()`, which counts references.
fn thread_key() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static KEY: Cell<u64> = const { Cell::new(0) };
    }
    if KEY.get() == 0 {
        KEY.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
    }
    KEY.get()
}

/// # Safety
///
/// `data` points to an `F` that lives and is not written to during the call.
unsafe fn call<F: Fn(&Worker<'_>) + Sync>(data: *const (), worker: &Worker<'_>) {
    // SAFETY: the caller's promise.
    unsafe { (*data.cast::<F>())(worker) }
}

unsafe fn nothing(_: *const (), _: &Worker<'_>) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;

    /// A small generator of test cases (splitmix64).
    struct Rng(u64);
    impl Rng {
        fn below(&mut self, n: u64) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ z >> 31) % n) as usize
        }
    }

    fn counters(n: usize) -> Vec<AtomicUsize> {
        (0..n).map(|_| AtomicUsize::new(0)).collect()
    }

    fn count(hits: &[AtomicUsize], range: Range<usize>) {
        assert!(!range.is_empty());
        for unit in range {
            hits[unit].fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_program_started_unpinned_may_use_the_processors_that_a_seated_thread_has_given_up() {
        let free = cpu::allowed_cpus().len();
        if free < 2 {
            return; // nothing to give up
        }
        std::thread::spawn(move || {
            let pool = Pool::new(2, true);
            pool.run(|_| {});
            let seen = || std::thread::available_parallelism().map_or(0, usize::from);
            let (seated, elsewhere) = (seen(), unpinned(seen));
            assert!(
                seated < elsewhere && elsewhere == free,
                "{seated} seated, {elsewhere} elsewhere of {free}"
            );
        })
        .join()
        .unwrap();
    }

    #[test]
    fn every_unit_is_handed_out_exactly_once() {
        let mut rng = Rng(1);
        for threads in 1..=4 {
            let pool = Pool::new(threads, threads == 2).steady();
            for _ in 0..500 {
                let n = *[3, 50, 3000].get(rng.below(3)).unwrap();
                let n = rng.below(n + 1);
                let grain = *[2, 20, 4000].get(rng.below(3)).unwrap();
                let grain = rng.below(grain + 1);
                let hits = counters(n);
                pool.run(|w| {
                    w.share(0, n, grain, |r| {
                        assert_eq!(r.start % grain.max(1), 0);
                        count(&hits, r);
                    });
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1), "{threads} {n} {grain}");
            }
        }
    }

    #[test]
    fn a_grain_too_small_for_the_counter_still_hands_out_everything() {
        let n = 5_000_000;
        let pool = Pool::new(3, false).steady();
        for grain in [0, 1, 7, usize::MAX] {
            let sum = AtomicUsize::new(0);
            pool.run(|w| {
                w.share(3, n, grain, |r| {
                    _ = sum.fetch_add(r.len() * (r.start + r.end - 1), Ordering::Relaxed)
                })
            });
            assert_eq!(sum.into_inner(), n * (n - 1), "{grain}");
        }
    }

    #[test]
    fn shares_may_follow_each_other_on_any_ticket_with_or_without_barriers() {
        let mut rng = Rng(2);
        for threads in 2..=4 {
            let pool = Pool::new(threads, false).steady();
            for _ in 0..400 {
                let calls: Vec<_> = (0..20)
                    .map(|_| (rng.below(3), rng.below(200), rng.below(9), rng.below(3) == 0))
                    .collect();
                let hits: Vec<_> = calls.iter().map(|c| counters(c.1)).collect();
                pool.run(|w| {
                    for (&(ticket, n, grain, barrier), hits) in calls.iter().zip(&hits) {
                        w.share(ticket, n, grain, |r| count(hits, r));
                        if barrier {
                            w.barrier();
                        }
                    }
                });
                assert!(hits.iter().flatten().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn nobody_passes_a_barrier_before_all_have_come() {
        for threads in 1..=5 {
            let pool = Pool::new(threads, false).steady();
            let at = counters(threads);
            for _ in 0..20 {
                pool.run(|w| {
                    for phase in 1..=50 {
                        at[w.index()].store(phase, Ordering::Relaxed);
                        w.barrier();
                        assert!(at.iter().all(|a| a.load(Ordering::Relaxed) == phase));
                        w.barrier();
                    }
                });
            }
        }
    }

    #[test]
    fn what_was_written_before_a_barrier_is_read_after_it() {
        let pool = Pool::new(2, true).steady();
        let mut cells = vec![0u64; 2 * 64];
        struct Raw(*mut u64);
        // SAFETY: used in disjoint halves between barriers only.
        unsafe impl Sync for Raw {}
        impl Raw {
            fn at(&self, i: usize) -> *mut u64 {
                self.0.wrapping_add(i)
            }
        }
        let raw = Raw(cells.as_mut_ptr());
        let wrong = AtomicUsize::new(0);
        pool.run(|w| {
            for round in 1..2000u64 {
                for i in 0..64 {
                    // SAFETY: each worker writes its own half, and nobody reads before the barrier.
                    unsafe { *raw.at(w.index() * 64 + i) = round };
                }
                w.barrier();
                let other = (w.index() + 1) % w.count();
                for i in 0..64 {
                    // SAFETY: nobody writes between the two barriers.
                    let seen = unsafe { *raw.at(other * 64 + i) };
                    if seen != round {
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                }
                w.barrier();
            }
        });
        assert_eq!(wrong.into_inner(), 0);
    }

    #[test]
    fn a_panic_in_any_worker_reaches_the_caller_and_the_pool_lives_on() {
        for threads in 1..=3 {
            let pool = Pool::new(threads, false).steady();
            for guilty in 0..threads {
                for round in 0..20 {
                    let caught = catch_unwind(AssertUnwindSafe(|| {
                        pool.run(|w| {
                            w.share(0, 10, 1, |_| {});
                            w.barrier();
                            if w.index() == guilty {
                                // resume_unwind: a panic without the noise on stderr.
                                resume_unwind(Box::new(guilty));
                            }
                            w.barrier();
                            w.barrier();
                        })
                    }));
                    let payload = caught.unwrap_err();
                    assert_eq!(payload.downcast_ref::<usize>(), Some(&guilty), "{threads} {round}");
                    let hits = counters(100);
                    pool.run(|w| {
                        w.share(0, 100, 3, |r| count(&hits, r));
                        w.barrier();
                    });
                    assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn thousands_of_empty_runs_return_and_idle_workers_wake_again() {
        let pool = Pool::new(2, true).steady();
        let runs = AtomicUsize::new(0);
        for i in 0..20_000 {
            if i % 4000 == 0 {
                std::thread::sleep(Duration::from_millis(2)); // long enough to fall asleep
            }
            let before = runs.load(Ordering::Relaxed);
            pool.run(|_| _ = runs.fetch_add(1, Ordering::Relaxed));
            assert_eq!(runs.load(Ordering::Relaxed) - before, 2);
        }
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(2, true).steady();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..200 {
                        pool.run(|w| {
                            if w.index() == 0 {
                                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            }
                            w.barrier();
                            if w.index() == 0 {
                                inside.fetch_sub(1, Ordering::SeqCst);
                            }
                        });
                    }
                });
            }
        });
    }

    #[test]
    fn a_run_inside_a_job_of_the_same_pool_is_refused_and_of_another_is_served() {
        let (pool, other) = (Pool::new(2, false), Pool::new(1, false));
        pool.run(|_| other.run(|w| assert_eq!((w.index(), w.count()), (0, 1))));
        let nested = catch_unwind(AssertUnwindSafe(|| {
            pool.run(|w| {
                if w.index() == 0 {
                    pool.run(|_| {});
                }
            });
        }));
        assert!(nested.is_err());
        pool.run(|_| {});
    }

    #[test]
    fn absurd_sizes_make_a_pool_and_dropping_one_gives_the_caller_its_processors_back() {
        assert_eq!(Pool::new(0, true).threads(), 1);
        drop(Pool::new(64, true));
        let pool = Pool::new(2, true).steady();
        pool.run(|_| {});
        drop(pool);
        let all = cpu::allowed_cpus().len();
        assert!(std::thread::available_parallelism().map_or(true, |n| n.get() >= all.min(2)));
    }
}
