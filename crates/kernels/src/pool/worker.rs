//! One worker's side of a run: the barrier, the sharing of units, waiting, and the loop of the pool's threads.

use std::cell::Cell;
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tamp_os::cpu::{self, ThreadClock};

use super::{INSIDE, LEAVE, Payload, SLEEPS, Shared, TICKETS, lock};

/// Most stealable chunks of one share: a ticket counts them in 16 bits, beside its step.
const MAX_CHUNKS: usize = 1 << 15;
/// Polls before a waiter looks at the clock.
const POLLS: usize = 32;
/// From here on a waiter watches whether the one waited for has a processor. Earlier, asking would cost more than it
/// tells.
const WATCH: Duration = Duration::from_micros(25);
/// Losses below this are the scheduler's housekeeping.
const LOSS: Duration = Duration::from_micros(20);
/// After this time waiting turns from yielding to short sleeps: by then the scheduler has other plans.
const YIELD: Duration = Duration::from_millis(1);
const NAP: Duration = Duration::from_micros(50);

/// What a worker unwinds with when another one has panicked.
struct Stopped;

/// One of the workers of a run.
///
/// Every worker of a run must make the same calls of [`barrier`](Worker::barrier) and [`share`](Worker::share) in the
/// same order with the same numbers.
pub struct Worker<'a> {
    pub(super) slot: usize,
    pub(super) index: usize,
    pub(super) count: usize,
    /// Number of the last barrier or share, the same for all workers at the same place; never used twice in the life
    /// of a pool.
    pub(super) step: Cell<u64>,
    pub(super) shared: &'a Shared,
}

impl Worker<'_> {
    /// This worker's number, below [`Worker::count`]; no other worker of the run has it.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Workers of this run: at least 1, at most [`super::Pool::threads`], and not the same in every run.
    pub fn count(&self) -> usize {
        self.count
    }

    fn next_step(&self) -> u64 {
        let step = self.step.get() + 1;
        self.step.set(step);
        step
    }

    /// Returns when every worker of the run has called it. What any worker wrote before is seen by all after.
    ///
    /// Dissemination with monotonic flags (Hensgen, Finkel and Manber 1988): with two workers, each writes one line
    /// and reads one, so the barrier costs a single line transfer.
    ///
    /// # Panics
    ///
    /// Unwinds when another worker has panicked, because that one will never arrive.
    pub fn barrier(&self) {
        if self.count == 1 {
            return;
        }
        let step = self.next_step();
        let (mut reach, mut row) = (1, 0);
        while reach < self.count {
            let to = self.index + reach;
            let to = if to >= self.count { to - self.count } else { to };
            self.shared.flag(row, to).store(step, Ordering::Release);
            let mine = self.shared.flag(row, self.index);
            // A quick neighbour may already be at a later step.
            let arrived = || mine.load(Ordering::Acquire) >= step;
            let broken = || self.shared.broken.load(Ordering::Acquire);
            if !self.shared.wait(self.slot, arrived, broken, || self.absent(step), self.count as u32 - 1) {
                resume_unwind(Box::new(Stopped));
            }
            reach *= 2;
            row += 1;
        }
    }

    /// The slot of a worker that has not reached `step`.
    fn absent(&self, step: u64) -> Option<usize> {
        let told = |index: usize| self.shared.flag(0, (index + 1) % self.count).load(Ordering::Relaxed);
        let index = (0..self.count).find(|&i| i != self.index && told(i) < step)?;
        Some(self.shared.slot_of[index].load(Ordering::Relaxed))
    }

    /// Splits the units `0..n` among the workers: every unit is in exactly one call of exactly one worker's `f`.
    ///
    /// Each worker first gets one contiguous range, the same in every run of that many workers (so that its pages and
    /// cache lines stay its own), together about three quarters of the units; then all take chunks of `grain` units
    /// of the rest as they get there, several at a time while many are left: every range starts with a cold stream
    /// of weights. Every range starts at a multiple of `grain`. A `grain` of 0 counts as 1, and
    /// one so small that there were more than 32 768 chunks is multiplied.
    ///
    /// `ticket` (modulo 8) says which counter the chunks are taken from. Shares that follow each other without a
    /// barrier had better use different ones, so that their workers do not disturb each other; that is all.
    pub fn share(&self, ticket: usize, n: usize, grain: usize, mut f: impl FnMut(Range<usize>)) {
        if self.count == 1 {
            if n > 0 {
                f(0..n);
            }
            return;
        }
        let step = self.next_step();
        let mut grain = grain.max(1);
        let own = self.own(n, grain);
        let each = own.len();
        if each > 0 {
            f(own);
        }
        let start = each * self.count;
        let rest = n - start;
        let chunks = rest.div_ceil(grain);
        grain = grain.saturating_mul(chunks.div_ceil(MAX_CHUNKS).max(1));
        let chunks = rest.div_ceil(grain);
        while let Some(some) = self.take(ticket % TICKETS, step, chunks) {
            let end = start.saturating_add(some.end.saturating_mul(grain));
            f(start + some.start * grain..n.min(end));
        }
    }

    /// The range of `0..n` that [`share`](Worker::share) gives this worker first, possibly an empty one.
    pub fn own(&self, n: usize, grain: usize) -> Range<usize> {
        if self.count == 1 {
            return 0..n;
        }
        let each = (n / 4 * 3 + n % 4 * 3 / 4) / self.count;
        let each = each - each % grain.max(1);
        self.index * each..(self.index + 1) * each
    }

    /// The next chunks below `chunks` that nobody has taken in this step: an even share of half of them (guided
    /// self-scheduling, Polychronopoulos and Kuck 1987).
    ///
    /// A ticket is the last step that used it << 16 | chunks taken in it. A worker moves on only when all chunks of its
    /// step are taken, so a ticket of a later step means the same, and one of an earlier step is free to be renewed.
    fn take(&self, ticket: usize, step: u64, chunks: usize) -> Option<Range<usize>> {
        if chunks == 0 {
            return None;
        }
        let ticket = &self.shared.tickets[ticket].0;
        let mut word = ticket.load(Ordering::Relaxed);
        loop {
            let taken = if word >> 16 == step { (word & 0xffff) as usize } else { 0 };
            if word >> 16 > step || taken >= chunks {
                return None;
            }
            // Not fetch_add: others may take the last chunks and renew the ticket for a later step in between.
            let end = taken + ((chunks - taken) / (2 * self.count)).max(1);
            let next = step << 16 | end as u64;
            match ticket.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken..end),
                Err(now) => word = now,
            }
        }
    }
}

