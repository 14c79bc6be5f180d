//! Rows of what stands around the forward pass: policy, budgets, costs, the prefix cache and its tier, spans, pressure.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use tamp_base::clock::SystemClock;
use tamp_base::ids::{PAGE, PageId, SeqId, TenantId, Token};
use tamp_base::settings::Settings;
use tamp_base::span::{Kind, Span};
use tamp_bench::BenchError;
use tamp_bench::ops::Ready;
use tamp_engine::budget::{self, Budget, Gates};
use tamp_engine::cost::{Asked, Rates};
use tamp_engine::intake::coalesce::{self, Prefix};
use tamp_engine::policy::{self, Charge, Desk, Line, PolicyCtx};
use tamp_engine::pressure::{self, Facts};
use tamp_engine::trace::{self, Laid};
use tamp_engine::{EngineError, Request, idle, intake, outlet};
use tamp_kernels::device::{RowMap, SeqRows};
use tamp_kv::prefix::chain;
use tamp_kv::tier::{self, PageName, TierCtx};
use tamp_kv::{Book, PrefixKey, pick};

use super::landed::Row;

/// The rows, in the table's order.
pub const ROWS: &[Row] = &[
    (
        "AttentionDeduplicator",
        "lookup() cache=512 d=64 (miss)",
        "the exact form: a batch of 16 sequences of 512 keys is looked through, none shared",
        |_| pick_row(0),
    ),
    (
        "AttentionDeduplicator",
        "store() FIFO evict",
        "the exact form: 16 sequences that share 512 keys are put together; nothing is stored",
        |_| pick_row(512),
    ),
    (
        "TenantScheduler",
        "next_request() WFQ 2 tenants",
        "a whole turn for two tenants' answers: order, rows, pages, charges",
        |_| next_request(),
    ),
    (
        "TenantScheduler",
        "submit() single request",
        "a tenant's request into the engine's bounded queue and out of it",
        |_| submit(),
    ),
    (
        "CacheWarmupPredictor",
        "record_access() 8 tokens",
        "a sequence takes 8 cached positions and gives them back",
        |_| record_access(),
    ),
    (
        "CacheWarmupPredictor",
        "get_warmup_candidates() top_k=8",
        "an idle look at 64 prefixes: the 8 asked for most, and what of them is missing",
        |_| candidates(),
    ),
    ("TokenBudgetGate", "tick() hard mode", "a token reserved before the step and settled after it", |_| {
        tick()
    }),
    (
        "TokenBudgetGate",
        "reset() new request",
        "a request's end settled, and the next one asked whether it may begin",
        |_| reset(),
    ),
    ("SpanCollector", "record() DECODE span", "one span into the ring", |_| span()),
    (
        "SpanCollector",
        "record()+finish() full lifecycle",
        "a turn of one sequence: laid, kept, ended; two spans into the ring",
        |_| lifecycle(),
    ),
    (
        "PrefixCoalescer",
        "add_request() buffering",
        "a newcomer of 64 tokens is held behind one that computes the same",
        |_| buffering(),
    ),
    (
        "PrefixCoalescer",
        "add×4+coalesce() 20-tok prefix",
        "four newcomers: the first starts, three wait for the full page they have in common",
        |_| coalesced(),
    ),
    ("FaultHandler", "evaluate() pressure=0.95 batch=8", "the room's decision on given measurements", |_| {
        evaluate(0.95)
    }),
    ("FaultHandler", "evaluate() pressure=0.50 batch=8", "the room's decision on given measurements", |_| {
        evaluate(0.50)
    }),
    (
        "RequestCostEstimator",
        "estimate() prefill=512 decode=128",
        "time and pages from the engine's fitted rates",
        |_| estimate(),
    ),
    (
        "PersistentContextCache",
        "put() 8 tokens kv=(8,8,64)",
        "a page of 16 positions, K and V in f16, 32 KiB: hashed, written to a file, renamed, an old one removed",
        |_| put(),
    ),
    (
        "PersistentContextCache",
        "get() hit_rate=100.0%",
        "the same page read back from its file and checked against its hashes",
        |_| get(),
    ),
];

/// Settings of these words.
pub fn settings(uses: &[&str], sets: &[&str]) -> Result<Settings, EngineError> {
    let mut s = Settings::default();
    uses.iter().try_for_each(|u| s.add_use(u, "ops"))?;
    sets.iter().try_for_each(|x| s.add_set(x, "ops"))?;
    Ok(s)
}

