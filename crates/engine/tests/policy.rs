//! Every policy in simulated time, over the real book of pages: bounds of a pass, nobody lost, nobody starved, fair
//! shares, short prompts beside long ones.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tamp_base::ids::{PAGE, SeqId, TenantId};
use tamp_base::settings::Settings;
use tamp_engine::Turn;
use tamp_engine::policy::{Charge, Line, Policy, PolicyCtx, TABLE};
use tamp_kv::Book;

/// What somebody asks for.
#[derive(Clone, Copy, Debug)]
struct Job {
    tenant: u32,
    weight: f32,
    cap: usize,
    priority: i32,
    prompt: usize,
    answer: usize,
}

const JOB: Job = Job { tenant: 0, weight: 1.0, cap: 0, priority: 0, prompt: 16, answer: 8 };

struct Live {
    line: Line,
    answer: usize,
    /// passes and ms at receipt
    came: (u64, f64),
}

/// An answer that ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    seq: SeqId,
    tenant: u32,
    passes: u64,
    ms: f64,
}

struct Sim {
    policy: Box<dyn Policy>,
    ctx: PolicyCtx,
    book: Book,
    live: Vec<Live>,
    ended: Vec<Ended>,
    /// seq → ms to the first token
    first: BTreeMap<SeqId, f64>,
    /// tenant → (prompt rows, answer rows)
    served: BTreeMap<u32, (usize, usize)>,
    ms: f64,
    /// a pass takes `base + row · rows` ms; 0.9 and 0.1 are those of a small model on a CPU
    base: f64,
    row: f64,
    passes: u64,
    rows: usize,
    preempted: u64,
}

fn open(policy: &str, ctx: &PolicyCtx) -> Box<dyn Policy> {
    let mut s = Settings::default();
    s.add_use(&format!("engine.policy={policy}"), "").unwrap();
    TABLE.open(ctx, &s).unwrap().0
}

fn names() -> Vec<&'static str> {
    TABLE.rows.iter().map(|e| e.card.name).collect()
}

impl Sim {
    fn new(policy: &str, ctx: PolicyCtx, pages: usize) -> Sim {
        Sim {
            policy: open(policy, &ctx),
            ctx,
            book: Book::new(1, pages),
            live: vec![],
            ended: vec![],
            first: BTreeMap::new(),
            served: BTreeMap::new(),
            ms: 0.0,
            base: 0.9,
            row: 0.1,
            passes: 0,
            rows: 0,
            preempted: 0,
        }
    }

    fn submit(&mut self, job: Job) -> SeqId {
        let seq = self.book.open();
        let line = Line {
            seq,
            tokens: job.prompt,
            prompt: job.prompt,
            limit: job.prompt + job.answer,
            ready: true,
            held: false,
            tenant: TenantId(job.tenant),
            weight: job.weight,
            most_running: job.cap,
            priority: job.priority,
            received: Duration::from_micros((self.ms * 1e3) as u64),
            deadline: None,
            expect: None,
        };
        self.live.push(Live { line, answer: job.answer, came: (self.passes, self.ms) });
        seq
    }

    fn count(&self, tenant: u32) -> usize {
        self.live.iter().filter(|l| l.line.tenant.0 == tenant).count()
    }

