//! Which published operations have landed: one entry per row of the table, each a function that prepares what the
//! engine itself calls, at the published shape. A technique that lands adds its entry here and its twin to
//! `bench/peers/ops_numpy.py`.

use std::sync::Arc;

use tamp_base::ids::{PAGE, PageId, SeqId, Token};
use tamp_base::settings::Settings;
use tamp_bench::BenchError;
use tamp_bench::ops::Ready;
use tamp_engine::EngineError;
use tamp_formats::Kind;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::device::{
    AttnShape, AttnWeights, Best, BufShape, Device, FfnWeights, KvShape, Pairing, Projection, Rope, RowMap,
    SeqRows,
};
use tamp_model::batch::{Batch, Node, Outputs, Want};
use tamp_sample::{Chain, Params};
use tamp_spec::{Exam, accept};

/// How a row is prepared.
pub type Open = fn(&Arc<Cpu>) -> Result<Ready, BenchError>;

/// `(module, operation, what is timed, how)`.
pub type Row = (&'static str, &'static str, &'static str, Open);

/// All that have landed.
pub fn landed() -> impl Iterator<Item = &'static Row> {
    ARITHMETIC.iter().chain(super::engine::ROWS).chain(super::server::ROWS)
}

/// Rows of the device and of what feeds it.
const ARITHMETIC: &[Row] = &[
    (
        "TreeVerifier",
        "verify() 3-branch 4-draft vocab=4096",
        "the acceptor at temperature 0.8, one branch right to its end: five choices over all logits, the most work",
        tree_verify,
    ),
    (
        "FlashPrefillKernel",
        "prefill() seq=256 chunk=64 h=4 d=32",
        "phase B of four chunks, causal, over f16 pages",
        flash_prefill,
    ),
    (
        "SeqPacking",
        "pack() 32 short seqs (8–64 tokens)",
        "the ragged batch with its row maps; it has no padding and so no mask",
        pack_short,
    ),
    (
        "SeqPacking",
        "pack() 8 long seqs (128–512 tokens)",
        "the ragged batch with its row maps; it has no padding and so no mask",
        pack_long,
    ),
    (
        "PIPO",
        "run_layer() in=out=4096",
        "the shared product over f32 weights in memory, as the original timed; loading ahead is not built",
        pipo_layer,
    ),
    (
        "FRSpec",
        "head.forward() top-25% vocab",
        "the shared head over 8192 × 4096 f32; ranking by frequency is not built",
        frspec_head,
    ),
    (
        "LongSpec",
        "LongSpecHead.forward() h=4096",
        "the shared product 4096 × 4096 and head 32000 × 4096, f32; the trained draft is not built",
        longspec_head,
    ),
];

/// Pseudo-random values in -1..1.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// An f32 matrix on the device; rows repeat after a few, which no kernel can tell.
fn matrix(cpu: &Cpu, rows: usize, cols: usize) -> Result<<Cpu as Device>::Linear, BenchError> {
    let few: Vec<u8> = values(16 * cols, 3).iter().flat_map(|v| (v * 0.02).to_le_bytes()).collect();
    let mut bytes = Vec::with_capacity(rows * cols * 4);
    while bytes.len() < rows * cols * 4 {
        let take = few.len().min(rows * cols * 4 - bytes.len());
        bytes.extend_from_slice(&few[..take]);
    }
    Ok(cpu.linear(Kind::F32, rows, cols, &bytes)?)
}

/// One sequence: `count` rows behind `committed` positions.
fn rows(committed: usize, count: usize) -> RowMap {
    RowMap {
        pos: (committed..committed + count).map(|p| p as u32).collect(),
        seq: vec![0; count],
        seqs: vec![SeqRows { first: 0, count, committed, table: 0 }],
        table: (0..(committed + count).div_ceil(PAGE) as u32).map(PageId).collect(),
        path: Vec::new(),
        path_at: vec![None; count],
        alike: vec![],
    }
}

const PLAIN: Rope = Rope { freq: Vec::new(), scale: 1.0, pairing: Pairing::Half };

