//! Bounds of everything that comes from outside.

use std::time::Duration;

/// Bounds. The defaults suit one machine; each is a promise that nothing grows with a stranger's wish.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// bytes of a request's body
    pub body: usize,
    /// nested arrays and objects of a body
    pub depth: usize,
    /// answers per request (`n`)
    pub choices: usize,
    /// messages of a conversation
    pub messages: usize,
    /// tools of a request
    pub tools: usize,
    /// entries of `logit_bias`
    pub biases: usize,
    /// prompts or inputs of one request
    pub inputs: usize,
    /// bytes of a request's head
    pub head: usize,
    /// connections at once; more wait in the system's backlog
    pub connections: usize,
    /// a head must be here by then
    pub head_time: Duration,
    /// a body must be here by then
    pub body_time: Duration,
    /// events of a sequence that its reader has not taken; more pause the sequence
    pub unread: usize,
    /// a reader that takes nothing for so long has its sequence ended
    pub stall: Duration,
    /// between two signs of life on a stream that has nothing to say
    pub keep_alive: Duration,
    /// in-flight work may take so long after the signal to stop
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: 8 << 20,
            depth: 64,
            choices: 64,
            messages: 4096,
            tools: 128,
            biases: 1024,
            inputs: 256,
            head: 32 << 10,
            connections: 1024,
            head_time: Duration::from_secs(15),
            body_time: Duration::from_secs(60),
            unread: 64,
            stall: Duration::from_secs(300),
            keep_alive: Duration::from_secs(10),
            drain: Duration::from_secs(30),
        }
    }
}
