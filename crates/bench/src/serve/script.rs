//! What is asked: request `i` of a seed is the same text whoever sends it and when, so that two servers, or one server
//! asked in two ways, get the same work.

use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::draw::Draw;
use super::{Ask, Work};
use crate::BenchError;
use crate::prompt::{PINNED, PROSE};

/// Bytes that one token of the pinned prose takes, by the tokenizers of the supported families. The client has no
/// tokenizer of a server's model: lengths are aimed at by bytes, and rows say what the server counted.
const TOKEN_BYTES: usize = 4;

/// Tokens of the common system prompt of `shared-prefix`.
pub const SHARED: usize = 1000;

/// Tokens of the prompts that fill the server in `long-prompt`.
pub const LONG: usize = 4096;

/// Pinned real text, twice in a row, so that a slice may begin anywhere in the first half.
pub(super) struct Corpus {
    twice: String,
    once: usize,
}

impl Corpus {
    /// The texts that ship with the program, or one's own.
    pub(super) fn new(own: Option<&str>) -> Corpus {
        let pinned = || {
            let rest = PINNED.iter().filter(|p| p.text != PROSE).map(|p| p.text);
            std::iter::once(PROSE).chain(rest).collect::<Vec<_>>().join("\n")
        };
        let mut twice = own.map_or_else(pinned, str::to_string);
        twice.push('\n');
        let once = twice.len();
        twice.push_str(&twice.clone());
        Corpus { twice, once }
    }

    /// Tokens of the longest slice that repeats nothing.
    pub(super) fn tokens(&self) -> usize {
        self.once / TOKEN_BYTES
    }

    /// About `tokens` tokens from the first word at or behind byte `from`.
    fn slice(&self, from: usize, tokens: usize) -> &str {
        let word = |at: usize| {
            let rest = self.twice.get(at..).or_else(|| {
                let up = (at..self.twice.len()).find(|&i| self.twice.is_char_boundary(i))?;
                self.twice.get(up..)
            });
            let rest = rest.unwrap_or_default();
            let gap = rest.find(char::is_whitespace).unwrap_or(rest.len());
            self.twice.len() - rest.len() + gap
        };
        let start = word(from.min(self.once));
        let end = word((start + tokens * TOKEN_BYTES).min(self.twice.len())).max(start);
        self.twice[start..end].trim()
    }

    fn drawn(&self, tokens: usize, draw: &mut Draw) -> &str {
        self.slice(draw.below(self.once), tokens)
    }
}

/// Which requests of a load belong together in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// all requests of most workloads
    Usual,
    /// the short ones of `long-prompt` before anybody sends a long one
    Idle,
    /// the short ones of `long-prompt` whose first token was waited for while a long prompt was
    Short,
    /// the other short ones, between two long prompts
    Between,
    /// the long ones
    Long,
}

impl Kind {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Usual => "request",
            Kind::Idle => "short, alone",
            Kind::Short => "short, beside long",
            Kind::Between => "short, between long",
            Kind::Long => "long",
        }
    }
}

/// One thing a caller says.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub kind: Kind,
    /// the user's message, or the prompt of a completion
    pub text: String,
    pub max_tokens: usize,
    /// hangs up once so many chunks came; 0: before the answer begins
    pub hang_up: Option<usize>,
    /// reads nothing for the stall's time after the first chunk
    pub stalls: bool,
}

/// A caller's requests, each sent when the answer to the one before is there.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub turns: Vec<Turn>,
}

/// All requests of a load.
pub(super) struct Script {
    ask: Rc<Ask>,
    corpus: Corpus,
    system: Option<String>,
}

/// Callers of the warm-up draw other texts than the counted ones.
pub(super) const WARM: u64 = 1 << 40;
/// So do the long prompts.
pub(super) const LONGS: u64 = 2 << 40;
/// And the short ones that are measured alone.
pub(super) const IDLE: u64 = 3 << 40;

impl Script {
    pub(super) fn new(ask: Rc<Ask>, own: Option<&str>) -> Result<Self, BenchError> {
        let corpus = Corpus::new(own);
        let system = match ask.work {
            Work::SharedPrefix => Some(corpus.slice(0, SHARED).to_string()),
            Work::Agent => Some(AGENT.to_string()),
            _ => None,
        };
        let longest = match ask.work {
            Work::LongPrompt => ask.prompt_tokens.1.max(LONG),
            _ => ask.prompt_tokens.1,
        };
        if longest > corpus.tokens() {
            return Err(BenchError::Text { have: corpus.tokens(), want: longest });
        }
        Ok(Script { ask, corpus, system })
    }

