//! Every sequence computes its own prompt: the oracle of the others.

use tamp_base::card::Entry;
use tamp_base::count::Acts;
use tamp_base::ids::{SeqId, Token};
use tamp_kv::{Book, PrefixKey};

use super::{Reuse, card};

pub(super) static ENTRY: Entry<dyn Reuse, ()> = Entry {
    card: card("none", "every sequence computes its own prompt", &[]),
    open: |(), _| Ok(Box::new(Own)),
};

struct Own;

impl Reuse for Own {
    fn begin(&mut self, _: &mut Book, _: SeqId, _: PrefixKey, _: &[Token], _: usize) -> usize {
        0
    }

    fn keep(&mut self, _: &mut Book, _: SeqId, _: PrefixKey, _: &[Token]) {}

    fn acts(&self) -> Acts {
        Acts::default()
    }
}