/// Something was not as the row needs it.
pub fn wrong(what: impl Into<String>) -> BenchError {
    BenchError::Ended(what.into())
}

/// Only operations that nothing in memory bounds.
pub fn ready(run: impl FnMut() + 'static) -> Result<Ready, BenchError> {
    Ok(Ready { run: Box::new(run), bytes: 0 })
}

const ROOT: PrefixKey = PrefixKey { hash: [7; 32], namespace: 0 };

/// 16 sequences of 512 keys and a row each, of which the first `same` keys are in the same pages.
fn pick_row(same: usize) -> Result<Ready, BenchError> {
    let (seqs, keys) = (16, 512);
    let mut map = RowMap::default();
    for s in 0..seqs {
        map.seqs.push(SeqRows { first: s, count: 1, committed: keys, table: map.table.len() });
        let own = |p: usize| PageId((if p < same / PAGE { p } else { (s + 1) * 1000 + p }) as u32);
        map.table.extend((0..=keys / PAGE).map(own));
        map.pos.push(keys as u32);
        map.seq.push(s as u32);
        map.path_at.push(None);
    }
    let (mut pick, _) =
        pick::TABLE.open(&(), &settings(&["kv.pick=dedupe"], &[])?).map_err(EngineError::Card)?;
    let mut maps = [map];
    pick.pick(&mut maps);
    if maps[0].alike.len() != usize::from(same > 0) {
        return Err(wrong(format!("{} groups of sequences", maps[0].alike.len())));
    }
    ready(move || pick.pick(black_box(&mut maps)))
}

fn next_request() -> Result<Ready, BenchError> {
    let ctx = PolicyCtx { chunk: 64, batch: 2, share: 64 };
    let chosen = settings(&["engine.policy=tenant"], &[])?;
    let (mut policy, _) = policy::TABLE.open(&ctx, &chosen).map_err(EngineError::Card)?;
    let (mut book, committed) = (Book::new(1, 16), 20);
    let mut lines = Vec::new();
    for tenant in 0..2 {
        let seq = book.open();
        book.reserve(seq, committed).map_err(|e| wrong(e.to_string()))?;
        book.commit(seq, &(0..committed as u32).collect::<Vec<_>>()).map_err(|e| wrong(e.to_string()))?;
        lines.push(Line {
            seq,
            tokens: committed + 1,
            prompt: committed,
            limit: 100,
            ready: true,
            held: false,
            tenant: TenantId(tenant),
            weight: 1.0 + tenant as f32,
            most_running: 0,
            priority: 0,
            received: Duration::ZERO,
            deadline: None,
            expect: None,
        });
    }
    let mut turn = move || {
        let mut begin = |_: &mut Book, _| 0;
        let turn = policy.choose(&lines, &mut Desk::new(&mut book, &mut begin), Duration::ZERO);
        let charge =
            |l: &Line| Charge { seq: l.seq, tenant: l.tenant, weight: l.weight, prefill: 0, decode: 1 };
        policy.charge(&[charge(&lines[0]), charge(&lines[1])]);
        lines.iter().for_each(|l| {
            book.rewind(l.seq, committed);
        });
        turn.parts.len()
    };
    match turn() {
        2 => ready(move || {
            black_box(turn());
        }),
        n => Err(wrong(format!("{n} of 2 sequences chosen"))),
    }
}

fn submit() -> Result<Ready, BenchError> {
    let (intake, mail) = intake::intake(64, Arc::new(SystemClock::default()));
    let mut request = Request { prompt: vec![1; 64], ..Request::default() };
    request.who.tenant = TenantId(1);
    ready(move || {
        let (sender, _receiver) = outlet::channel(8);
        let _ = black_box(intake.send(request.clone(), Box::new(sender)));
        black_box(mail.try_take());
    })
}

fn tokens(seed: usize, n: usize) -> Vec<Token> {
    (0..n).map(|i| (seed * 1009 + i) as Token).collect()
}