impl Shared {
    fn flag(&self, row: usize, index: usize) -> &std::sync::atomic::AtomicU64 {
        &self.flags[row * self.slots.len() + index].0
    }

    /// Waits until `ready`, or until `stop`: then false.
    ///
    /// `me` is the slot that waits, `suspect` names the one waited for, `waiters` is how many will report the same wait.
    #[inline]
    pub(super) fn wait(
        &self,
        me: usize,
        ready: impl Fn() -> bool,
        stop: impl Fn() -> bool,
        suspect: impl Fn() -> Option<usize>,
        waiters: u32,
    ) -> bool {
        for _ in 0..POLLS {
            if ready() {
                return true;
            }
            spin_loop();
        }
        self.wait_long(me, &ready, &stop, &suspect, waiters)
    }

    #[cold]
    fn wait_long(
        &self,
        me: usize,
        ready: &dyn Fn() -> bool,
        stop: &dyn Fn() -> bool,
        suspect: &dyn Fn() -> Option<usize>,
        waiters: u32,
    ) -> bool {
        let start = Instant::now();
        let mut watch: Option<Watch> = None;
        let mut looked = false;
        loop {
            for _ in 0..POLLS {
                if ready() {
                    if let Some(watch) = watch {
                        watch.report(self, waiters);
                    }
                    return true;
                }
                spin_loop();
            }
            if stop() {
                return false;
            }
            let waited = start.elapsed();
            if waited >= self.spin {
                if waited < YIELD {
                    std::thread::yield_now();
                } else {
                    let from = Instant::now();
                    std::thread::sleep(NAP);
                    if let Some(watch) = &mut watch {
                        watch.slept += from.elapsed();
                    }
                }
            }
            if waited >= WATCH && !looked {
                looked = true;
                watch = suspect().and_then(|them| Watch::start(self, me, them));
            }
        }
    }

    /// Keeps the first panic; the unwinding that it causes in others is none.
    fn keep_panic(&self, payload: Payload) {
        if !payload.is::<Stopped>() {
            lock(&self.panic).get_or_insert(payload);
        }
    }

