//! The loop: sequences, the turn, the plan (DESIGN §4).
//!
//! | module | what it holds |
//! |---|---|
//! | `step` | the only loop there is; read it first |
//! | [`request`] | what somebody asks for and gets |
//! | `score` | what the model thinks of a given answer, through the same loop |
//! | [`plan`] | what will run, checked before the first token and hashed |
//! | [`policy`], [`forecast`] | the rooms `engine.policy` and `engine.forecast` |
//! | [`budget`] | the room `engine.gate`: tokens that callers may still have |
//! | [`cost`] | whose time a step was, and what a request would cost |
//! | [`memory`] | how much memory an engine takes |
//! | [`turn`] | who takes part in a forward pass |
//! | [`outlet`], [`intake`] | the bounded ends towards other threads |
//! | [`drive`] | an engine on its own thread |
//! | [`trace`], [`pressure`] | the rooms `engine.trace` and `engine.pressure` |
//! | [`rooms`] | all rooms an engine reads |
#![forbid(unsafe_code)]

mod admit;
mod applies;
mod aside;
pub mod budget;
pub mod cost;
mod deliver;
pub mod drive;
mod error;
pub mod forecast;
pub mod idle;
pub mod intake;
pub mod memory;
pub mod options;
pub mod outlet;
pub mod plan;
pub mod policy;
pub mod pressure;
pub mod request;
pub mod reuse;
mod rooms;
mod rows;
mod score;
mod seq;
mod stats;
mod step;
pub mod trace;
pub mod turn;

use std::collections::BTreeMap;
use std::sync::Arc;

use tamp_base::clock::Clock;
use tamp_base::ids::SeqId;
use tamp_base::settings::Settings;
use tamp_kv::{Device, Kv, TierCtx};
use tamp_model::{LoadOptions, Model, Run, family};
use tamp_spec::{Acceptor, Proposer};
use tamp_text::Tokenizer;
use tamp_weights::Weights;
use tamp_weights::bundle::Watch;

use aside::Aside;
use budget::Gates;
use cost::Meter;
use forecast::Forecaster;
use idle::Idle;
use intake::coalesce::{self, Coalesce};
use intake::{Intake, Mail};
use policy::{Policy, PolicyCtx};
use reuse::{Reuse, Roots};
use seq::Seq;

pub use error::{Cause, EngineError, Failure};
pub use options::EngineOptions;
pub use plan::Plan;
pub use request::{Answer, Cancel, Cost, Event, Request, Task, Usage, Who};
pub use rooms::{residency, rooms};
pub use score::See;
pub use stats::Stats;
pub use tamp_kv::KvEvent;
pub use tamp_sample::{FinishReason, Params, dry};
pub use turn::Turn;

/// Rows of the head computed at once. A weight row is read once per this many; more rows only grow the scratch.
const HEAD_ROWS: usize = 8;

/// One process' engine: the loaded models, the KV memory, the sequences.
pub struct Engine<D: Device> {
    models: Vec<Model<D>>,
    kv: Kv<D>,
    run: Run,
    tokenizer: Arc<Tokenizer>,
    /// by id, and so in order of arrival
    seqs: BTreeMap<SeqId, Seq>,
    policy: Box<dyn Policy>,
    coalesce: Box<dyn Coalesce>,
    reuse: Box<dyn Reuse>,
    idle: Box<dyn Idle>,
    roots: Roots,
    proposer: Box<dyn Proposer>,
    accept: Box<dyn Acceptor>,
    clock: Arc<dyn Clock>,
    intake: Intake,
    mail: Mail,
    plan: Plan,
    ctx: usize,
    queue: usize,
    preemptions: u64,
    finished: u64,
    forecast: Forecaster,
    gates: Gates,
    meter: Meter,
    aside: Aside,
    /// what an operator should read
    notes: Vec<String>,
    /// tells when the weights in use are no longer those that were opened
    watch: Option<Arc<Watch>>,
}