    /// One pass, and everything that must hold of it.
    fn step(&mut self) -> Turn {
        let lines: Vec<Line> = self.live.iter().map(|l| l.line).collect();
        let before: BTreeMap<SeqId, usize> = lines.iter().map(|l| (l.seq, self.book.len(l.seq))).collect();
        let now = Duration::from_micros((self.ms * 1e3) as u64);
        let turn = self.policy.choose(&lines, &mut self.book, now);
        self.preempted += turn.preempted.len() as u64;
        let rows: usize = turn.parts.iter().map(|p| p.rows).sum();
        assert!(rows <= self.ctx.chunk, "{rows} rows of {}", self.ctx.chunk);
        assert!(turn.parts.len() <= self.ctx.batch, "{} parts of {}", turn.parts.len(), self.ctx.batch);
        let drafts: usize = turn.parts.iter().map(|p| p.draft).sum();
        assert!(rows + drafts <= self.ctx.chunk.max(rows), "{rows} rows and {drafts} drafts");
        let (mut charges, mut prompts, mut answers) = (vec![], 0, 0);
        for (i, p) in turn.parts.iter().enumerate() {
            assert!(turn.parts[..i].iter().all(|q| q.seq != p.seq), "{:?} twice", p.seq);
            assert!(!turn.preempted.contains(&p.seq), "{:?} gave its pages up and runs", p.seq);
            let live = self.live.iter_mut().find(|l| l.line.seq == p.seq).expect("nobody's rows");
            let (l, len) = (&mut live.line, before[&p.seq]);
            assert!(l.ready, "a paused sequence runs");
            assert!(!(l.held && len == 0), "a held newcomer runs");
            assert!((1..=l.tokens - len).contains(&p.rows), "{} rows, {len} of {}", p.rows, l.tokens);
            assert!(self.book.table(p.seq, 0).len() * PAGE >= len + p.rows, "rows without pages");
            let decodes = len > 0 && l.tokens == len + 1;
            *(if decodes { &mut answers } else { &mut prompts }) += p.rows;
            let kept: Vec<u32> = (0..p.rows as u32).collect();
            self.book.commit(p.seq, &kept).unwrap();
            let (prefill, decode) = if decodes { (0, 1) } else { (p.rows, 0) };
            charges.push(Charge { seq: p.seq, tenant: l.tenant, weight: l.weight, prefill, decode });
            let served = self.served.entry(l.tenant.0).or_default();
            *served = (served.0 + prefill, served.1 + decode);
        }
        let share = self.ctx.share;
        assert!(
            answers == 0 || prompts <= share + (share / 8).max(1),
            "{prompts} prompt rows beside answers"
        );
        self.policy.charge(&charges);
        if rows > 0 {
            self.passes += 1;
            self.rows += rows;
            self.ms += self.base + self.row * rows as f64;
        }
        let mut done = vec![];
        for p in &turn.parts {
            let live = self.live.iter_mut().find(|l| l.line.seq == p.seq).unwrap();
            let l = &mut live.line;
            if self.book.len(p.seq) == l.tokens {
                l.tokens += 1;
                self.first.entry(p.seq).or_insert(self.ms - live.came.1);
                if l.tokens - l.prompt == live.answer {
                    done.push(p.seq);
                }
            }
        }
        for seq in done {
            let i = self.live.iter().position(|l| l.line.seq == seq).unwrap();
            let l = self.live.remove(i);
            self.book.close(seq);
            self.policy.forget(seq);
            let (passes, ms) = (self.passes - l.came.0, self.ms - l.came.1);
            self.ended.push(Ended { seq, tenant: l.line.tenant.0, passes, ms });
        }
        self.book.integrity().unwrap();
        turn
    }

    fn is_done(&self, seq: SeqId) -> bool {
        self.ended.iter().any(|e| e.seq == seq)
    }
}

fn p99(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[(v.len() * 99).div_ceil(100) - 1]
}