fn flash_prefill(cpu: &Arc<Cpu>) -> Result<Ready, BenchError> {
    let (heads, head_dim, chunk, seq) = (4, 32, 64, 256);
    let d = heads * head_dim;
    let shape = BufShape {
        rows: chunk,
        d,
        q: d,
        kv: d,
        heads,
        kv_heads: heads,
        head_dim,
        ff: 16,
        vocab: seq,
        logits: 0,
        ctx: seq,
    };
    let projection = || Ok::<_, BenchError>(Projection::<Cpu> { w: matrix(cpu, d, d)?, bias: None });
    let attn = AttnWeights::<Cpu> {
        norm: cpu.vector(&vec![1.0; d])?,
        q: projection()?,
        k: projection()?,
        v: projection()?,
        o: projection()?,
        q_norm: None,
        k_norm: None,
        shape: AttnShape {
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            eps: 1e-5,
            rope: Arc::new(PLAIN),
        },
    };
    let table = matrix(cpu, seq, d)?;
    let mut pages = cpu.pages(&KvShape { layers: 1, heads, head_dim, kind: Kind::F16 }, seq / PAGE)?;
    let mut chunks = Vec::new();
    for at in (0..seq).step_by(chunk) {
        let map = rows(at, chunk);
        let mut buf = cpu.buf(&shape)?;
        let tokens: Vec<Token> = (at as u32..(at + chunk) as u32).collect();
        cpu.embed(&table, &tokens, &map, &PLAIN, &mut buf);
        cpu.phase_a(&attn, &map, 0, &mut pages, &mut buf);
        chunks.push((map, buf));
    }
    let cpu = cpu.clone();
    let run = move || {
        for (map, buf) in &mut chunks {
            cpu.phase_b(&attn.shape, map, 0, &pages, buf);
        }
    };
    Ok(Ready { run: Box::new(run), bytes: 0 })
}

fn tree_verify(_: &Arc<Cpu>) -> Result<Ready, BenchError> {
    let (vocab, branches, depth) = (4096, 3, 4);
    let params = Params { temperature: 0.8, seed: 7, ..Params::default() };
    let mut chain = Chain::new(params, &[0], vocab).map_err(EngineError::Params)?;
    let (mut acceptor, _) = accept::TABLE.open(&(), &Settings::default()).map_err(EngineError::Card)?;
    let count = 1 + branches * depth;
    let mut out = Outputs::new(count);
    for r in 0..count {
        out.set_best(r, Best { token: 0, logit: 1.0, nan: false });
        out.set_logits(r, values(vocab, r as u64 + 1));
    }
    // Every guess is wrong at first; no token has the number of the vocabulary's size.
    let node = |parent: Option<u32>| Node { token: vocab as Token, parent, want: Want::Full };
    let mut nodes = vec![node(None)];
    for _ in 0..branches {
        for i in 0..depth {
            nodes.push(node(Some(if i == 0 { 0 } else { nodes.len() as u32 - 1 })));
        }
    }
    let mut judge = move |nodes: &[Node]| {
        let exam = Exam { nodes, first: 0, root: 0, position: 1, chain: &mut chain };
        acceptor.judge(exam, &mut out).map_err(|e| BenchError::Ended(e.to_string()))
    };
    // What the target draws along the last branch, found by asking it.
    for i in count - depth..count {
        nodes[i].token = judge(&nodes)?.choices.last().map_or(0, |c| c.token);
    }
    let accepted = judge(&nodes)?.accepted();
    if accepted != depth {
        return Err(BenchError::Ended(format!("{accepted} of {depth} guesses accepted")));
    }
    let run = move || {
        let _ = std::hint::black_box(judge(&nodes));
    };
    Ok(Ready { run: Box::new(run), bytes: 0 })
}

fn pack_short(_: &Arc<Cpu>) -> Result<Ready, BenchError> {
    Ok(pack(32, 8, 64))
}

fn pack_long(_: &Arc<Cpu>) -> Result<Ready, BenchError> {
    Ok(pack(8, 128, 512))
}