    /// The session of an index within a part of the load ([`WARM`] and so on; 0: the counted ones).
    pub(super) fn session(&self, part: u64, index: usize) -> Session {
        let a = &self.ask;
        let mut draw = Draw::keyed(a.seed, part + index as u64);
        let turns = match a.work {
            Work::Agent => a.turns,
            _ => 1,
        };
        let turns = (0..turns)
            .map(|turn| {
                let (kind, tokens) = match part {
                    LONGS => (Kind::Long, LONG),
                    IDLE => (Kind::Idle, draw.within(a.prompt_tokens)),
                    _ if a.work == Work::LongPrompt => (Kind::Short, draw.within(a.prompt_tokens)),
                    _ => (Kind::Usual, draw.within(a.prompt_tokens)),
                };
                let text = self.corpus.drawn(tokens, &mut draw).to_string();
                let max_tokens = draw.within(a.max_tokens);
                let counted = part == 0;
                let leaves = draw.unit() < a.hang_up && counted;
                let after = draw.below(max_tokens);
                let stalls = a.stall.is_some_and(|s| counted && index < s.readers && turn == 0);
                Turn { kind, text, max_tokens, hang_up: leaves.then_some(after), stalls }
            })
            .collect();
        Session { turns }
    }

    /// Where a request goes.
    pub(super) fn path(&self) -> &'static str {
        if self.ask.work == Work::Completion { "/v1/completions" } else { "/v1/chat/completions" }
    }

    /// The body of a turn behind what was said before: (user, assistant) texts.
    pub(super) fn body(&self, turn: &Turn, history: &[(String, String)]) -> Vec<u8> {
        let a = &self.ask;
        let mut body = Map::new();
        body.insert("model".into(), json!(a.model));
        if a.work == Work::Completion {
            body.insert("prompt".into(), json!(turn.text));
        } else {
            let said = |role: &str, text: &str| json!({"role": role, "content": text});
            let mut messages: Vec<Value> = self.system.iter().map(|s| said("system", s)).collect();
            for (user, assistant) in history {
                messages.extend([said("user", user), said("assistant", assistant)]);
            }
            messages.push(said("user", &turn.text));
            body.insert("messages".into(), Value::Array(messages));
            if a.work == Work::Agent {
                body.insert("tools".into(), tools());
            }
        }
        body.insert("max_tokens".into(), json!(turn.max_tokens));
        body.insert("temperature".into(), json!(a.temperature));
        body.insert("seed".into(), json!(a.seed));
        if a.ignore_eos {
            body.insert("ignore_eos".into(), json!(true));
        }
        if a.stream {
            body.insert("stream".into(), json!(true));
            body.insert("stream_options".into(), json!({"include_usage": true}));
        }
        body.extend(a.body.clone());
        // A map of strings and numbers is always JSON.
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

/// What the agent of the workload `agent` is told at every turn.
const AGENT: &str = "You are the assistant of a small public library. You answer questions of visitors about books, \
opening hours and loans. Be brief and friendly, and never invent a title: where you are not sure, look it up with a \
tool. Use at most one tool at a time and wait for its result. Dates are written as year-month-day. A loan lasts four \
weeks and may be extended twice, unless somebody has reserved the book. Visitors under sixteen may borrow ten books at \
a time, others twenty. Fees are never charged without telling the visitor first. When a visitor asks for something the \
library does not do, say so and name a place that does.";

/// The tools it resends.
fn tools() -> Value {
    let tool = |name: &str, about: &str, properties: Value, required: &[&str]| {
        json!({"type": "function", "function": {"name": name, "description": about,
               "parameters": {"type": "object", "properties": properties, "required": required}}})
    };
    let text = |about: &str| json!({"type": "string", "description": about});
    json!([
        tool(
            "search_catalogue",
            "Finds books by title, author or subject and tells which copies are in the house.",
            json!({"query": text("words to look for"), "subject": text("a subject heading"),
                   "limit": {"type": "integer", "minimum": 1, "maximum": 20}}),
            &["query"],
        ),
        tool(
            "loans_of",
            "Lists what a visitor has borrowed, with the day each book is due.",
            json!({"card": text("number of the visitor's card")}),
            &["card"],
        ),
        tool(
            "extend_loan",
            "Extends a loan by four weeks, or says why it cannot be extended.",
            json!({"card": text("number of the visitor's card"), "copy": text("number of the copy")}),
            &["card", "copy"],
        ),
        tool(
            "opening_hours",
            "Opening hours of a day, holidays considered.",
            json!({"day": text("the day as year-month-day")}),
            &["day"],
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::tests::ask;

    #[test]
    fn a_request_is_the_same_whoever_sends_it_and_others_begin_elsewhere() {
        let a = ask();
        let (s, t) =
            (Script::new(Rc::new(a.clone()), None).unwrap(), Script::new(Rc::new(a.clone()), None).unwrap());
        let text = |s: &Script, part, i| s.session(part, i).turns[0].text.clone();
        assert_eq!(text(&s, 0, 5), text(&t, 0, 5));
        let mut heads: Vec<String> = (0..200).map(|i| text(&s, 0, i).chars().take(40).collect()).collect();
        heads.extend((0..200).map(|i| text(&s, WARM, i).chars().take(40).collect::<String>()));
        heads.sort();
        let twice = heads.windows(2).filter(|w| w[0] == w[1]).count();
        // Of 4 700 places 400 are drawn; some 17 pairs meet by chance.
        assert!(twice < 40, "{twice} of 400 begin alike");
    }

    #[test]
    fn lengths_are_drawn_over_the_whole_range_and_met_within_a_word() {
        let a = Ask { prompt_tokens: (10, 400), max_tokens: (4, 8), ..ask() };
        let s = Script::new(Rc::new(a.clone()), None).unwrap();
        let all: Vec<Turn> = (0..500).map(|i| s.session(0, i).turns.remove(0)).collect();
        let lengths: Vec<usize> = all.iter().map(|t| t.text.len() / TOKEN_BYTES).collect();
        assert!(lengths.iter().all(|l| (5..=404).contains(l)), "{lengths:?}");
        assert!(lengths.iter().any(|&l| l < 30) && lengths.iter().any(|&l| l > 380));
        for n in 4..=8 {
            assert!(all.iter().any(|t| t.max_tokens == n));
        }
        assert!(all.iter().all(|t| (4..=8).contains(&t.max_tokens)));
    }

    #[test]
    fn an_agent_resends_system_tools_and_history() {
        let a = Ask { work: Work::Agent, turns: 3, ..ask() };
        let s = Script::new(Rc::new(a.clone()), None).unwrap();
        let session = s.session(0, 0);
        assert_eq!(session.turns.len(), 3);
        let history = [("q".to_string(), "r".to_string())];
        let body: Value = serde_json::from_slice(&s.body(&session.turns[1], &history)).unwrap();
        let roles: Vec<&str> =
            body["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert_eq!(body["tools"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn the_shared_prefix_is_common_and_the_rest_is_not() {
        let a = Ask { work: Work::SharedPrefix, ..ask() };
        let s = Script::new(Rc::new(a.clone()), None).unwrap();
        let body = |i| -> Value { serde_json::from_slice(&s.body(&s.session(0, i).turns[0], &[])).unwrap() };
        assert_eq!(body(0)["messages"][0], body(1)["messages"][0]);
        assert_ne!(body(0)["messages"][1], body(1)["messages"][1]);
        let system = body(0)["messages"][0]["content"].as_str().unwrap().len() / TOKEN_BYTES;
        assert!(system.abs_diff(SHARED) < 5, "{system}");
    }

    #[test]
    fn own_fields_win_and_a_prompt_beyond_the_text_is_refused() {
        let mut a = Ask { prompt_tokens: (1, 100_000), ..ask() };
        assert!(Script::new(Rc::new(a.clone()), None).is_err());
        a.prompt_tokens = (4, 4);
        a.body.insert("cache_prompt".into(), json!(false));
        a.body.insert("temperature".into(), json!(0.5));
        let s = Script::new(Rc::new(a.clone()), Some("ünd ein sehr kurzer Text mit Ümlauten")).unwrap();
        for i in 0..50 {
            let body: Value = serde_json::from_slice(&s.body(&s.session(0, i).turns[0], &[])).unwrap();
            assert_eq!((&body["cache_prompt"], &body["temperature"]), (&json!(false), &json!(0.5)));
        }
    }
}
