//! From a MODEL to a standing engine.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tamp_base::clock::SystemClock;
use tamp_base::settings::Settings;
use tamp_bench::{LoadTimes, Subject};
use tamp_engine::{Engine, EngineOptions};
use tamp_formats::Kind;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::linear::Linear;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_weights::Weights;
use tamp_weights::bundle::{Packed, Watch};

use crate::args::LoadArgs;
use crate::cmd::{Ctx, tokenize};
use crate::fail::{Code, Done, Fail};
use crate::seen;

/// A loaded model and what came with it.
pub struct Loaded {
    /// the engine
    pub engine: Engine<Cpu>,
    /// its workers
    pub pool: Arc<Pool>,
    /// the file's own chat template
    pub template: Option<String>,
    /// what loading took
    pub times: LoadTimes,
    /// the file or folder
    pub path: PathBuf,
    /// everything chosen, with its source
    pub settings: Settings,
    /// bytes of the mapped files
    pub file_bytes: u64,
    /// when the first token of the first answer came
    pub first_token: Option<Instant>,
    /// the bundle, when the model is one
    pub bundle: Option<BundleFacts>,
    /// see [`Ctx::decision_grade`]
    pub decision_grade: bool,
}

impl Loaded {
    /// Waits for the hashes of a bundle that is checked behind: an answer from weights that were tampered with is not
    /// a success, however short it was.
    pub fn settle(&self) -> Done {
        settle(self.bundle.as_ref())
    }

    /// For the workloads.
    pub fn subject(&mut self) -> Subject<'_, Cpu> {
        Subject {
            engine: &mut self.engine,
            pool: &self.pool,
            load: self.times,
            decision_grade: self.decision_grade,
        }
    }
}

/// What is known of a bundle in use.
pub struct BundleFacts {
    /// layout of its matrices
    pub layout: String,
    /// what its conversion may have done
    pub behavior: String,
    /// when its weights were hashed
    pub hash: HashState,
    /// a draft head is in it
    pub draft: bool,
    /// asked once per turn
    pub watch: Arc<Watch>,
}

/// When a bundle's weights were held to their hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashState {
    /// in this load
    Now,
    /// in an earlier load of the same file; again behind this one
    Before,
}

impl BundleFacts {
    /// One word, and whether the check behind has ended.
    pub fn hash_words(&self) -> &'static str {
        match (self.hash, self.watch.is_checked()) {
            (HashState::Now, _) => "verified in this load",
            (HashState::Before, true) => "verified before, and again behind this load",
            (HashState::Before, false) => "verified before, being verified again",
        }
    }
}

/// What a command asks of the engine beyond flags and settings.
#[derive(Clone, Copy, Default)]
pub struct Wish {
    /// sequences at once, when nothing else says so
    pub batch: Option<usize>,
    /// positions per sequence, when nothing else says so
    pub ctx: Option<usize>,
    /// prompts that begin alike share what they computed, when nothing else says so. Measurements of a prompt's own
    /// speed do not wish it: their second round would find the first one's pages
    pub shares: bool,
}

/// Loads with a progress bar. `--threads` and `--ctx` are short for knobs of the core.
pub fn load(ctx: &Ctx, model: Option<&str>, a: &LoadArgs, wish: Wish) -> Done<Loaded> {
    let path = ctx.finder().find(model)?;
    load_as(ctx, &path, ctx.settings.clone(), a, wish)
}

/// … a file that was found, under these settings.
pub fn load_as(ctx: &Ctx, path: &Path, settings: Settings, a: &LoadArgs, wish: Wish) -> Done<Loaded> {
    // What is said to the server is not for the engine.
    let mut settings = settings.within(&tamp_engine::rooms());
    for (name, flag, wish) in
        [("threads", a.threads, None), ("ctx", a.ctx, wish.ctx), ("batch", None, wish.batch)]
    {
        let key = format!("engine.core.{name}");
        if let Some(v) = flag {
            settings.add_set(&format!("{key}={v}"), &format!("--{name}"))?;
        } else if let Some(v) = wish.filter(|_| settings.knob(&key).is_none()) {
            settings.add_set(&format!("{key}={v}"), "the command line")?;
        }
    }
    for room in ["kv.prefix=tree", "engine.coalesce=prefix"].iter().filter(|_| wish.shares) {
        if room.split_once('=').is_some_and(|(r, _)| settings.used(r).is_none()) {
            settings.add_use(room, "the command line")?;
        }
    }
    open(ctx, path, settings)
}

/// A model file before it is repacked, and what will compute it.
pub struct Opened {
    /// the file
    pub weights: Weights,
    /// the device
    pub device: Arc<Cpu>,
    /// the bundle, when the model is one
    pub bundle: Option<BundleFacts>,
}

impl Opened {
    /// Opens and checks; reads no weights yet. `threads` 0: the cores this process may use.
    pub fn new(ctx: &Ctx, path: &Path, settings: &Settings, threads: usize) -> Done<Self> {
        settings.check(&super::rooms())?;
        let rung = rung(settings)?;
        let mut weights =
            Weights::open_as(path, tamp_engine::residency(settings)).map_err(|e| named(e.into(), path))?;
        undo_layouts(&mut weights, rung);
        let bundle = trust(ctx, &weights, path)?;
        let threads = if threads == 0 { super::cores() } else { threads };
        let device = Arc::new(Cpu::new(Arc::new(Pool::new(threads, true)), rung));
        Ok(Self { weights, device, bundle })
    }
}