/// `count` prompts of `shortest` to `longest` tokens, evenly spread.
fn pack(count: usize, shortest: usize, longest: usize) -> Ready {
    let prompts: Vec<(Vec<Node>, Vec<PageId>)> = (0..count)
        .map(|s| {
            let len = shortest + (longest - shortest) * s / (count - 1);
            let node = |i: usize| Node {
                token: (s * longest + i) as Token,
                parent: i.checked_sub(1).map(|p| p as u32),
                want: if i + 1 == len { Want::Choose } else { Want::Nothing },
            };
            let pages = (0..len.div_ceil(PAGE)).map(|p| PageId((s * longest / PAGE + p) as u32));
            ((0..len).map(node).collect(), pages.collect())
        })
        .collect();
    let run = move || {
        let mut batch = Batch::new(1);
        for (s, (nodes, table)) in prompts.iter().enumerate() {
            batch.push(SeqId(s as u64), 0, std::iter::once(table.as_slice()), nodes);
        }
        std::hint::black_box(&batch);
    };
    Ready { run: Box::new(run), bytes: 0 }
}

/// The down projection of one row over an f32 matrix of `down` rows, then the head of `head` rows (0: none of it);
/// all columns are 4096.
fn product(cpu: &Arc<Cpu>, down: usize, head: usize) -> Result<Ready, BenchError> {
    let d = 4096;
    let shape = BufShape {
        rows: 1,
        d,
        q: 16,
        kv: 16,
        heads: 1,
        kv_heads: 1,
        head_dim: 16,
        ff: d,
        vocab: head.max(1),
        logits: 1,
        ctx: 16,
    };
    let (mut buf, map) = (cpu.buf(&shape)?, rows(0, 1));
    let projection = |n| Ok::<_, BenchError>(Projection::<Cpu> { w: matrix(cpu, n, d)?, bias: None });
    let mut ffn = FfnWeights::<Cpu> {
        norm: cpu.vector(&vec![1.0; d])?,
        gate: projection(d)?,
        up: projection(d)?,
        down: projection(down.max(1))?,
        eps: 1e-5,
    };
    // Gate and up only make the product's input; they are not timed and their memory is given back.
    cpu.embed(&matrix(cpu, 1, d)?, &[0], &map, &PLAIN, &mut buf);
    cpu.phase_d(&ffn, &map, &mut buf);
    (ffn.gate, ffn.up) = (projection(1)?, projection(1)?);
    let head = (head > 0).then(|| matrix(cpu, head, d)).transpose()?;
    let down_bytes = if down > 0 { cpu.linear_bytes(&ffn.down.w) } else { 0 };
    let bytes = down_bytes + head.as_ref().map_or(0, |h| cpu.linear_bytes(h));
    let norm = cpu.vector(&vec![1.0; d])?;
    let cpu = cpu.clone();
    let run = move || {
        if down > 0 {
            cpu.phase_e(&ffn, &map, &mut buf);
        }
        if let Some(head) = &head {
            cpu.head(&norm, 1e-5, head, &[0], &[0], &mut buf);
        }
    };
    Ok(Ready { run: Box::new(run), bytes: bytes as u64 })
}

fn pipo_layer(cpu: &Arc<Cpu>) -> Result<Ready, BenchError> {
    product(cpu, 4096, 0)
}

fn frspec_head(cpu: &Arc<Cpu>) -> Result<Ready, BenchError> {
    product(cpu, 0, 8192)
}

fn longspec_head(cpu: &Arc<Cpu>) -> Result<Ready, BenchError> {
    product(cpu, 4096, 32_000)
}

#[cfg(test)]
mod tests {
    use tamp_bench::ops::table;
    use tamp_kernels::pool::Pool;
    use tamp_kernels::rung;

    use super::*;

    #[test]
    fn every_landed_entry_is_a_row_of_the_table_and_has_a_numpy_twin() {
        let table = table().unwrap();
        for (module, operation, note, _) in landed() {
            let row = table.iter().find(|o| o.module == *module && o.operation == *operation);
            assert!(row.is_some() && !note.is_empty(), "{module} {operation}");
            let key = format!("\"{module}|{operation}\"");
            assert!(super::super::TWINS.contains(&key), "no twin for {key}");
        }
    }

