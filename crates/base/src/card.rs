//! What a technique says of itself, and the visible, ordered, greppable table of each room (DESIGN §6).
//!
//! Help text, docs, `--use`, `tamp techniques`, lab arms and ledger columns are printed from cards; nothing
//! else lists techniques.

use std::collections::BTreeMap;

use crate::settings::Settings;

/// What a technique may do to the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Effect {
    /// Byte-identical output.
    Identical,
    /// The same distribution, not the same sample; identical at temperature 0.
    SameDistribution,
    /// Changes the output; ships with a quality bound.
    Lossy,
    /// Does not touch the output.
    Service,
}

/// What a technique asks of the core; the core offers it in data, nameless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Need {
    /// Hidden states of given layers.
    Taps,
    /// Choosing which layers run.
    Layers,
    /// A call before each layer.
    Watch,
    /// Memory that can go back.
    Rewind,
    /// A place in the logits chain.
    Mask,
    /// Attention mass per page.
    Scores,
    /// Rows with parents.
    Tree,
    /// A layer reading another layer's cache.
    KvSource,
    /// Pages with a format tag.
    Pages,
}

/// A value somebody may set with `--set room.name.knob=value`.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// last word of the key
    pub name: &'static str,
    /// one line of help, with units
    pub about: &'static str,
    /// what is accepted
    pub kind: KnobKind,
    /// value when nothing is set, in the same words
    pub default: &'static str,
}

/// What a knob accepts.
#[derive(Clone, Copy, Debug)]
pub enum KnobKind {
    /// A whole number in an inclusive range.
    Int(i64, i64),
    /// A finite number in an inclusive range.
    Float(f64, f64),
    /// `true` or `false`.
    Bool,
    /// One of a list.
    Choice(&'static [&'static str]),
    /// Any text of one line, a path for example; empty means unset.
    Text,
}

/// A technique's self-description.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// name within its room; the published one where there is one
    pub name: &'static str,
    /// published module name and wave, empty when ours
    pub aka: &'static str,
    /// one sentence
    pub about: &'static str,
    /// paper id (`arXiv 2408.07978`), empty when none
    pub paper: &'static str,
    /// the published improvement, word for word, empty when none
    pub claim: &'static str,
    /// what it may do to the output
    pub effect: Effect,
    /// what it asks of the core
    pub needs: &'static [Need],
    /// its settings
    pub knobs: &'static [Knob],
}

/// A refused name, knob or value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CardError {
    /// No such room.
    #[error("there is no room `{room}`; known rooms: {known}")]
    Room {
        /// what was asked
        room: String,
        /// the known ones
        known: String,
    },
    /// No such member.
    #[error("`{room}` has no `{name}`; known: {known}")]
    Name {
        /// the room
        room: String,
        /// what was asked
        name: String,
        /// the known ones
        known: String,
    },
    /// No such knob.
    #[error("`{card}` has no knob `{knob}`; known: {known}")]
    Knob {
        /// full card id
        card: String,
        /// what was asked
        knob: String,
        /// the known ones
        known: String,
    },
    /// A value the knob does not take.
    #[error("`{key}` does not take `{value}`; expected {want}")]
    Value {
        /// full key
        key: String,
        /// what was given
        value: String,
        /// what is accepted
        want: String,
    },
    /// The technique cannot act on this model or plan.
    #[error("`{card}` cannot act here: {why}")]
    Refused {
        /// full card id
        card: String,
        /// the reason, one sentence
        why: String,
    },
    /// Not of the form `key=value`.
    #[error("`{0}` is not of the form key=value")]
    Form(String),
}