impl<D: Device> Engine<D> {
    /// Loads a model and makes its engine. `progress(done, total)` counts source bytes. `tokenizer` is asked for when the
    /// weights stand, so that it may be made meanwhile.
    pub fn load(
        weights: &Weights,
        device: Arc<D>,
        tokenizer: impl FnOnce() -> Result<Arc<Tokenizer>, EngineError>,
        settings: &Settings,
        options: EngineOptions,
        clock: Arc<dyn Clock>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        settings.check(&rooms())?;
        let (_, shape) = family::of(weights)?;
        let options = options.resolve(&shape)?;
        let load = LoadOptions {
            rows: options.chunk,
            logits: options.batch.min(HEAD_ROWS),
            ctx: options.ctx,
            kv: *tamp_kv::codec::TABLE.open(&(), settings)?.0,
            decode: settings.used(rooms::DECODE) == Some(rooms::DECODED.name),
        };
        let (model, stand) =
            Model::load_then(weights, device, &load, progress, || -> Result<_, EngineError> {
                let tokenizer = tokenizer()?;
                // What compiling a large vocabulary left free would else be counted here, and again as the buffers that are
                // made of it: 17 MB of Qwen's.
                tamp_os::memory::give_back();
                Ok((tokenizer, tamp_os::memory::rss().anonymous))
            })?;
        let (tokenizer, used) = stand?;
        let process = used.saturating_sub(model.own_bytes());
        let mut engine =
            Self::assemble(model, tokenizer, settings, options, clock, process, || weights.content())?;
        engine.watch = weights.bundle().map(|b| b.watch().clone());
        Ok(engine)
    }

    /// An engine for a loaded model. Everything that can be refused is refused here or at [`Engine::submit`].
    pub fn new(
        model: Model<D>,
        tokenizer: Arc<Tokenizer>,
        settings: &Settings,
        options: EngineOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let process = tamp_os::memory::rss().anonymous.saturating_sub(model.own_bytes());
        let content = *blake3::hash(&std::process::id().to_le_bytes()).as_bytes();
        Self::assemble(model, tokenizer, settings, options, clock, process, || content)
    }

