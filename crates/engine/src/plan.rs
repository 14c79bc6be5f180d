//! The plan: what runs, checked before the first token, printed by `explain`, hashed into every record (DESIGN 5.4).
//! Facts in it are read off the loaded model and the opened techniques, never off intentions.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tamp_base::card::{Card, CardError, Effect, Knobs, Need};
use tamp_base::ids::PAGE;
use tamp_base::settings::Settings;
use tamp_kv::{Device, Kv};
use tamp_model::Model;

use crate::error::EngineError;
use crate::memory::Forecast;
use crate::options::EngineOptions;

/// What this engine gives to techniques.
const GIVEN: &[Need] = &[Need::Tree, Need::Rewind];

/// Plans made by this process.
static MADE: AtomicU64 = AtomicU64::new(0);

/// Plans made by this process so far: a run that moves this has not used the one it had.
pub fn made() -> u64 {
    MADE.load(Ordering::Relaxed)
}

/// The accepted plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// always `tamp.plan`
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// the model's geometry
    pub model: ModelFacts,
    /// name of the device
    pub device: String,
    /// stage → kernel that runs it
    pub kernels: Vec<(String, String)>,
    /// where keys and values live
    pub kv: KvFacts,
    /// positions per sequence
    pub ctx: usize,
    /// contexts that the plan distinguishes, ascending, positions
    pub buckets: Vec<usize>,
    /// rows per forward pass
    pub chunk: usize,
    /// rows that prompts may take of a pass while answers are under way, or others may come
    pub share: usize,
    /// sequences per forward pass
    pub batch: usize,
    /// what is chosen in each room
    pub techniques: Vec<Chosen>,
    /// memory; not part of the hash
    pub memory: Forecast,
    /// first 16 hex digits of blake3 over everything above except memory
    pub hash: String,
}

/// Geometry of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelFacts {
    /// architecture, as the file names it
    pub arch: &'static str,
    /// transformer layers
    pub layers: usize,
    /// residual width
    pub d: usize,
    /// query heads
    pub heads: usize,
    /// KV heads
    pub kv_heads: usize,
    /// elements per head
    pub head_dim: usize,
    /// feed-forward width
    pub ff: usize,
    /// vocabulary
    pub vocab: usize,
    /// positions the model was made for
    pub ctx_train: usize,
    /// weight bytes read per forward pass
    pub weight_bytes: u64,
}

/// The KV memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvFacts {
    /// element format of each group
    pub formats: Vec<String>,
    /// positions per page
    pub page: usize,
    /// pages per group
    pub pages: usize,
    /// bytes of all pages
    pub bytes: u64,
}

/// A chosen technique.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chosen {
    /// the room
    pub room: &'static str,
    /// the member
    pub name: &'static str,
    /// what it may do to the output
    pub effect: Effect,
    /// its knobs and values
    pub knobs: Vec<(&'static str, String)>,
    /// where the choice came from
    pub from: String,
}

impl Plan {
    pub(crate) fn make<D: Device>(
        model: &Model<D>,
        kv: &Kv<D>,
        chosen: &[(&'static str, &'static Card)],
        settings: &Settings,
        options: &EngineOptions,
        process: u64,
    ) -> Result<Plan, EngineError> {
        MADE.fetch_add(1, Ordering::Relaxed);
        let techniques =
            chosen.iter().map(|&(room, card)| choose(room, card, settings)).collect::<Result<Vec<_>, _>>()?;
        let s = &model.shape;
        let model_facts = ModelFacts {
            arch: s.arch,
            layers: s.layers,
            d: s.d,
            heads: s.heads,
            kv_heads: s.kv_heads,
            head_dim: s.head_dim,
            ff: s.ff,
            vocab: s.vocab,
            ctx_train: s.ctx_train,
            weight_bytes: model.weight_bytes(),
        };
        let kv_facts = KvFacts {
            formats: kv.shapes().iter().map(|g| g.kind.to_string()).collect(),
            page: PAGE,
            pages: kv.total(),
            bytes: kv.bytes() as u64,
        };
        let mut plan = Plan {
            kind: "tamp.plan",
            v: 1,
            model: model_facts,
            device: model.device().name(),
            kernels: model.kernels(),
            kv: kv_facts,
            ctx: options.ctx,
            buckets: vec![options.ctx],
            chunk: options.chunk,
            share: options.share,
            batch: options.batch,
            techniques,
            memory: Forecast::default(),
            hash: String::new(),
        };
        plan.hash = plan.digest();
        plan.memory = Forecast {
            process,
            weights: model.own_bytes(),
            mapped: model.made().adopted_bytes,
            buffers: model.buffer_bytes(),
            sampling: Forecast::sampling(options.batch, model.shape.vocab),
            kv: kv.bytes() as u64,
            ..Forecast::default()
        }
        .sum();
        Ok(plan)
    }

