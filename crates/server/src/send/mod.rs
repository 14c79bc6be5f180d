//! Streams: the room `server.stream` says when what was said is sent; [`sse`] sends it.
//!
//! A [`Pace`] is asked after every token. The first token of a sequence is sent at once whatever it says.

mod chunked;
mod each;
pub mod sse;

use std::time::Duration;

use tamp_base::card::{Room, Table};

/// When to send.
pub trait Pace: Send {
    /// `waiting` tokens wait, the first of them for `since`: `None` sends them now, else they wait so long at most.
    fn wait(&self, waiting: usize, since: Duration) -> Option<Duration>;
}

/// The room.
pub static TABLE: Table<dyn Pace, ()> =
    Table { room: "server.stream", rows: &[&each::ENTRY, &chunked::ENTRY] };

/// Every room of the server.
pub fn rooms() -> Vec<Room> {
    [TABLE.room(), crate::layer::thinkgate::TABLE.room()].into_iter().chain(crate::ops::rooms()).collect()
}
