//! Several tokens per event: fewer bytes and system calls per token, for clients that do not read letter by letter.

use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind};

use super::Pace;

struct Chunked {
    tokens: usize,
    most: Duration,
}

/// The card.
pub static ENTRY: Entry<dyn Pace, ()> = Entry {
    card: Card {
        name: "chunked",
        aka: "ChunkedStreamer (wave 21/22)",
        about: "events of several tokens, by count or by time; the first token is sent at once",
        paper: "",
        claim: "time to first byte: chunk_size latency",
        effect: Effect::Service,
        needs: &[],
        knobs: &[
            Knob {
                name: "tokens",
                about: "tokens per event at most",
                kind: KnobKind::Int(1, 1024),
                default: "4",
            },
            Knob {
                name: "ms",
                about: "a token waits so many milliseconds at most",
                kind: KnobKind::Int(1, 10_000),
                default: "100",
            },
        ],
    },
    open: |(), knobs| {
        let (tokens, ms) = (knobs.int("tokens") as usize, knobs.int("ms") as u64);
        Ok(Box::new(Chunked { tokens, most: Duration::from_millis(ms) }))
    },
};

impl Pace for Chunked {
    fn wait(&self, waiting: usize, since: Duration) -> Option<Duration> {
        let left = self.most.checked_sub(since).filter(|d| !d.is_zero())?;
        (waiting < self.tokens).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tamp_base::settings::Settings;

    #[test]
    fn a_chunk_goes_when_it_is_full_or_old() {
        let mut s = Settings::default();
        s.add_use("server.stream=chunked", "test").unwrap();
        s.add_set("server.stream.chunked.tokens=3", "test").unwrap();
        let (pace, card) = super::super::TABLE.open(&(), &s).unwrap();
        let ms = Duration::from_millis;
        assert_eq!(card.name, "chunked");
        assert_eq!(pace.wait(1, ms(0)), Some(ms(100)));
        assert_eq!(pace.wait(2, ms(60)), Some(ms(40)));
        assert_eq!((pace.wait(3, ms(0)), pace.wait(1, ms(100)), pace.wait(1, ms(500))), (None, None, None));
        let (each, _) = super::super::TABLE.open(&(), &Settings::default()).unwrap();
        assert_eq!(each.wait(1, ms(0)), None);
    }
}