    /// Memory and the hash itself are at their defaults here: the same plan on another day has the same hash.
    fn digest(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        blake3::hash(text.as_bytes()).to_hex()[..16].to_string()
    }
}

/// Checks a card's needs against what the engine gives.
pub(crate) fn needs(room: &str, card: &Card) -> Result<(), CardError> {
    let Some(need) = card.needs.iter().find(|n| !GIVEN.contains(n)) else { return Ok(()) };
    let why = format!("it needs {need:?}, which this model and engine do not give");
    Err(CardError::Refused { card: format!("{room}.{}", card.name), why })
}

fn choose(room: &'static str, card: &'static Card, settings: &Settings) -> Result<Chosen, CardError> {
    needs(room, card)?;
    let knobs = Knobs::read(room, card, settings)?;
    let from = settings.all().find(|&(key, ..)| key == room).map_or("default", |(_, _, from)| from);
    Ok(Chosen {
        room,
        name: card.name,
        effect: card.effect,
        knobs: card.knobs.iter().map(|k| (k.name, knobs.choice(k.name).to_string())).collect(),
        from: from.to_string(),
    })
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.model;
        writeln!(
            f,
            "model: {}, {} layers, width {}, {} heads over {} KV heads of {}, feed-forward {}, vocabulary {}",
            m.arch, m.layers, m.d, m.heads, m.kv_heads, m.head_dim, m.ff, m.vocab
        )?;
        writeln!(f, "device: {}", self.device)?;
        for (stage, kernel) in &self.kernels {
            writeln!(f, "kernel {stage}: {kernel}")?;
        }
        writeln!(f, "weights read per forward pass: {:.1} MB", mb(m.weight_bytes))?;
        writeln!(f, "context: {} of {} positions", self.ctx, m.ctx_train)?;
        let (batch, chunk) = (self.batch, self.chunk);
        write!(f, "batch: {batch} sequences, {chunk} rows per forward pass")?;
        match batch {
            1 => writeln!(f)?,
            _ => writeln!(f, ", {} of prompts beside answers", self.share)?,
        }
        let (formats, k) = (self.kv.formats.join(", "), &self.kv);
        writeln!(f, "kv: {formats}, {} pages of {} positions, {:.1} MB", k.pages, k.page, mb(k.bytes))?;
        for t in &self.techniques {
            let knobs: Vec<_> = t.knobs.iter().map(|(k, v)| format!(" {k}={v}")).collect();
            writeln!(f, "{}: {}{} ({:?}, {})", t.room, t.name, knobs.concat(), t.effect, t.from)?;
        }
        let (load, full) = (mb(self.memory.after_load), mb(self.memory.at_full));
        writeln!(f, "memory: {load:.1} MB after load, {full:.1} MB at full context and batch")?;
        if self.memory.mapped > 0 {
            writeln!(
                f,
                "memory: {:.1} MB of weights are used where the bundle holds them",
                mb(self.memory.mapped)
            )?;
        }
        write!(f, "plan: {}", self.hash)
    }
}