fn open(ctx: &Ctx, path: &Path, settings: Settings) -> Done<Loaded> {
    let start = Instant::now();
    let options = EngineOptions::read(&settings)?;
    let Opened { weights, device, bundle } = Opened::new(ctx, path, &settings, options.threads)?;
    let template = tamp_text::template_of(&weights.meta).map(str::to_string);
    let pool = device.pool().clone();
    let clock = Arc::new(SystemClock::default());
    // A small model stands before a bar could be read.
    let mut bar = (weights.file_bytes() > 300 << 20).then(|| ctx.ui.bytes("loading", 0));
    let begun = Instant::now();
    let mut repacked = begun;
    let mut progress = |done, total| {
        repacked = Instant::now();
        if let Some(bar) = &mut bar {
            bar.set_total(total);
            bar.at(done);
        }
    };
    let stood = Cell::new(begun);
    let engine = thread::scope(|scope| {
        // A third of the time that packing a small model takes, which does not keep every worker busy all the time.
        let making = thread::Builder::new().spawn_scoped(scope, || {
            tamp_os::cpu::unpin();
            tokenize::tokenizer(&weights)
        });
        let tokenizer = || {
            let made = match making {
                Ok(t) => t.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(_) => tokenize::tokenizer(&weights),
            };
            stood.set(Instant::now());
            Ok(Arc::new(made?))
        };
        Engine::load(&weights, device, tokenizer, &settings, options, clock, &mut progress)
    })
    .map_err(|e| named(e.into(), path))?;
    drop(bar);
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    let times = LoadTimes {
        load_ms: ms(start.elapsed()),
        repack_ms: ms(repacked - begun),
        plan_ms: ms(stood.get().elapsed()),
        ..LoadTimes::default()
    }
    .counted(engine.model().made());
    let file_bytes = weights.file_bytes();
    Ok(Loaded {
        engine,
        pool,
        template,
        times,
        path: path.into(),
        settings,
        file_bytes,
        first_token: None,
        bundle,
        decision_grade: ctx.decision_grade,
    })
}

/// Waits for the check behind a bundle.
pub fn settle(bundle: Option<&BundleFacts>) -> Done {
    bundle.map_or(Ok(()), |b| Ok(b.watch.settle()?))
}

/// Holds a bundle to its hashes: all of it at the first sight of a file, else behind the work.
fn trust(ctx: &Ctx, weights: &Weights, path: &Path) -> Done<Option<BundleFacts>> {
    let Some(b) = weights.bundle() else { return Ok(None) };
    let known = seen::knows(ctx, b);
    if known {
        b.warm(super::cores());
        b.watch().check_behind();
    } else {
        verify(ctx, weights, path)?;
    }
    let m = b.manifest();
    Ok(Some(BundleFacts {
        layout: m.layout.clone(),
        behavior: m.behavior_class.to_string(),
        hash: if known { HashState::Before } else { HashState::Now },
        draft: m.draft.is_some(),
        watch: b.watch().clone(),
    }))
}

/// Hashes every section of a bundle and remembers the file when all are good.
pub fn verify(ctx: &Ctx, weights: &Weights, path: &Path) -> Done {
    let Some(b) = weights.bundle() else { return Ok(()) };
    let mut bar = (weights.file_bytes() > 300 << 20).then(|| ctx.ui.bytes("verifying", weights.file_bytes()));
    b.verify(&mut |done, _| {
        if let Some(bar) = &mut bar {
            bar.at(done);
        }
    })
    .map_err(|e| named(e.into(), path))?;
    b.watch().set_checked();
    seen::remember(ctx, b);
    Ok(())
}

/// Lets packed tensors be read in file order, for conversions and the reference forward.
pub fn undo_layouts(weights: &mut Weights, rung: &'static rung::Rung) {
    if weights.bundle().is_none() {
        return;
    }
    let pool = Arc::new(Pool::new(1, false));
    weights.unpack_with(Arc::new(move |p: &Packed<'_>| {
        let (kind, rows, cols): (Kind, usize, usize) = (p.kind, p.rows, p.cols);
        let w = Linear::adopt(&pool, rung, kind, rows, cols, p.layout, p.bytes.clone());
        let w = w.map_err(|e| e.to_string())?;
        let mut out = Vec::with_capacity(kind.row_bytes(cols).unwrap_or(0).saturating_mul(rows));
        (0..rows).for_each(|r| out.extend_from_slice(&w.row(r)));
        Ok(out)
    }));
}

/// The instruction set that the settings choose.
pub fn rung(settings: &Settings) -> Done<&'static rung::Rung> {
    let name = settings.used("kernels.isa").unwrap_or("auto");
    rung::find(name).ok_or_else(|| {
        let here: Vec<&str> = rung::available().map(|r| r.name).collect();
        Fail::new(
            Code::Refused,
            format!("this machine cannot run the instruction set `{name}`; it runs {}", here.join(", ")),
        )
    })
}

/// Says which file, unless the sentence does already.
pub fn named(f: Fail, path: &Path) -> Fail {
    let path = path.display().to_string();
    if f.what.contains(&path) { f } else { Fail { what: format!("{path}: {}", f.what), ..f } }
}
