//! Sends a load: callers that wait for their answers (closed loop), or arrivals that wait for nobody (open loop). All
//! on one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, sleep_until};

use super::client::Client;
use super::draw::Draw;
use super::outcome::{Error, Outcome};
use super::script::{IDLE, Kind, LONGS, Script, WARM};
use super::{Ask, Load, Work};
use crate::BenchError;

/// A caller that was turned away without being told for how long waits so long before its next request, and no caller
/// longer than [`PATIENCE`].
const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

/// Told how many requests are done.
pub type Progress = Rc<dyn Fn(usize)>;

/// One part of a load.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// see [`Script::session`]
    pub part: u64,
    /// how it is sent
    pub load: Load,
    /// requests; those of a session are never split
    pub requests: Option<usize>,
    /// no session begins after this
    pub duration: Option<Duration>,
    /// a caller beside it sends long prompts
    pub long: bool,
}

impl Part {
    /// The counted requests.
    pub(super) fn counted(ask: &Ask) -> Part {
        let long = ask.work == Work::LongPrompt;
        Part { part: 0, load: ask.load, requests: ask.requests, duration: ask.duration, long }
    }

    /// The same load of requests that are not counted.
    pub(super) fn warm(ask: &Ask) -> Part {
        let streams = match ask.load {
            Load::Closed { concurrency } => concurrency,
            Load::Open { .. } => 1,
        };
        // One caller for each tenant, however few requests: a load that may run must not fail at its warm-up.
        let streams = streams.min(ask.warmup.max(1)).max(ask.tenants.len());
        Part { part: WARM, ..Part::closed(streams, ask.warmup) }
    }

    /// Short requests while nobody sends a long one.
    pub(super) fn idle(ask: &Ask) -> Part {
        Part { part: IDLE, long: false, ..Part::counted(ask) }
    }

    /// So many callers, so many requests of the counted ones.
    pub(super) fn closed(concurrency: usize, requests: usize) -> Part {
        Part {
            part: 0,
            load: Load::Closed { concurrency },
            requests: Some(requests),
            duration: None,
            long: false,
        }
    }
}

/// What the callers share.
struct Hands {
    client: Client,
    script: Rc<Script>,
    ask: Rc<Ask>,
    out: RefCell<Vec<Outcome>>,
    next: Cell<usize>,
    part: Part,
    progress: Progress,
}

/// Sends one part and waits for its answers. Times count from the first moment of it.
pub(super) fn drive(
    ask: &Rc<Ask>,
    script: &Rc<Script>,
    part: Part,
    progress: &Progress,
) -> Result<Vec<Outcome>, BenchError> {
    let rt = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let hands = Rc::new(Hands {
        client: Client::new(ask.clone(), Instant::now()),
        script: script.clone(),
        ask: ask.clone(),
        out: RefCell::default(),
        next: Cell::new(0),
        part,
        progress: progress.clone(),
    });
    let tenants = match part.load {
        Load::Closed { concurrency } => seats(&ask.tenants, concurrency)?,
        Load::Open { .. } => Vec::new(),
    };
    LocalSet::new().block_on(&rt, async {
        let mut all = JoinSet::new();
        let busy = Rc::new(Cell::new(true));
        if part.long {
            all.spawn_local(long(hands.clone(), busy.clone()));
        }
        let mut callers = JoinSet::new();
        match part.load {
            Load::Closed { .. } => {
                for tenant in tenants {
                    callers.spawn_local(caller(hands.clone(), tenant));
                }
            }
            Load::Open { rate, arrival } => {
                let arrivals = arrival.times(rate, ask.seed);
                arrive(&hands, arrivals, &mut callers).await;
            }
        }
        while callers.join_next().await.is_some() {}
        busy.set(false);
        while all.join_next().await.is_some() {}
    });
    let mut out = hands.out.take();
    sort_short(&mut out);
    out.sort_by_key(|o| (o.kind, o.index, o.turn));
    Ok(out)
}

/// Which tenant each caller of a closed loop belongs to: by their load, the largest remainder first, one at least.
pub(super) fn seats(tenants: &[super::Tenant], callers: usize) -> Result<Vec<usize>, BenchError> {
    if callers < tenants.len() {
        return Err(BenchError::Ask(format!(
            "{callers} callers cannot belong to {} tenants; use a larger --concurrency",
            tenants.len()
        )));
    }
    let all: f64 = tenants.iter().map(|t| t.load).sum();
    let mut out: Vec<usize> = (0..tenants.len()).collect();
    while out.len() < callers {
        let missing = |i: usize| {
            let has = out.iter().filter(|&&t| t == i).count() as f64;
            tenants[i].load / all * callers as f64 - has
        };
        let most = (0..tenants.len()).max_by(|&a, &b| missing(a).total_cmp(&missing(b)).then(b.cmp(&a)));
        out.push(most.unwrap_or(0));
    }
    Ok(out)
}

impl Hands {
    /// The index of the next session, while there is one.
    fn take(&self) -> Option<usize> {
        let per = if self.ask.work == Work::Agent { self.ask.turns } else { 1 };
        let i = self.next.get();
        let over = self.part.duration.is_some_and(|d| self.client.now() >= d)
            || self.part.requests.is_some_and(|n| i * per >= n);
        if over {
            return None;
        }
        self.next.set(i + 1);
        Some(i)
    }

