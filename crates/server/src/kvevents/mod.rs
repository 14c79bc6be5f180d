//! What the KV cache holds, told to routers that choose a replica by it: ZMQ PUB with multipart messages
//! `[topic, u64 number big-endian, msgpack]`, and a second socket that repeats what somebody missed.
//!
//! The batch is an array `[seconds since 1970, events, 0]`, each event a map with a `type`. The transport is ZMTP 3.0
//! with the NULL mechanism, of which a publisher needs little: a greeting, one command and framing. The crate for it
//! brings 60 others along. It is off unless asked for, and only ever on loopback: tokens of everybody's prompts are in it.

mod serve;
mod zmtp;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tamp_base::ids::Token;
use tamp_engine::KvEvent;
use tamp_engine::drive::Handle;
use tokio::sync::broadcast;

pub use serve::Sockets;

/// A change to the set of cached pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A full page entered.
    Stored {
        /// its key
        hash: u64,
        /// key of the page before it
        parent: Option<u64>,
        /// its tokens
        tokens: Vec<Token>,
    },
    /// A page left.
    Removed {
        /// its key
        hash: u64,
    },
    /// All pages left, or nobody knows any more.
    Cleared,
}

/// Where events come from.
pub trait Source: Send + Sync {
    /// Takes what has happened since the last call; never blocks for long.
    fn take(&self) -> Vec<Event>;
}

/// An engine's prefix cache as a source.
pub struct Engine(Handle);

impl Engine {
    /// Listens to an engine from now on.
    pub fn new(handle: Handle) -> Engine {
        handle.listen_kv(WAITING);
        Engine(handle)
    }
}

impl Source for Engine {
    fn take(&self) -> Vec<Event> {
        self.0.take_kv_events().into_iter().map(Event::from).collect()
    }
}

impl From<KvEvent> for Event {
    fn from(e: KvEvent) -> Event {
        // Routers keep 64 bits of a hash; the first ones of ours are as good as any.
        let short = |h: [u8; 32]| h.first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
        match e {
            KvEvent::Stored { hash, parent, tokens } => {
                Event::Stored { hash: short(hash), parent: parent.map(short), tokens: tokens.to_vec() }
            }
            KvEvent::Removed { hash } => Event::Removed { hash: short(hash) },
            KvEvent::Cleared => Event::Cleared,
        }
    }
}

/// Events that may wait between two looks.
const WAITING: usize = 1 << 16;
/// Batches that are kept to be repeated.
const KEPT: usize = 10_000;
/// Bytes of them at most.
const KEPT_BYTES: usize = 64 << 20;
/// Batches a slow subscriber may fall behind before it loses some.
const BEHIND: usize = 1024;
/// Events per batch.
const MOST: usize = 4096;

/// A batch as it is sent.
type Batch = (u64, Arc<[u8]>);

#[derive(Default)]
struct Log {
    next: u64,
    kept: VecDeque<Batch>,
    bytes: usize,
}

/// Numbers batches, keeps the newest, and hands them to whoever listens.
pub struct Publisher {
    topic: Vec<u8>,
    log: Mutex<Log>,
    tell: broadcast::Sender<Batch>,
}

impl Publisher {
    /// For subscribers of this topic; often empty, or `kv@host@model`.
    pub fn new(topic: &str) -> Publisher {
        Publisher {
            topic: topic.as_bytes().to_vec(),
            log: Mutex::default(),
            tell: broadcast::Sender::new(BEHIND),
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends events, if there are any.
    pub fn publish(&self, events: &[Event], now: SystemTime) {
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        for events in events.chunks(MOST) {
            let bytes: Arc<[u8]> = encode(events, seconds).into();
            let mut log = self.log();
            let batch = (log.next, bytes);
            log.next += 1;
            log.bytes += batch.1.len();
            log.kept.push_back(batch.clone());
            while log.kept.len() > KEPT || log.bytes > KEPT_BYTES {
                let Some((_, old)) = log.kept.pop_front() else { break };
                log.bytes -= old.len();
            }
            // Under the lock, so that subscribers see the numbers in order. Nobody listening is fine.
            let _ = self.tell.send(batch);
        }
    }

    /// What is kept from this number on.
    fn since(&self, from: u64) -> Vec<Batch> {
        self.log().kept.iter().filter(|b| b.0 >= from).cloned().collect()
    }

    /// Batches sent so far.
    pub fn sent(&self) -> u64 {
        self.log().next
    }
}

/// Publishes what a source has to say every so often, until dropped.
pub async fn follow(publisher: Arc<Publisher>, source: Arc<dyn Source>, every: Duration) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        publisher.publish(&source.take(), SystemTime::now());
    }
}

