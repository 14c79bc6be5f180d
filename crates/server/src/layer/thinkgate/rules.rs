//! Steps that need no reasoning, by rules that read the request alone.

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind};
use tamp_text::{Content, Message};

use super::{Gate, Scene};

const fn rule(name: &'static str, about: &'static str) -> Knob {
    Knob { name, about, kind: KnobKind::Bool, default: "true" }
}

/// The card.
pub static ENTRY: Entry<dyn Gate, ()> = Entry {
    card: Card {
        name: "rules",
        aka: "skip-thinking proxy",
        about: "turns thinking off, through the template, for steps that need none; the answer says so",
        paper: "",
        claim: "",
        // Fewer tokens and another answer: never a speed in tokens per second.
        effect: Effect::Lossy,
        needs: &[],
        knobs: &[
            rule("tool_result", "the last message is the result of a tool"),
            rule("schema", "the answer must have a form: a schema, a grammar, a call of a tool"),
            rule(
                "formatting",
                "the last message begins with a word of formatting, such as `reformat` or `sort`",
            ),
        ],
    },
    open: |(), knobs| {
        Ok(Box::new(Rules {
            tool_result: knobs.flag("tool_result"),
            schema: knobs.flag("schema"),
            formatting: knobs.flag("formatting"),
        }))
    },
};

struct Rules {
    tool_result: bool,
    schema: bool,
    formatting: bool,
}

/// First words of requests that change how a text looks and not what it says.
const FORMATTING: &[&str] = &[
    "alphabetise",
    "alphabetize",
    "capitalise",
    "capitalize",
    "format",
    "indent",
    "lowercase",
    "prettify",
    "reformat",
    "reindent",
    "sort",
    "tabulate",
    "uppercase",
];

/// The first word that is not a courtesy.
fn asks_for_formatting(m: &Message) -> bool {
    let Content::Text(text) = &m.content else { return false };
    let word = text.split_whitespace().map(|w| w.trim_matches(|c: char| !c.is_alphanumeric()));
    let first = word.take(8).find(|w| !w.is_empty() && !w.eq_ignore_ascii_case("please"));
    first.is_some_and(|w| FORMATTING.iter().any(|f| w.eq_ignore_ascii_case(f)))
}

impl Gate for Rules {
    fn closes(&self, scene: &Scene<'_>) -> Option<&'static str> {
        let last = scene.messages.last()?;
        if self.schema && scene.formed {
            return Some("schema");
        }
        if self.tool_result && last.role == "tool" {
            return Some("tool_result");
        }
        (self.formatting && last.role == "user" && asks_for_formatting(last)).then_some("formatting")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tamp_base::settings::Settings;

    fn rule(settings: &[&str], role: &str, text: &str, formed: bool) -> Option<&'static str> {
        let mut s = Settings::default();
        s.add_use("server.thinkgate=rules", "test").unwrap();
        settings.iter().for_each(|k| s.add_set(&format!("server.thinkgate.rules.{k}"), "test").unwrap());
        let (gate, _) = super::super::TABLE.open(&(), &s).unwrap();
        gate.closes(&Scene { messages: &[Message::new("user", "hi"), Message::new(role, text)], formed })
    }

    #[test]
    fn each_rule_closes_on_its_own_step_and_can_be_turned_off() {
        for (role, text, formed, want) in [
            ("tool", "42", false, Some("tool_result")),
            ("user", "Please reformat: a,b", false, Some("formatting")),
            ("user", "Sort these", false, Some("formatting")),
            ("user", "why is it", true, Some("schema")),
            ("user", "why does sort allocate?", false, None),
            ("user", "prove the format theorem", false, None),
            ("assistant", "sort", false, None),
            ("user", "", false, None),
        ] {
            assert_eq!(rule(&[], role, text, formed), want, "{role} {text}");
            if let Some(name) = want {
                assert_eq!(rule(&[&format!("{name}=false")], role, text, formed), None, "{name}");
            }
        }
    }

    #[test]
    fn the_default_gate_is_always_open() {
        let (gate, card) = super::super::TABLE.open(&(), &Settings::default()).unwrap();
        assert_eq!(card.name, "none");
        assert_eq!(gate.closes(&Scene { messages: &[Message::new("tool", "1")], formed: true }), None);
    }
}
