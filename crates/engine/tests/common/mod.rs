//! A lively tiny model on the CPU device, and ways to run it.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;

use tamp_base::clock::ManualClock;
use tamp_base::ids::Token;
use tamp_base::settings::Settings;
use tamp_engine::outlet::{Receiver, channel};
use tamp_engine::{Answer, Engine, EngineOptions, Event, Request};
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_sample::Params;
use tamp_text::Tokenizer;
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, tiny};

pub fn weights() -> Weights {
    Weights::from_gguf_bytes(tiny(Arch::Qwen2, 7)).unwrap()
}

pub fn device() -> Arc<Cpu> {
    Arc::new(Cpu::new(Arc::new(Pool::new(1, false)), rung::available().next().unwrap()))
}

pub fn options(ctx: usize, chunk: usize, batch: usize) -> EngineOptions {
    EngineOptions { ctx, chunk, batch, ..EngineOptions::default() }
}

pub fn engine(options: EngineOptions) -> Engine<Cpu> {
    engine_with(&weights(), options, &Settings::default())
}

pub fn engine_with(weights: &Weights, options: EngineOptions, settings: &Settings) -> Engine<Cpu> {
    let tokenizer = Arc::new(Tokenizer::from_meta(&weights.meta).unwrap());
    let clock = Arc::new(ManualClock::default());
    Engine::load(weights, device(), || Ok(tokenizer), settings, options, clock, &mut |_, _| ()).unwrap()
}

/// A prompt of `n` tokens that follows from its number.
pub fn prompt(number: u64, n: usize) -> Vec<Token> {
    let row = tamp_sample::noise::Noise::new(number, 0).at(0);
    (0..n as Token).map(|t| (row.bits(t) % 250) as Token).collect()
}

pub fn request(prompt: Vec<Token>, max_tokens: usize, params: Params) -> Request {
    Request { prompt, params, max_tokens: Some(max_tokens), ignore_eos: true, ..Request::default() }
}

pub fn greedy() -> Params {
    Params::default()
}

pub fn warm(seed: u64) -> Params {
    Params { temperature: 0.8, seed, ..Params::default() }
}

pub fn penalised(seed: u64) -> Params {
    Params {
        frequency_penalty: 0.4,
        repetition_penalty: 1.2,
        top_k: 50,
        top_p: 0.95,
        min_p: 0.01,
        ..warm(seed)
    }
}

/// The answer the request gets alone, on a fresh engine.
pub fn alone(request: Request) -> Answer {
    let n = request.prompt.len() + request.max_tokens.unwrap();
    engine(options(n, 512, 1)).generate(request, &mut |_| ()).unwrap()
}

/// Steps until every request is answered, with the books checked after every step.
pub fn run_all(engine: &mut Engine<Cpu>, requests: Vec<Request>) -> Vec<Answer> {
    let receivers: Vec<Receiver> = requests
        .into_iter()
        .map(|r| {
            let (sender, receiver) = channel(usize::MAX);
            engine.submit(r, Box::new(sender)).unwrap();
            receiver
        })
        .collect();
    while !engine.is_idle() {
        let turn = engine.step().unwrap();
        engine.integrity().unwrap();
        assert!(!turn.parts.is_empty() || engine.is_idle(), "nobody is scheduled");
    }
    receivers.iter().map(|r| drain(r).1.unwrap()).collect()
}

/// Everything that has come so far: the tokens as events, and the answer.
pub fn drain(receiver: &Receiver) -> (Vec<Token>, Option<Answer>) {
    let mut tokens = vec![];
    while let Some(event) = receiver.try_recv() {
        match event {
            Event::Token { token, .. } => tokens.push(token),
            Event::Text(_) => {}
            Event::Done(answer) => return (tokens, Some(*answer)),
        }
    }
    (tokens, None)
}