/// A book whose tree has these prefixes, each used `uses` times.
fn cached(prefixes: &[Vec<Token>], uses: usize) -> Result<Book, BenchError> {
    let mut book = Book::new(1, 2 * prefixes.len() + 8);
    for p in prefixes {
        let seq = book.open();
        book.reserve(seq, p.len()).map_err(|e| wrong(e.to_string()))?;
        book.commit(seq, &(0..p.len() as u32).collect::<Vec<_>>()).map_err(|e| wrong(e.to_string()))?;
        book.publish(seq, ROOT, p);
        for _ in 1..uses {
            book.rewind(seq, 0);
            book.adopt(seq, ROOT, p, p.len());
        }
        book.close(seq);
    }
    Ok(book)
}

fn record_access() -> Result<Ready, BenchError> {
    let page = tokens(1, PAGE);
    let mut book = cached(std::slice::from_ref(&page), 1)?;
    let seq = book.open();
    match book.adopt(seq, ROOT, &page[..8], 8) {
        8 => ready(move || {
            book.rewind(seq, 0);
            black_box(book.adopt(seq, ROOT, &page[..8], 8));
        }),
        n => Err(wrong(format!("{n} of 8 positions cached"))),
    }
}

fn candidates() -> Result<Ready, BenchError> {
    let prefixes: Vec<_> = (0..64).map(|i| tokens(i, PAGE)).collect();
    let book = cached(&prefixes, 3)?;
    if book.hot(8).len() != 8 {
        return Err(wrong(format!("{} of 8 prefixes", book.hot(8).len())));
    }
    let chosen = settings(&["engine.idle=warmup"], &["engine.idle.warmup.every_ms=1"])?;
    let (mut idle, _) = idle::TABLE.open(&(), &chosen).map_err(EngineError::Card)?;
    let mut now = Duration::ZERO;
    ready(move || {
        now += Duration::from_millis(1);
        let missing = |h: &tamp_kv::Hot| h.tokens.len().saturating_sub(book.matched(&h.root, &h.tokens));
        black_box(idle.next(now, &mut |n| book.hot(n), &missing));
    })
}

fn gates() -> Result<Gates, BenchError> {
    let (gate, _) =
        budget::TABLE.open(&(), &settings(&["engine.gate=tokenbudget"], &[])?).map_err(EngineError::Card)?;
    Ok(Gates::new(gate))
}

fn tick() -> Result<Ready, BenchError> {
    let (mut gates, budget) = (gates()?, Arc::new(Budget::new(1 << 60)));
    ready(move || {
        black_box(gates.ask(SeqId(1), &budget, true, 1));
        gates.settle(SeqId(1), 2);
    })
}

fn reset() -> Result<Ready, BenchError> {
    let (mut gates, budget, mut seq) = (gates()?, Arc::new(Budget::new(1 << 60)), SeqId(0));
    ready(move || {
        gates.forget(seq, 1);
        seq.0 += 1;
        black_box(gates.ask(seq, &budget, false, 0));
    })
}

fn span() -> Result<Ready, BenchError> {
    let (mut trace, _) =
        trace::TABLE.open(&(), &settings(&["engine.trace=spans"], &[])?).map_err(EngineError::Card)?;
    let mut at = Duration::ZERO;
    ready(move || {
        at += Duration::from_micros(9);
        trace.span(Span::between(Kind::Decode, 1, at, at + Duration::from_micros(8)).counts(1, 1));
    })
}

fn lifecycle() -> Result<Ready, BenchError> {
    let (mut trace, _) =
        trace::TABLE.open(&(), &settings(&["engine.trace=spans"], &[])?).map_err(EngineError::Card)?;
    let mut at = Duration::ZERO;
    ready(move || {
        at += Duration::from_micros(9);
        trace.laid(Laid { trace: 1, rows: 1, prompt: 0, draft: 0, received: None });
        trace.kept(1, 1);
        trace.turn(at, at + Duration::from_micros(8));
    })
}

/// Asks which of these must wait, and forgets those that have not started; `want`: who waits.
fn coalesce_row(prompts: Vec<(Vec<Token>, usize)>, there: usize, want: &[bool]) -> Result<Ready, BenchError> {
    let chosen = settings(&["engine.coalesce=prefix"], &[])?;
    let (mut room, _) = coalesce::TABLE.open(&(), &chosen).map_err(EngineError::Card)?;
    let mut hold = move || {
        let lines: Vec<Prefix<'_>> = prompts
            .iter()
            .zip(0..)
            .map(|((tokens, committed), i)| Prefix {
                seq: SeqId(i),
                root: ROOT,
                tokens,
                committed: *committed,
                ready: true,
            })
            .collect();
        let held = room.hold(&lines, &|_| there);
        lines.iter().filter(|l| l.committed == 0).for_each(|l| room.forget(l.seq));
        held
    };
    let got = hold();
    if got != want {
        return Err(wrong(format!("{got:?} wait")));
    }
    ready(move || {
        black_box(hold());
    })
}

