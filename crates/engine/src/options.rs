//! Sizes of an engine, from the room `engine.core`.

use tamp_base::card::{Card, Effect, Knob, KnobKind, Knobs};
use tamp_base::settings::Settings;
use tamp_model::family::Shape;

use crate::error::EngineError;

/// The core's own settings, in the words of every technique.
pub static CORE: Card = Card {
    name: "core",
    aka: "",
    about: "sizes of the engine itself",
    paper: "",
    claim: "",
    effect: Effect::Service,
    needs: &[],
    knobs: &[
        Knob {
            name: "threads",
            about: "worker threads; 0 = the cores this process may really use",
            kind: KnobKind::Int(0, 1024),
            default: "0",
        },
        Knob {
            name: "ctx",
            about: "positions per sequence; 0 = the model's own, 8192 at most",
            kind: KnobKind::Int(0, 1 << 24),
            default: "0",
        },
        Knob {
            name: "chunk",
            about: "rows per forward pass, and so of a prompt at a time",
            kind: KnobKind::Int(1, 8192),
            default: "256",
        },
        Knob {
            name: "share",
            about: "rows that prompts may take of a forward pass while answers are under way, or others may come",
            kind: KnobKind::Int(1, 8192),
            default: "64",
        },
        Knob {
            name: "batch",
            about: "sequences per forward pass",
            kind: KnobKind::Int(1, 1024),
            default: "1",
        },
        Knob {
            name: "pages",
            about: "KV pages of 16 positions; 0 = enough for every sequence at full context",
            kind: KnobKind::Int(0, 1 << 28),
            default: "0",
        },
    ],
};

/// Context without a wish: long enough for a conversation, small enough for a laptop.
const USUAL_CTX: usize = 8192;

/// Requests that may wait, in the intake and again in the engine.
const QUEUE: usize = 256;

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// worker threads; 0 = the cores this process may really use
    pub threads: usize,
    /// positions per sequence; 0 = the model's own, capped
    pub ctx: usize,
    /// rows per forward pass
    pub chunk: usize,
    /// rows that prompts may take of a pass while answers are under way, or others may come
    pub share: usize,
    /// sequences per forward pass
    pub batch: usize,
    /// KV pages per group; 0 = enough for `batch` sequences at full context
    pub pages: usize,
    /// requests in the engine, waiting or running, and again in the intake
    pub queue: usize,
}

impl EngineOptions {
    /// Reads the room `engine.core`.
    pub fn read(settings: &Settings) -> Result<EngineOptions, EngineError> {
        let knobs = Knobs::read("engine", &CORE, settings)?;
        let size = |name| knobs.int(name) as usize;
        let (threads, ctx, chunk) = (size("threads"), size("ctx"), size("chunk"));
        let (share, batch, pages) = (size("share"), size("batch"), size("pages"));
        Ok(EngineOptions { threads, ctx, chunk, share, batch, pages, queue: QUEUE })
    }

    /// Fills in what the model decides and refuses what cannot work.
    pub fn resolve(mut self, shape: &Shape) -> Result<EngineOptions, EngineError> {
        let refuse = |name, got, why: String| Err(EngineError::Option { name, got, why });
        if self.ctx > shape.ctx_train {
            return refuse("ctx", self.ctx, format!("the model was made for {} positions", shape.ctx_train));
        }
        // A sliding window beyond its length is not honoured yet, so the context ends there.
        let most = shape.window.unwrap_or(usize::MAX).min(shape.ctx_train);
        if self.ctx > most {
            let why = format!(
                "the model attends a sliding window of {most} positions, which ends the context here"
            );
            return refuse("ctx", self.ctx, why);
        }
        if self.ctx == 0 {
            self.ctx = most.min(USUAL_CTX);
        }
        for (name, got) in [
            ("ctx", self.ctx),
            ("chunk", self.chunk),
            ("share", self.share),
            ("batch", self.batch),
            ("queue", self.queue),
        ] {
            if got == 0 {
                return refuse(name, got, "it must be at least 1".into());
            }
        }
        self.chunk = self.chunk.min(self.ctx.saturating_mul(self.batch)).max(self.batch);
        if self.pages == 0 {
            let each = self.ctx.div_ceil(tamp_base::ids::PAGE);
            self.pages = each.checked_mul(self.batch).filter(|&p| p < u32::MAX as usize).unwrap_or(0);
            if self.pages == 0 {
                return refuse(
                    "batch",
                    self.batch,
                    "so many full contexts cannot be counted; use a smaller one".into(),
                );
            }
        }
        Ok(self)
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { threads: 0, ctx: 0, chunk: 256, share: 64, batch: 1, pages: 0, queue: QUEUE }
    }
}
