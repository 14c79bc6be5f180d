//! `--use room=name` and `--set room.name.knob=value`: one language for flags, `tamp.toml`, lab specs, profiles
//! and the ledger (DESIGN 5.6).

use std::collections::BTreeMap;

use crate::card::{CardError, Room};

/// What somebody chose, unchecked until [`Settings::check`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    uses: BTreeMap<String, Chosen>,
    sets: BTreeMap<String, Chosen>,
}

/// A choice and where it came from, so that `explain` can say it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// the value
    pub value: String,
    /// `--use`, `tamp.toml`, `profile`, …
    pub from: String,
}

impl Settings {
    /// Adds `room=name`; a later source overrides an earlier one.
    pub fn add_use(&mut self, text: &str, from: &str) -> Result<(), CardError> {
        Self::add(&mut self.uses, text, from)
    }

    /// Adds `room.name.knob=value`.
    pub fn add_set(&mut self, text: &str, from: &str) -> Result<(), CardError> {
        Self::add(&mut self.sets, text, from)
    }

    fn add(to: &mut BTreeMap<String, Chosen>, text: &str, from: &str) -> Result<(), CardError> {
        let (k, v) = text.split_once('=').ok_or_else(|| CardError::Form(text.into()))?;
        to.insert(k.trim().into(), Chosen { value: v.trim().into(), from: from.into() });
        Ok(())
    }

    /// The member chosen for a room.
    pub fn used(&self, room: &str) -> Option<&str> {
        self.uses.get(room).map(|c| c.value.as_str())
    }

    /// The value set for a full knob key.
    pub fn knob(&self, key: &str) -> Option<&str> {
        self.sets.get(key).map(|c| c.value.as_str())
    }

