//! From a MODEL to a standing engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tamp_base::clock::SystemClock;
use tamp_base::settings::Settings;
use tamp_bench::{LoadTimes, Subject};
use tamp_engine::{Engine, EngineOptions};
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_text::Tokenizer;
use tamp_weights::Weights;

use crate::args::LoadArgs;
use crate::cmd::{Ctx, tokenize};
use crate::fail::{Code, Done, Fail};

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
}

impl Loaded {
    /// For the workloads.
    pub fn subject(&mut self) -> Subject<'_, Cpu> {
        Subject { engine: &mut self.engine, pool: &self.pool, load: self.times }
    }
}

/// What a command asks of the engine beyond flags and settings.
#[derive(Clone, Copy, Default)]
pub struct Wish {
    /// sequences at once, when nothing else says so
    pub batch: Option<usize>,
    /// positions per sequence, when nothing else says so
    pub ctx: Option<usize>,
}

/// Loads with a progress bar. `--threads` and `--ctx` are short for knobs of the core.
pub fn load(ctx: &Ctx, model: Option<&str>, a: &LoadArgs, wish: Wish) -> Done<Loaded> {
    let mut settings = ctx.settings.clone();
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
    let path = ctx.finder().find(model)?;
    open(ctx, &path, settings)
}

/// A model file before it is repacked, and what will compute it.
pub struct Opened {
    /// the file
    pub weights: Weights,
    /// its tokenizer
    pub tokenizer: Arc<Tokenizer>,
    /// the device
    pub device: Arc<Cpu>,
}

impl Opened {
    /// Opens and checks; reads no weights yet. `threads` 0: the cores this process may use.
    pub fn new(path: &Path, settings: &Settings, threads: usize) -> Done<Self> {
        settings.check(&tamp_engine::rooms())?;
        let rung = rung(settings)?;
        let weights = Weights::open(path).map_err(|e| named(e.into(), path))?;
        let tokenizer = tokenize::tokenizer(&weights).map_err(|e| named(e, path))?;
        let threads = if threads == 0 { super::cores() } else { threads };
        let device = Arc::new(Cpu::new(Arc::new(Pool::new(threads, true)), rung));
        Ok(Self { weights, tokenizer: Arc::new(tokenizer), device })
    }
}

fn open(ctx: &Ctx, path: &Path, settings: Settings) -> Done<Loaded> {
    let start = Instant::now();
    let options = EngineOptions::read(&settings)?;
    let Opened { weights, tokenizer, device } = Opened::new(path, &settings, options.threads)?;
    let template = tamp_text::template_of(&weights.meta).map(str::to_string);
    let pool = device.pool().clone();
    let clock = Arc::new(SystemClock::default());
    // A small model stands before a bar could be read.
    let mut bar = (weights.file_bytes() > 300 << 20).then(|| ctx.ui.bytes("loading", 0));
    let begun = Instant::now();
    let mut repacked = begun;
    let engine = Engine::load(&weights, device, tokenizer, &settings, options, clock, &mut |done, total| {
        repacked = Instant::now();
        if let Some(bar) = &mut bar {
            bar.set_total(total);
            bar.at(done);
        }
    })
    .map_err(|e| named(e.into(), path))?;
    drop(bar);
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    let times = LoadTimes {
        load_ms: ms(start.elapsed()),
        repack_ms: ms(repacked - begun),
        plan_ms: ms(repacked.elapsed()),
    };
    let file_bytes = weights.file_bytes();
    Ok(Loaded { engine, pool, template, times, path: path.into(), settings, file_bytes })
}

/// The instruction set that the settings choose.
pub fn rung(settings: &Settings) -> Done<&'static rung::Rung> {
    let name = settings.used("kernels.rung").unwrap_or("auto");
    rung::find(name).ok_or_else(|| {
        let here: Vec<&str> = rung::available().map(|r| r.name).collect();
        Fail::new(
            Code::Refused,
            format!("this machine cannot run the rung `{name}`; it runs {}", here.join(", ")),
        )
    })
}

/// Says which file, unless the sentence does already.
pub fn named(f: Fail, path: &Path) -> Fail {
    let path = path.display().to_string();
    if f.what.contains(&path) { f } else { Fail { what: format!("{path}: {}", f.what), ..f } }
}