    /// Runs a session to its end; a turn that failed ends it. How long the caller should wait now.
    async fn session(&self, part: u64, index: usize, tenant: usize, intended: Option<Duration>) -> Duration {
        let (mut history, mut wait) = (Vec::new(), Duration::ZERO);
        let mut intended = intended.unwrap_or_else(|| self.client.now());
        for (i, turn) in self.script.session(part, index).turns.iter().enumerate() {
            let body = self.script.body(turn, &history);
            let key = self.ask.tenants.get(tenant).and_then(|t| t.key.as_deref());
            let o = Outcome::new(index, i, tenant, intended);
            let o = self.client.one(turn, self.script.path(), key, body, o).await;
            let turned_away = o.status == 429 || o.status == 503 || o.error == Some(Error::Refused);
            if turned_away {
                wait = o.retry_after.map_or(PAUSE, Duration::from_secs).min(PATIENCE);
            }
            let goes_on = o.ok();
            history.push((turn.text.clone(), o.text.clone()));
            self.out.borrow_mut().push(o);
            (self.progress)(self.out.borrow().len());
            if !goes_on {
                break;
            }
            intended = self.client.now();
        }
        wait
    }
}

/// A caller of a closed loop.
async fn caller(h: Rc<Hands>, tenant: usize) {
    while let Some(index) = h.take() {
        let wait = h.session(h.part.part, index, tenant, None).await;
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

/// One long prompt after another, as long as the others are busy.
async fn long(h: Rc<Hands>, busy: Rc<Cell<bool>>) {
    let mut index = 0;
    while busy.get() {
        let wait = h.session(LONGS, index, 0, None).await;
        index += 1;
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

/// Sends at the intended times, whatever became of those before. Beyond `max_in_flight` a request waits for its
/// connection, and that time counts.
async fn arrive(h: &Rc<Hands>, times: impl Iterator<Item = Duration>, callers: &mut JoinSet<()>) {
    let room = Arc::new(Semaphore::new(h.ask.max_in_flight));
    let loads: Vec<f64> = h.ask.tenants.iter().map(|t| t.load).collect();
    let start = tokio::time::Instant::now() - h.client.now();
    for at in times {
        if h.part.duration.is_some_and(|d| at >= d) {
            break;
        }
        sleep_until(start + at).await;
        let Some(index) = h.take() else { break };
        let tenant = Draw::keyed(h.ask.seed ^ 0x7e4a, h.part.part + index as u64).weighted(&loads);
        let (h, room) = (h.clone(), room.clone());
        callers.spawn_local(async move {
            // Nobody closes it.
            let _permit = room.acquire_owned().await;
            h.session(h.part.part, index, tenant, Some(at)).await;
        });
        while callers.try_join_next().is_some() {}
    }
}

/// Short requests that waited for their first token while no long prompt was under way say nothing about company.
fn sort_short(out: &mut [Outcome]) {
    let end = |o: &Outcome| o.first.unwrap_or(o.end);
    let busy: Vec<(Duration, Duration)> =
        out.iter().filter(|o| o.kind == Kind::Long).map(|o| (o.sent, end(o))).collect();
    for o in out.iter_mut().filter(|o| o.kind == Kind::Short) {
        let (from, to) = (o.intended, end(o));
        if !busy.iter().any(|&(a, b)| from < b && a < to) {
            o.kind = Kind::Between;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Tenant;

    fn tenants(loads: &[f64]) -> Vec<Tenant> {
        loads.iter().map(|&load| Tenant { load, ..Tenant::default() }).collect()
    }

    #[test]
    fn callers_are_shared_out_by_load_and_every_tenant_has_one() {
        let count = |loads: &[f64], n| {
            let s = seats(&tenants(loads), n).unwrap();
            (0..loads.len()).map(|i| s.iter().filter(|&&t| t == i).count()).collect::<Vec<_>>()
        };
        assert_eq!(count(&[10.0, 1.0], 11), [10, 1]);
        assert_eq!(count(&[10.0, 1.0], 4), [3, 1]);
        assert_eq!(count(&[1.0, 1.0, 1.0], 7), [3, 2, 2]);
        assert_eq!(count(&[1.0], 5), [5]);
        assert!(seats(&tenants(&[1.0, 1.0]), 1).is_err());
    }

    #[test]
    fn what_may_run_may_be_warmed_up() {
        for load in [Load::Closed { concurrency: 2 }, Load::Open { rate: 5.0, arrival: Arrival::Constant }] {
            for warmup in [1, 4] {
                let ask = Ask { load, warmup, tenants: tenants(&[10.0, 1.0]), ..crate::serve::tests::ask() };
                let Load::Closed { concurrency } = Part::warm(&ask).load else { panic!("a closed loop") };
                assert!(seats(&ask.tenants, concurrency).is_ok(), "{concurrency} callers");
            }
        }
    }

    #[test]
    fn a_short_request_counts_as_beside_a_long_one_only_where_their_waits_overlap() {
        let o = |kind, from: u64, first: u64| Outcome {
            kind,
            first: Some(Duration::from_millis(first)),
            ..Outcome::new(0, 0, 0, Duration::from_millis(from))
        };
        let mut all = [
            o(Kind::Long, 100, 200),
            o(Kind::Short, 0, 100),
            o(Kind::Short, 90, 110),
            o(Kind::Short, 150, 160),
            o(Kind::Short, 200, 210),
        ];
        sort_short(&mut all);
        let kinds: Vec<Kind> = all.iter().map(|o| o.kind).collect();
        assert_eq!(kinds, [Kind::Long, Kind::Between, Kind::Short, Kind::Short, Kind::Between]);
    }
}