    /// All choices in order, for the plan and for `explain`: (key, value, source).
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.uses.iter().chain(&self.sets).map(|(k, c)| (k.as_str(), c.value.as_str(), c.from.as_str()))
    }

    /// Lets `--set room=name` mean `--use room=name` where the whole key is a room's name: the key of a knob has a card
    /// and the knob behind the room's. To be called once per source, so that a later source still wins; of one source
    /// that says both, `--set` counts.
    pub fn settle(&mut self, rooms: &[Room]) {
        for room in rooms {
            if let Some(c) = self.sets.remove(room.name) {
                self.uses.insert(room.name.into(), c);
            }
        }
    }

    /// Those choices that speak of these rooms: an engine and a server check only their own.
    pub fn within(&self, rooms: &[Room]) -> Settings {
        let room = |key: &str| rooms.iter().any(|r| r.name == key);
        let of_card = |key: &str| {
            key.rsplit_once('.').and_then(|(id, _)| id.rsplit_once('.')).is_some_and(|(r, _)| room(r))
        };
        let keep = |all: &BTreeMap<String, Chosen>, fits: &dyn Fn(&str) -> bool| {
            all.iter().filter(|(k, _)| fits(k)).map(|(k, c)| (k.clone(), c.clone())).collect()
        };
        Settings { uses: keep(&self.uses, &room), sets: keep(&self.sets, &of_card) }
    }

    /// Refuses every room, name and knob that does not exist, listing the known ones. Values are checked when the
    /// member opens.
    pub fn check(&self, rooms: &[Room]) -> Result<(), CardError> {
        let room_of = |name: &str| {
            rooms.iter().find(|r| r.name == name).ok_or_else(|| CardError::Room {
                room: name.into(),
                known: join(rooms.iter().map(|r| r.name)),
            })
        };
        for (room, c) in &self.uses {
            let r = room_of(room)?;
            if !r.cards.iter().any(|k| k.name == c.value) {
                return Err(CardError::Name {
                    room: room.clone(),
                    name: c.value.clone(),
                    known: join(r.cards.iter().map(|c| c.name)),
                });
            }
        }
        for key in self.sets.keys() {
            let (card_id, knob) = key.rsplit_once('.').unwrap_or(("", key));
            let (room, name) = card_id.rsplit_once('.').unwrap_or(("", card_id));
            let r = room_of(room)?;
            let card = r.cards.iter().find(|c| c.name == name).ok_or_else(|| CardError::Name {
                room: room.into(),
                name: name.into(),
                known: join(r.cards.iter().map(|c| c.name)),
            })?;
            if !card.knobs.iter().any(|k| k.name == knob) {
                return Err(CardError::Knob {
                    card: card_id.into(),
                    knob: knob.into(),
                    known: join(card.knobs.iter().map(|k| k.name)),
                });
            }
        }
        Ok(())
    }
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let v: Vec<_> = names.collect();
    if v.is_empty() { "none".into() } else { v.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::{Card, Effect, Entry, Knob, KnobKind, Knobs, Table};

    static ENTRY: Entry<(), ()> = Entry {
        card: Card {
            name: "suffix",
            aka: "",
            about: "",
            paper: "",
            claim: "",
            effect: Effect::Identical,
            needs: &[],
            knobs: &[Knob { name: "max", about: "", kind: KnobKind::Int(1, 8), default: "4" }],
        },
        open: |_, _| Ok(Box::new(())),
    };
    static TABLE: Table<(), ()> = Table { room: "spec.propose", rows: &[&ENTRY] };

    fn set(text: &str) -> Settings {
        let mut s = Settings::default();
        s.add_set(text, "--set").unwrap();
        s
    }

    #[test]
    fn unknown_words_are_refused_with_the_known_ones() {
        let rooms = [TABLE.room()];
        for (text, want) in [
            ("spec.guess.suffix.max=2", "there is no room `spec.guess`; known rooms: spec.propose"),
            ("spec.propose.sufix.max=2", "`spec.propose` has no `sufix`; known: suffix"),
            ("spec.propose.suffix.maks=2", "`spec.propose.suffix` has no knob `maks`; known: max"),
            ("nonsense=2", "there is no room ``; known rooms: spec.propose"),
        ] {
            assert_eq!(set(text).check(&rooms).unwrap_err().to_string(), want);
        }
        assert!(set("spec.propose.suffix.max=2").check(&rooms).is_ok());
    }

    #[test]
    fn setting_a_room_chooses_its_member_and_leaves_knobs_alone() {
        let mut s = set("spec.propose=suffix");
        s.add_set("spec.propose.suffix.max=2", "--set").unwrap();
        s.settle(&[TABLE.room()]);
        assert_eq!((s.used("spec.propose"), s.knob("spec.propose")), (Some("suffix"), None));
        assert_eq!(s.knob("spec.propose.suffix.max"), Some("2"));
        assert!(s.check(&[TABLE.room()]).is_ok());
        let mut other = set("spec.guess=suffix");
        other.settle(&[TABLE.room()]);
        assert!(other.check(&[TABLE.room()]).is_err());
    }

    #[test]
    fn a_part_of_the_choices_is_what_speaks_of_its_rooms() {
        let mut s = set("spec.propose.suffix.max=2");
        s.add_set("server.stream.chunked.ms=5", "--set").unwrap();
        s.add_use("spec.propose=suffix", "--use").unwrap();
        s.add_use("server.stream=chunked", "--use").unwrap();
        let part = s.within(&[TABLE.room()]);
        assert!(part.check(&[TABLE.room()]).is_ok() && s.check(&[TABLE.room()]).is_err());
        assert_eq!((part.used("spec.propose"), part.all().count()), (Some("suffix"), 2));
    }

    #[test]
    fn values_are_checked_and_defaults_apply() {
        let read = |s: &Settings| Knobs::read("spec.propose", &ENTRY.card, s);
        assert_eq!(read(&Settings::default()).unwrap().int("max"), 4);
        assert_eq!(read(&set("spec.propose.suffix.max=8")).unwrap().int("max"), 8);
        let e = read(&set("spec.propose.suffix.max=9")).unwrap_err().to_string();
        assert_eq!(e, "`spec.propose.suffix.max` does not take `9`; expected a whole number from 1 to 8");
    }

    #[test]
    fn a_table_opens_the_chosen_member() {
        let mut s = Settings::default();
        assert_eq!(TABLE.open(&(), &s).unwrap().1.name, "suffix");
        s.add_use("spec.propose=none", "--use").unwrap();
        assert!(TABLE.open(&(), &s).is_err());
    }
}