    /// `process`: anonymous bytes in use beside the weights, before buffers and pages.
    fn assemble(
        model: Model<D>,
        tokenizer: Arc<Tokenizer>,
        settings: &Settings,
        options: EngineOptions,
        clock: Arc<dyn Clock>,
        process: u64,
        content: impl FnOnce() -> [u8; 32],
    ) -> Result<Self, EngineError> {
        settings.check(&rooms())?;
        let options = options.resolve(&model.shape)?;
        for (name, got, most) in
            [("chunk", options.chunk, model.options.rows), ("ctx", options.ctx, model.options.ctx)]
        {
            if got > most {
                return Err(EngineError::Option {
                    name,
                    got,
                    why: format!("the model was loaded for {most}"),
                });
            }
        }
        let ctx = PolicyCtx { chunk: options.chunk, batch: options.batch, share: options.share };
        let (policy, policy_card) = policy::TABLE.open(&ctx, settings)?;
        let (proposer, propose_card) = tamp_spec::propose::TABLE.open(&(), settings)?;
        let (coalesce, coalesce_card) = coalesce::TABLE.open(&(), settings)?;
        let (reuse, reuse_card) = reuse::TABLE.open(&(), settings)?;
        let (idle, idle_card) = idle::TABLE.open(&(), settings)?;
        let (mut tier, tier_card) = tamp_kv::tier::TABLE.open(&TierCtx::default(), settings)?;
        let (accept, accept_card) = tamp_spec::accept::TABLE.open(&(), settings)?;
        let (forecast, forecast_card) = forecast::TABLE.open(&(), settings)?;
        let (gate, gate_card) = budget::TABLE.open(&(), settings)?;
        let (codec, codec_card) = tamp_kv::codec::TABLE.open(&(), settings)?;
        let mut groups = model.kv_groups();
        groups.iter_mut().for_each(|g| g.kind = *codec);
        let mut kv = Kv::new(&**model.device(), &groups, options.pages)?;
        // Pages that outlast the process must be those of this very model.
        let content = if tier.room() > 0 { content() } else { [0; 32] };
        let chosen = [
            (policy::TABLE.room, policy_card),
            (coalesce::TABLE.room, coalesce_card),
            (reuse::TABLE.room, reuse_card),
            (idle::TABLE.room, idle_card),
            (tamp_kv::tier::TABLE.room, tier_card),
            (forecast::TABLE.room, forecast_card),
            (budget::TABLE.room, gate_card),
            (tamp_spec::propose::TABLE.room, propose_card),
            (tamp_spec::accept::TABLE.room, accept_card),
            (tamp_kv::codec::TABLE.room, codec_card),
            (rooms::DECODE, if model.options.decode { &rooms::DECODED } else { &rooms::NATIVE }),
            (rooms::RESIDENCY, rooms::residency_card(settings)),
        ];
        let (aside, aside_cards) = Aside::open(settings)?;
        let chosen: Vec<_> = chosen.into_iter().chain(aside_cards).collect();
        let plan = Plan::make(&model, &kv, &chosen, settings, &options, process)?;
        let rope = format!("{:?}", model.rope);
        let roots = Roots::new(&plan, &content, &rope, model.options.decode);
        kv.book_mut().set_clock(clock.clone());
        reuse.open(kv.book_mut());
        let mut notes = Vec::new();
        if tier.room() > 0 {
            kv = kv.with_tier(tier);
        } else {
            notes.extend(tier.note());
        }
        let (intake, mail) = intake::intake(options.queue, clock.clone());
        Ok(Engine {
            models: vec![model],
            kv,
            run: Run::default(),
            tokenizer,
            seqs: BTreeMap::new(),
            policy,
            coalesce,
            reuse,
            idle,
            roots,
            proposer,
            accept,
            clock,
            intake,
            mail,
            plan,
            ctx: options.ctx,
            queue: options.queue,
            preemptions: 0,
            finished: 0,
            forecast: Forecaster::new(forecast),
            gates: Gates::new(gate),
            meter: Meter::default(),
            aside,
            notes,
            watch: None,
        })
    }

    /// Replaces the proposer, for experiments and tests that bring their own.
    pub fn with_proposer(mut self, proposer: Box<dyn Proposer>) -> Self {
        self.proposer = proposer;
        self
    }

    /// Answers one request on this thread, with its events as they happen; other sequences go on meanwhile.
    pub fn generate(
        &mut self,
        request: Request,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Answer, EngineError> {
        let (sender, receiver) = outlet::channel(usize::MAX);
        let cancel = request.cancel.clone();
        self.submit(request, Box::new(sender))?;
        loop {
            let stepped = self.step();
            while let Some(event) = receiver.try_recv() {
                on_event(&event);
                if let Event::Done(answer) = event {
                    return Ok(*answer);
                }
            }
            if stepped?.parts.is_empty() && !cancel.is_cancelled() {
                return Err(EngineError::Stalled);
            }
        }
    }

    /// Whether the weights in use are still those that were opened.
    fn trust(&self) -> Result<(), EngineError> {
        self.watch.as_ref().map_or(Ok(()), |w| Ok(w.check()?))
    }

    /// No sequence waits or runs.
    pub fn is_idle(&self) -> bool {
        self.seqs.is_empty()
    }

    /// Where other threads hand requests in.
    pub fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// The accepted plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Tokens ⇄ text of the loaded model.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The engine's time.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The loaded model.
    pub fn model(&self) -> &Model<D> {
        &self.models[0]
    }

    /// Models whose weights are resident to answer requests; a second one would be a draft's or a twin.
    pub fn trunks(&self) -> usize {
        self.models.len()
    }

    /// Positions per sequence.
    pub fn ctx(&self) -> usize {
        self.ctx
    }

    /// What happened since the last call that an operator should read, a sentence each.
    pub fn notes(&mut self) -> Vec<String> {
        self.notes.extend(self.kv.tier().note());
        std::mem::take(&mut self.notes)
    }
}