    #[test]
    fn every_row_beside_the_device_prepares_and_runs() {
        let cpu = Arc::new(Cpu::new(Arc::new(Pool::new(1, false)), rung::available().next().unwrap()));
        for (module, operation, _, open) in
            super::super::engine::ROWS.iter().chain(super::super::server::ROWS)
        {
            let mut ready = open(&cpu).unwrap_or_else(|e| panic!("{module} {operation}: {e}"));
            (0..3).for_each(|_| (ready.run)());
            assert_eq!(ready.bytes, 0);
        }
    }

    #[test]
    fn techniques_of_serving_have_all_their_rows() {
        let modules = [
            "AttentionDeduplicator",
            "TenantScheduler",
            "CacheWarmupPredictor",
            "TokenBudgetGate",
            "SpanCollector",
            "PrefixCoalescer",
            "InferenceHealthMonitor",
            "FaultHandler",
            "ModelPool",
            "ChunkedStreamer",
            "RequestCostEstimator",
            "SLAMonitor",
            "PersistentContextCache",
            "SeqPacking",
            "FlashPrefillKernel",
        ];
        for row in table().unwrap().iter().filter(|r| modules.contains(&r.module)) {
            let built = landed().any(|l| (l.0, l.1) == (row.module, row.operation));
            assert!(built, "{} {}", row.module, row.operation);
        }
    }

    #[test]
    fn cards_of_serving_state_the_published_names_and_claims() {
        let claims = [
            ("kv.pick", "dedupe", "AttentionDeduplicator", "FLOPs (dedup attention): hit rate × FLOPs saved"),
            ("engine.policy", "tenant", "TenantScheduler", "multi-tenant fairness: weight-proportional"),
            ("engine.idle", "warmup", "CacheWarmupPredictor", "cold-start TTFT: top-k prefix hits"),
            ("engine.gate", "tokenbudget", "TokenBudgetGate", "token budget overshoot: hard 0 overshoot"),
            ("engine.trace", "spans", "SpanCollector", "trace overhead: < 1 µs per span"),
            (
                "engine.coalesce",
                "prefix",
                "PrefixCoalescer",
                "prefill FLOPs (coalesce): LCP × (n−1) tokens saved",
            ),
            (
                "server.health",
                "monitor",
                "InferenceHealthMonitor",
                "incident detection: rolling-window p99/error",
            ),
            ("engine.pressure", "degrade", "FaultHandler", "OOM prevention: ordered degradation"),
            ("server.pool", "lru", "ModelPool", "GPU idle time: LRU eviction"),
            ("server.stream", "chunked", "ChunkedStreamer", "time to first byte: chunk_size latency"),
            ("server.cost", "rows", "RequestCostEstimator", "billing accuracy: 3-factor granularity"),
            ("server.sla", "burn", "SLAMonitor", "SLA response time: escalation alerts"),
            ("kv.tier", "disk", "PersistentContextCache", "prefix recompute FLOPs: TTL-cached KV"),
        ];
        let rooms: Vec<_> = tamp_engine::rooms().into_iter().chain(tamp_server::send::rooms()).collect();
        for (room, name, aka, claim) in claims {
            let room = rooms.iter().find(|r| r.name == room).unwrap();
            let card = room.cards.iter().find(|c| c.name == name).unwrap();
            assert_eq!((card.aka, card.claim), (&*format!("{aka} (wave 21/22)"), claim), "{name}");
        }
    }

    #[test]
    fn landed_rows_prepare_and_run_on_this_machine() {
        let cpu = Arc::new(Cpu::new(Arc::new(Pool::new(1, false)), rung::available().next().unwrap()));
        for (open, bytes) in [
            (tree_verify as Open, 0),
            (flash_prefill, 0),
            (pack_short, 0),
            (pack_long, 0),
            (pipo_layer, 4 << 24),
        ] {
            let mut ready = open(&cpu).unwrap();
            (ready.run)();
            (ready.run)();
            assert_eq!(ready.bytes, bytes);
        }
    }
}