/// Why the sockets cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum KvEventsError {
    /// Others could read along.
    #[error("KV events hold everybody's tokens and go to this machine only; use 127.0.0.1 instead of {0}")]
    Wide(SocketAddr),
    /// The system says no.
    #[error("cannot listen on {addr} for KV events: {why}")]
    Bind {
        /// the address
        addr: SocketAddr,
        /// the reason
        why: std::io::Error,
    },
}

/// `[seconds, events, 0]`. Pages stored one after another on the same path become one event.
fn encode(events: &[Event], seconds: f64) -> Vec<u8> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for e in events {
        match (e, runs.last_mut()) {
            (
                Event::Stored { hash, parent: Some(p), tokens },
                Some(Run::Stored { hashes, tokens: all, .. }),
            ) if hashes.last() == Some(p) => {
                hashes.push(*hash);
                all.push(tokens);
            }
            (Event::Stored { hash, parent, tokens }, _) => {
                runs.push(Run::Stored { hashes: vec![*hash], parent: *parent, tokens: vec![tokens] });
            }
            (Event::Removed { hash }, Some(Run::Removed(hashes))) => hashes.push(*hash),
            (Event::Removed { hash }, _) => runs.push(Run::Removed(vec![*hash])),
            (Event::Cleared, _) => runs.push(Run::Cleared),
        }
    }
    let mut out = Out::default();
    out.array(3);
    out.float(seconds);
    out.array(runs.len());
    runs.iter().for_each(|r| r.write(&mut out));
    out.number(0);
    out.0
}

enum Run<'a> {
    Stored { hashes: Vec<u64>, parent: Option<u64>, tokens: Vec<&'a Vec<Token>> },
    Removed(Vec<u64>),
    Cleared,
}

impl Run<'_> {
    fn write(&self, out: &mut Out) {
        match self {
            Run::Stored { hashes, parent, tokens } => {
                out.map(6);
                out.field("type");
                out.field("BlockStored");
                out.field("block_hashes");
                out.numbers(hashes.iter().copied());
                out.field("parent_block_hash");
                match parent {
                    Some(p) => out.number(*p),
                    None => out.nil(),
                }
                out.field("token_ids");
                let all: Vec<u64> = tokens.iter().flat_map(|t| t.iter().map(|&t| t.into())).collect();
                out.numbers(all.into_iter());
                out.field("block_size");
                out.number(tokens.first().map_or(0, |t| t.len()) as u64);
                out.field("lora_id");
                out.nil();
            }
            Run::Removed(hashes) => {
                out.map(2);
                out.field("type");
                out.field("BlockRemoved");
                out.field("block_hashes");
                out.numbers(hashes.iter().copied());
            }
            Run::Cleared => {
                out.map(1);
                out.field("type");
                out.field("AllBlocksCleared");
            }
        }
    }
}

/// Msgpack into memory, which cannot fail.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn array(&mut self, n: usize) {
        let _ = rmp::encode::write_array_len(&mut self.0, n as u32);
    }
    fn map(&mut self, n: u32) {
        let _ = rmp::encode::write_map_len(&mut self.0, n);
    }
    fn field(&mut self, s: &str) {
        let _ = rmp::encode::write_str(&mut self.0, s);
    }
    fn number(&mut self, n: u64) {
        let _ = rmp::encode::write_uint(&mut self.0, n);
    }
    fn float(&mut self, x: f64) {
        let _ = rmp::encode::write_f64(&mut self.0, x);
    }
    fn nil(&mut self) {
        let _ = rmp::encode::write_nil(&mut self.0);
    }
    fn numbers(&mut self, all: impl ExactSizeIterator<Item = u64>) {
        self.array(all.len());
        all.for_each(|n| self.number(n));
    }
}

#[cfg(test)]
mod tests;
