//! All rooms that an engine and its surroundings read: what `--use` and `--set` may name.

use tamp_base::card::{Card, Effect, Room};
use tamp_base::settings::Settings;
use tamp_weights::Residency;

use crate::options::CORE;
use crate::{budget, forecast, policy};

/// A card of a room whose members are chosen while loading and have nothing to set.
const fn plain(name: &'static str, about: &'static str, effect: Effect) -> Card {
    Card { name, aka: "", about, paper: "", claim: "", effect, needs: &[], knobs: &[] }
}

pub(crate) static NATIVE: Card = plain("native", "weights stay in the file's format", Effect::Identical);
pub(crate) static DECODED: Card =
    plain("f32", "every tensor is decoded to F32 at load: the reference forward pass", Effect::Lossy);

static AUTO: Card = plain("auto", "the best instruction set this machine has", Effect::Identical);
static PORTABLE: Card =
    plain("portable", "no special instructions: the oracle of the others", Effect::Identical);
static AVX2: Card = plain("avx2", "AVX2 and FMA", Effect::Identical);
static AVX512: Card = plain("avx512", "AVX-512 with VNNI", Effect::Identical);
static NEON: Card = plain("neon", "Arm NEON with dot products", Effect::Identical);

/// The room of formats that weights have in memory; its member is chosen while loading.
pub(crate) const DECODE: &str = "weights.decode";

static MAP: Card = plain(
    "map",
    "a bundle's weights stay in the page cache, shared with other processes; a file that changes underneath ends the run",
    Effect::Identical,
);
static READ: Card = plain(
    "read",
    "a bundle is read into memory of this process, which nothing that happens to the file can touch",
    Effect::Identical,
);

/// The room of ways to hold a bundle; its member is chosen while opening. Weights of other files are copied out of
/// them whatever is chosen.
pub(crate) const RESIDENCY: &str = "weights.residency";

/// How a bundle is to be held.
pub fn residency(settings: &Settings) -> Residency {
    if settings.used(RESIDENCY) == Some(READ.name) { Residency::Read } else { Residency::Map }
}

/// The card of [`residency`].
pub(crate) fn residency_card(settings: &Settings) -> &'static Card {
    if residency(settings) == Residency::Read { &READ } else { &MAP }
}

/// Every room, the core's own first.
pub fn rooms() -> Vec<Room> {
    vec![
        Room { name: "engine", cards: vec![&CORE] },
        policy::TABLE.room(),
        crate::intake::coalesce::TABLE.room(),
        crate::reuse::TABLE.room(),
        crate::idle::TABLE.room(),
        tamp_kv::tier::TABLE.room(),
        forecast::TABLE.room(),
        budget::TABLE.room(),
        crate::trace::TABLE.room(),
        crate::pressure::TABLE.room(),
        tamp_spec::propose::TABLE.room(),
        tamp_spec::accept::TABLE.room(),
        tamp_kv::codec::TABLE.room(),
        tamp_kv::pick::TABLE.room(),
        Room { name: DECODE, cards: vec![&NATIVE, &DECODED] },
        Room { name: RESIDENCY, cards: vec![&MAP, &READ] },
        Room { name: "kernels.isa", cards: vec![&AUTO, &PORTABLE, &AVX2, &AVX512, &NEON] },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_its_knob_takes() {
        for room in rooms() {
            for card in room.cards {
                tamp_base::card::Knobs::read(room.name, card, &Settings::default()).unwrap();
            }
        }
    }

    #[test]
    fn unknown_words_are_refused_with_the_known_ones() {
        let mut s = Settings::default();
        s.add_set("engine.core.chnk=5", "--set").unwrap();
        let e = s.check(&rooms()).unwrap_err().to_string();
        assert_eq!(e, "`engine.core` has no knob `chnk`; known: threads, ctx, chunk, share, batch, pages");
        let mut s = Settings::default();
        s.add_use("spec.propose=suffix", "--use").unwrap();
        assert_eq!(s.check(&rooms()).unwrap_err().to_string(), "`spec.propose` has no `suffix`; known: none");
    }
}