/// Values of a card's knobs, checked against the card.
#[derive(Clone, Debug, Default)]
pub struct Knobs(BTreeMap<&'static str, String>);

impl KnobKind {
    fn accepts(&self, v: &str) -> bool {
        match *self {
            KnobKind::Int(lo, hi) => v.parse::<i64>().is_ok_and(|x| (lo..=hi).contains(&x)),
            KnobKind::Float(lo, hi) => v.parse::<f64>().is_ok_and(|x| (lo..=hi).contains(&x)),
            KnobKind::Bool => v == "true" || v == "false",
            KnobKind::Choice(c) => c.contains(&v),
            KnobKind::Text => !v.contains(['\0', '\n', '\r']),
        }
    }

    /// What is accepted, in words.
    pub fn want(&self) -> String {
        match *self {
            KnobKind::Int(lo, hi) => format!("a whole number from {lo} to {hi}"),
            KnobKind::Float(lo, hi) => format!("a number from {lo} to {hi}"),
            KnobKind::Bool => "true or false".into(),
            KnobKind::Choice(c) => format!("one of {}", c.join(", ")),
            KnobKind::Text => "text of one line".into(),
        }
    }
}

impl Knobs {
    /// Reads a card's knobs out of the settings; unset ones take the card's default.
    pub fn read(room: &str, card: &'static Card, settings: &Settings) -> Result<Self, CardError> {
        let mut out = BTreeMap::new();
        for k in card.knobs {
            let key = format!("{room}.{}.{}", card.name, k.name);
            let value = settings.knob(&key).unwrap_or(k.default).to_string();
            if !k.kind.accepts(&value) {
                return Err(CardError::Value { key, value, want: k.kind.want() });
            }
            out.insert(k.name, value);
        }
        Ok(Self(out))
    }

    fn raw(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A whole number. Reading a knob that the card does not declare gives 0; the card test catches it.
    pub fn int(&self, name: &str) -> i64 {
        self.raw(name).parse().unwrap_or(0)
    }

    /// A number.
    pub fn float(&self, name: &str) -> f64 {
        self.raw(name).parse().unwrap_or(0.0)
    }

    /// A truth value.
    pub fn flag(&self, name: &str) -> bool {
        self.raw(name) == "true"
    }

    /// A text; empty when unset.
    pub fn text(&self, name: &str) -> &str {
        self.raw(name)
    }

    /// A choice.
    pub fn choice(&self, name: &str) -> &str {
        self.raw(name)
    }
}

/// What opens a technique: its context and its checked knobs in, the technique out.
pub type Open<T, C> = fn(&C, &Knobs) -> Result<Box<T>, CardError>;

/// One line of a room's table.
pub struct Entry<T: ?Sized, C: ?Sized> {
    /// the card
    pub card: Card,
    /// how to make one
    pub open: Open<T, C>,
}

/// A room's table: the only list of its members. The first row is the null technique, the oracle.
pub struct Table<T: ?Sized + 'static, C: ?Sized + 'static> {
    /// room name as in `--use room=name`
    pub room: &'static str,
    /// members, null first
    pub rows: &'static [&'static Entry<T, C>],
}

/// What a registry needs to know of a room, without its types.
#[derive(Clone, Debug)]
pub struct Room {
    /// room name
    pub name: &'static str,
    /// its cards, null first
    pub cards: Vec<&'static Card>,
}

impl<T: ?Sized, C: ?Sized> Table<T, C> {
    /// The room without its types, for listings and for checking settings.
    pub fn room(&self) -> Room {
        Room { name: self.room, cards: self.rows.iter().map(|e| &e.card).collect() }
    }

    /// Opens the member the settings choose for this room, or the null technique.
    pub fn open(&self, ctx: &C, settings: &Settings) -> Result<(Box<T>, &'static Card), CardError> {
        let name = settings.used(self.room).unwrap_or(self.rows[0].card.name);
        let entry = self.rows.iter().find(|e| e.card.name == name).ok_or_else(|| CardError::Name {
            room: self.room.into(),
            name: name.into(),
            known: self.rows.iter().map(|e| e.card.name).collect::<Vec<_>>().join(", "),
        })?;
        let knobs = Knobs::read(self.room, &entry.card, settings)?;
        Ok(((entry.open)(ctx, &knobs)?, &entry.card))
    }
}