fn jobs() -> impl Strategy<Value = Vec<(Job, usize)>> {
    let job = (0u32..4, 0usize..3, -5i32..5, 1usize..120, 1usize..30, 0usize..60).prop_map(
        |(tenant, cap, priority, prompt, answer, at)| {
            let weight = [0.5, 1.0, 3.0, f32::NAN][tenant as usize];
            (Job { tenant, weight, cap, priority, prompt, answer }, at)
        },
    );
    prop::collection::vec(job, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pass_keeps_its_bounds_and_nobody_is_lost(
        jobs in jobs(),
        policy in 0usize..4,
        batch in 1usize..6,
        more in prop_oneof![Just(0usize), Just(3), Just(60)],
        share in prop_oneof![Just(1usize), Just(8), Just(64)],
        // the longest job needs 10 pages
        pages in 10usize..30,
        flips in prop::collection::vec((0usize..25, any::<bool>(), any::<bool>()), 0..200),
    ) {
        let mut sim = Sim::new(names()[policy], PolicyCtx { chunk: batch + more, batch, share }, pages);
        let mut flips = flips.into_iter();
        for t in 0.. {
            jobs.iter().filter(|j| j.1 == t).for_each(|j| { sim.submit(j.0); });
            if let Some((i, ready, held)) = flips.next() {
                if let Some(l) = sim.live.get_mut(i) {
                    (l.line.ready, l.line.held) = (ready, held);
                }
            } else if t > 60 {
                sim.live.iter_mut().for_each(|l| (l.line.ready, l.line.held) = (true, false));
            }
            if t > 60 && sim.live.is_empty() {
                break;
            }
            let turn = sim.step();
            prop_assert!(turn.starved.is_empty(), "{:?} can be held alone", turn.starved);
            let able = sim.live.iter().any(|l| l.line.ready && !l.line.held);
            prop_assert!(t <= 260 || !able || !turn.parts.is_empty(), "nobody runs at {t}");
            prop_assert!(t < 30_000, "{} sequences never end", sim.live.len());
        }
        prop_assert_eq!(sim.ended.len(), jobs.len());
        prop_assert_eq!(sim.book.room(), pages);
    }
}

#[test]
fn a_newcomer_that_waits_for_others_pages_blocks_nobody() {
    for name in names() {
        let mut sim = Sim::new(name, PolicyCtx { chunk: 64, batch: 2, share: 64 }, 100);
        let held = sim.submit(Job { priority: 9, ..JOB });
        sim.live[0].line.held = true;
        let next = sim.submit(JOB);
        for _ in 0..20 {
            sim.step();
        }
        assert!(sim.is_done(next) && !sim.is_done(held), "{name}");
        sim.live[0].line.held = false;
        (0..20).for_each(|_| drop(sim.step()));
        assert!(sim.is_done(held), "{name}");
    }
}

#[test]
fn a_tenant_at_its_cap_blocks_nobody() {
    for name in names() {
        let mut sim = Sim::new(name, PolicyCtx { chunk: 64, batch: 8, share: 64 }, 1000);
        (0..6).for_each(|_| {
            sim.submit(Job { tenant: 1, cap: 2, answer: 50, ..JOB });
        });
        let other = sim.submit(Job { tenant: 2, ..JOB });
        for _ in 0..40 {
            sim.step();
            let running = |l: &&Live| l.line.tenant.0 == 1 && sim.book.len(l.line.seq) > 0;
            assert!(sim.live.iter().filter(running).count() <= 2, "{name}");
        }
        assert!(sim.is_done(other), "{name}");
    }
}

/// Milliseconds to the first token of short prompts that come one after the other, with or without a long one beside.
fn short_ttft(policy: &str, short: usize, long: Option<usize>) -> f64 {
    let mut sim = Sim::new(policy, PolicyCtx { chunk: 256, batch: 8, share: 64 }, 4000);
    let mut ttft = vec![];
    for i in 0..200 {
        if let Some(prompt) = long
            && sim.count(1) == 0
        {
            sim.submit(Job { tenant: 1, prompt, answer: 1, ..JOB });
        }
        (0..i % 7).for_each(|_| drop(sim.step()));
        // comes while a pass runs: at its start, at worst
        let into = sim.ms;
        sim.step();
        let rest = sim.ms - into;
        let seq = sim.submit(Job { tenant: 2, prompt: short, answer: 8, ..JOB });
        while !sim.is_done(seq) {
            sim.step();
        }
        ttft.push(sim.first[&seq] + rest);
    }
    p99(ttft)
}

#[test]
fn a_short_prompt_waits_at_most_as_long_again_while_a_long_one_prefills() {
    for name in names() {
        for short in [128, 200] {
            let (idle, beside) = (short_ttft(name, short, None), short_ttft(name, short, Some(4000)));
            assert!(beside <= 2.0 * idle, "{name}, {short} tokens: {beside:.1} ms beside {idle:.1}");
        }
    }
}

#[test]
fn a_long_prompt_ends_under_a_stream_of_short_ones() {
    for name in names() {
        let mut sim = Sim::new(name, PolicyCtx { chunk: 128, batch: 4, share: 32 }, 4000);
        let long = sim.submit(Job { tenant: 1, prompt: 2000, answer: 4, ..JOB });
        let mut passes = 0;
        while !sim.is_done(long) {
            while sim.count(2) < 6 {
                sim.submit(Job { tenant: 2, prompt: 60, answer: 4, ..JOB });
            }
            sim.step();
            passes += 1;
            // An eighth of a share per pass is 2000 / 4 passes at worst. By length alone it first has to wait until it
            // is as short as the others: 190 tokens at 20 per second, in passes of 5 ms.
            let most = if name == "sjf" { 2500 } else { 600 };
            assert!(passes < most, "{name}: the long prompt starves");
        }
    }
}

/// Runs two tenants in closed loops of `loops` for a while: their service in charges, rows per pass, latencies of both.
fn two(
    policy: &str,
    ctx: PolicyCtx,
    loops: [usize; 2],
    weights: [f32; 2],
    costs: (f64, f64),
) -> ([f64; 2], f64, [Vec<Ended>; 2]) {
    let mut sim = Sim::new(policy, ctx, 4000);
    (sim.base, sim.row) = costs;
    let mut n = 0usize;
    for _ in 0..6000 {
        for t in 0..2 {
            while sim.count(t as u32) < loops[t] {
                n += 1;
                let (prompt, answer) = (20 + n * 37 % 60, 10 + n * 53 % 40);
                sim.submit(Job { tenant: t as u32, weight: weights[t], prompt, answer, ..JOB });
            }
        }
        sim.step();
    }
    let charge = |t: u32| sim.served.get(&t).map_or(0.0, |s| s.0 as f64 + 2.0 * s.1 as f64);
    let of = |t: u32| sim.ended.iter().filter(|e| e.tenant == t).copied().collect::<Vec<_>>();
    ([charge(0), charge(1)], sim.rows as f64 / sim.passes as f64, [of(0), of(1)])
}

fn jain(x: [f64; 2]) -> f64 {
    let (sum, squares) = (x[0] + x[1], x[0] * x[0] + x[1] * x[1]);
    sum * sum / (2.0 * squares)
}

#[test]
fn tenants_are_served_by_weight_however_much_they_ask_for() {
    let ctx = PolicyCtx { chunk: 64, batch: 4, share: 32 };
    for (weights, loops) in [([1.0, 1.0], [40, 4]), ([1.0, 3.0], [40, 4]), ([2.0, 1.0], [4, 40])] {
        let (served, ..) = two("tenant", ctx, loops, weights, (0.9, 0.1));
        let fair = jain([served[0] / f64::from(weights[0]), served[1] / f64::from(weights[1])]);
        assert!(fair >= 0.95, "weights {weights:?}: {served:?}, Jain {fair:.3}");
    }
    let (unfair, ..) = two("fcfs", ctx, [40, 4], [1.0, 1.0], (0.9, 0.1));
    assert!(jain(unfair) < 0.8, "the load does not tell fair from unfair: {unfair:?}");
}

#[test]
fn a_light_tenant_hardly_notices_a_heavy_one_and_no_throughput_is_lost() {
    let ctx = PolicyCtx { chunk: 64, batch: 8, share: 16 };
    let last = |e: &[Ended]| p99(e.iter().map(|e| e.passes as f64).collect());
    let time = |e: &[Ended]| p99(e.iter().map(|e| e.ms).collect());
    // memory-bound: a pass is hardly longer with 24 rows than with one
    let costs = (1.0, 0.01);
    let (_, _, solo) = two("tenant", ctx, [0, 1], [1.0, 1.0], costs);
    let (_, rows, both) = two("tenant", ctx, [10, 1], [1.0, 1.0], costs);
    let (passes, alone) = (last(&both[1]), last(&solo[1]));
    assert!(passes <= 1.5 * alone, "p99 of {passes} passes, {alone} alone");
    let (ms, alone) = (time(&both[1]), time(&solo[1]));
    assert!(ms <= 1.5 * alone, "p99 of {ms:.1} ms, {alone:.1} alone");
    let (_, plain, _) = two("fcfs", ctx, [10, 1], [1.0, 1.0], costs);
    assert!(rows >= 0.98 * plain, "{rows:.2} rows per pass, {plain:.2} first come first served");
}

#[test]
fn four_streams_beside_forty_are_answered_at_least_three_times_as_soon_as_first_come_first_served() {
    // of a small model on a CPU, where every row makes a pass longer
    let (ctx, costs) = (PolicyCtx { chunk: 64, batch: 8, share: 32 }, (0.9, 0.1));
    let light =
        |policy| p99(two(policy, ctx, [40, 4], [1.0, 1.0], costs).2[1].iter().map(|e| e.ms).collect());
    let (fair, plain) = (light("tenant"), light("fcfs"));
    assert!(3.0 * fair < plain, "p99 of {fair:.1} ms, {plain:.1} first come first served");
}

#[test]
fn nobody_saves_service_up_by_staying_away() {
    let mut sim = Sim::new("tenant", PolicyCtx { chunk: 64, batch: 2, share: 32 }, 1000);
    let busy = |sim: &mut Sim, tenants: &[u32], passes: usize| {
        for _ in 0..passes {
            for &t in tenants {
                while sim.count(t) < 4 {
                    sim.submit(Job { tenant: t, answer: 20, ..JOB });
                }
            }
            sim.step();
        }
    };
    busy(&mut sim, &[1], 3000);
    let before = sim.served[&1];
    busy(&mut sim, &[1, 2], 400);
    let (old, new) = (sim.served[&1].1 - before.1, sim.served[&2].1);
    assert!(old * 10 > new * 8, "the one that was there got {old} rows, the one that came {new}");
    assert!(new * 10 > old * 8, "the one that came got {new} rows, the one that was there {old}");
}

#[test]
fn the_higher_priority_goes_first_and_the_lower_does_not_starve() {
    let mut sim = Sim::new("priority", PolicyCtx { chunk: 64, batch: 2, share: 32 }, 1000);
    (0..2).for_each(|_| {
        sim.submit(Job { answer: 200, ..JOB });
    });
    (0..5).for_each(|_| drop(sim.step()));
    let low = sim.submit(Job { priority: -3, ..JOB });
    let high = sim.submit(Job { priority: 3, ..JOB });
    while !sim.is_done(high) {
        sim.step();
    }
    assert!(sim.ended.len() == 1 && sim.preempted == 0, "it waits for nobody and costs nobody its pages");
    // A stream of the highest cannot keep it out for longer than its levels' ages: 6 of 2000 ms.
    while !sim.is_done(low) {
        while sim.live.len() < 6 {
            sim.submit(Job { priority: 3, answer: 40, ..JOB });
        }
        sim.step();
        assert!(sim.ms < 14_000.0, "the lowest starves");
    }
    assert!(sim.ms > 5_000.0, "the lowest went before the highest");
}

#[test]
fn the_shortest_rest_goes_first_and_the_longest_does_not_starve() {
    let mean = |policy: &str| {
        let mut sim = Sim::new(policy, PolicyCtx { chunk: 64, batch: 2, share: 32 }, 1000);
        (0..40).for_each(|i| {
            sim.submit(Job { answer: [400, 10, 20, 10][i % 4], ..JOB });
        });
        while !sim.live.is_empty() {
            sim.step();
        }
        sim.ended.iter().map(|e| e.ms).sum::<f64>() / 40.0
    };
    let (sjf, fcfs) = (mean("sjf"), mean("fcfs"));
    assert!(2.0 * sjf < fcfs, "mean of {sjf:.0} ms, {fcfs:.0} first come first served");
    let mut sim = Sim::new("sjf", PolicyCtx { chunk: 64, batch: 2, share: 32 }, 1000);
    let long = sim.submit(Job { answer: 300, ..JOB });
    while !sim.is_done(long) {
        while sim.live.len() < 6 {
            sim.submit(Job { answer: 10, ..JOB });
        }
        sim.step();
        // 300 tokens of shortness at 20 per second
        assert!(sim.ms < 20_000.0, "the longest starves");
    }
}