fn buffering() -> Result<Ready, BenchError> {
    coalesce_row(vec![(tokens(1, 64), PAGE), (tokens(1, 64), 0)], PAGE, &[false, true])
}

fn coalesced() -> Result<Ready, BenchError> {
    let prompt = |i: usize| ([tokens(1, 20), tokens(i, 20)].concat(), 0);
    coalesce_row((2..6).map(prompt).collect(), 0, &[false, true, true, true])
}

fn evaluate(share: f64) -> Result<Ready, BenchError> {
    let chosen = settings(&["engine.pressure=degrade"], &["engine.pressure.degrade.every_ms=1"])?;
    let (mut room, _) = pressure::TABLE.open(&(), &chosen).map_err(EngineError::Card)?;
    let whole = 1u64 << 33;
    let used = (share * whole as f64) as u64;
    let facts = Facts {
        used,
        available: whole - used,
        idle: 0,
        page: 1 << 16,
        pages_free: 512,
        pages_total: 1024,
        running: 8,
        waiting: 0,
    };
    let mut now = Duration::ZERO;
    ready(move || {
        now += Duration::from_millis(1);
        black_box(room.look(now, &mut || black_box(facts)));
    })
}

fn estimate() -> Result<Ready, BenchError> {
    let rates = Rates { base: 9e6, prompt: 1.1e6, token: 0.6e6, key: 8e4 };
    let asked = Asked { prefill: 512, cached: 0, decode: 128.0, chunk: 256, beside: 0 };
    ready(move || {
        black_box(black_box(rates).estimate(black_box(&asked)));
    })
}

/// Bytes of a page of 16 positions, 8 KV heads of 64, K and V in f16.
const PAGE_BYTES: usize = 2 * PAGE * 8 * 64 * 2;

/// A tier in a folder of its own that holds 1 MiB.
fn disk() -> Result<(tempfile::TempDir, Box<dyn tier::Tier>), BenchError> {
    let dir = tempfile::tempdir().map_err(|e| wrong(e.to_string()))?;
    let home = Some(dir.path().to_path_buf());
    let chosen = settings(&["kv.tier=disk"], &["kv.tier.disk.mib=1"])?;
    let (tier, _) =
        tier::TABLE.open(&TierCtx { home, ..TierCtx::default() }, &chosen).map_err(EngineError::Card)?;
    Ok((dir, tier))
}

/// The first page of some prompt.
fn name(i: u32) -> PageName {
    let ids = [i; PAGE];
    PageName { key: chain(&ROOT.hash, &ids), parent: ROOT.hash, ids, index: 0 }
}

const LAYOUT: &str = "ops";
const WAIT: Duration = Duration::from_secs(10);

fn put() -> Result<Ready, BenchError> {
    let (dir, mut tier) = disk()?;
    let (bytes, mut at) = (vec![3u8; PAGE_BYTES], 0);
    let mut save = move || {
        let _keeps_the_folder = &dir;
        // A page that is there is not written again.
        at += 1;
        tier.save(&name(at), LAYOUT, bytes.clone())
            && tier.flush(WAIT)
            && tier.counts().saved == u64::from(at)
    };
    if !(0..64).all(|_| save()) {
        return Err(wrong("a page could not be written"));
    }
    ready(move || {
        black_box(save());
    })
}

fn get() -> Result<Ready, BenchError> {
    let (dir, mut tier) = disk()?;
    let page = name(0);
    let saved = tier.save(&page, LAYOUT, vec![3; PAGE_BYTES]) && tier.flush(WAIT);
    let mut out = Vec::new();
    if !saved || !tier.load(&page, LAYOUT, PAGE_BYTES, &mut out) {
        return Err(wrong("a page could not be read back"));
    }
    ready(move || {
        let _keeps_the_folder = &dir;
        black_box(tier.load(&page, LAYOUT, PAGE_BYTES, &mut out));
    })
}