    /// The panic of the run that has just ended, `own` being the caller's.
    pub(super) fn take_panic(&self, own: Option<Payload>) -> Option<Payload> {
        if !self.broken.load(Ordering::Acquire) {
            return None;
        }
        if let Some(own) = own {
            self.keep_panic(own);
        }
        self.broken.store(false, Ordering::Release);
        lock(&self.panic).take()
    }
}

/// A wait under watch: whose lack of a processor makes it long?
///
/// A worker that is waited for and works all the while is no reason to change anything: its share was larger. One that
/// does not run has lost its processor to somebody else, or to the very worker that waits for it.
struct Watch {
    me: Side,
    them: Side,
    at: Instant,
    /// Time that the waiter gave its processor away on purpose.
    slept: Duration,
}

struct Side {
    slot: usize,
    clock: ThreadClock,
    ran: Duration,
}

impl Side {
    fn of(shared: &Shared, slot: usize) -> Option<Side> {
        let clock = (*lock(&shared.slots[slot].clock))?;
        Some(Side { slot, clock, ran: clock.read()? })
    }

    /// Adds what is missing of `time` in the processor time of this side, divided among `reports` of the same.
    fn report(&self, shared: &Shared, time: Duration, reports: u32) {
        let Some(now) = self.clock.read() else { return };
        let lost = time.saturating_sub(now.saturating_sub(self.ran));
        if lost >= LOSS {
            let lost = (lost / reports.max(1)).as_nanos() as u64;
            shared.slots[self.slot].late.fetch_add(lost, Ordering::Relaxed);
            shared.trouble.store(true, Ordering::Relaxed);
        }
    }
}

impl Watch {
    fn start(shared: &Shared, me: usize, them: usize) -> Option<Watch> {
        let (me, them) = (Side::of(shared, me)?, Side::of(shared, them)?);
        Some(Watch { me, them, at: Instant::now(), slept: Duration::ZERO })
    }

    fn report(&self, shared: &Shared, waiters: u32) {
        let passed = self.at.elapsed();
        self.them.report(shared, passed, waiters);
        self.me.report(shared, passed.saturating_sub(self.slept), 1);
    }
}

/// The life of a pool's thread.
pub(super) fn serve(shared: &Shared, slot: usize) {
    INSIDE.set(std::ptr::from_ref(shared).cast());
    let me = &shared.slots[slot];
    *lock(&me.clock) = ThreadClock::of_this_thread();
    let (mut seen, mut sits) = (0, 0);
    loop {
        seen = next_mail(shared, slot, seen);
        if seen & LEAVE == LEAVE {
            return;
        }
        let seat = me.mail.0.seat.load(Ordering::Relaxed);
        if seat != sits {
            cpu::pin_to(seat - 1);
            sits = seat;
        }
        // SAFETY: this mail has not been answered, so the caller leaves the job alone.
        let job = unsafe { *shared.job.get() };
        let index = (seen >> 1 & 0xffff) as usize;
        let worker = Worker { slot, index, count: job.count, step: Cell::new(job.step), shared };
        // SAFETY: `call` is the instance for the type that `data` points to, and that value outlives the run, which
        // ends only after the answer below.
        let ran = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.data, &worker) }));
        if let Err(payload) = ran {
            shared.keep_panic(payload);
            shared.broken.store(true, Ordering::Release);
        }
        me.done.0.step.store(worker.step.get(), Ordering::Relaxed);
        me.done.0.word.store(seen, Ordering::Release);
    }
}

/// Waits for mail other than `seen`: spins, then sleeps.
fn next_mail(shared: &Shared, slot: usize, seen: u64) -> u64 {
    let word = &shared.slots[slot].mail.0.word;
    let mut start = None;
    loop {
        for _ in 0..POLLS {
            let now = word.load(Ordering::Acquire);
            if now != seen {
                return now;
            }
            spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() >= shared.spin {
            break;
        }
    }
    if let Err(now) = word.compare_exchange(seen, seen | SLEEPS, Ordering::AcqRel, Ordering::Acquire) {
        return now;
    }
    loop {
        std::thread::park();
        let now = word.load(Ordering::Acquire);
        if now != seen | SLEEPS {
            return now;
        }
    }
}
