//! Chat templates: Jinja as model files carry it, rendered as Jinja2 renders it with the settings of `transformers`
//! (`trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception`, `strftime_now`, the `generation` tag).

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value as Json};

use crate::error::Error;
use crate::jinja::{self, Meter, Program, Value, Vm};
use crate::message::Message;

/// Steps a rendering may take, and more for each byte of the conversation. A long conversation takes some hundred
/// steps per message; 2 million run in a fraction of a second.
const FUEL: u64 = 2_000_000;
const FUEL_PER_BYTE: u64 = 20;
/// Bytes that values may hold at a time, beside copies of the conversation.
const MOST_LIVE: usize = 20 << 20;

/// A parsed chat template.
#[derive(Debug)]
pub struct Template {
    program: Program,
    bos: String,
    eos: String,
    now: Option<i64>,
}

impl Template {
    /// Parses a template. `bos` and `eos` are what it sees as `bos_token` and `eos_token`.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        let program = jinja::parse(source).map_err(Error::Template)?;
        Ok(Self { program, bos: bos.into(), eos: eos.into(), now: None })
    }

    /// Fixes the time that `strftime_now` tells, seconds since 1970 in UTC; else it asks the machine.
    pub fn at(mut self, seconds: i64) -> Self {
        self.now = Some(seconds);
        self
    }

    /// Renders a conversation. `extra` adds or replaces variables (`enable_thinking`, `documents`, …).
    ///
    /// # Errors
    /// What the template itself raises, what it does wrong, and a rendering that takes too many steps or too much
    /// memory.
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&Json>,
        add_generation_prompt: bool,
        extra: &Map<String, Json>,
    ) -> Result<String, Error> {
        self.run(messages, tools, add_generation_prompt, extra).map_err(Error::Render)
    }

    fn run(
        &self,
        messages: &[Message],
        tools: Option<&Json>,
        add_generation_prompt: bool,
        extra: &Map<String, Json>,
    ) -> Result<String, String> {
        let messages: Json = messages.iter().map(Message::to_value).collect();
        let size = size(&messages, 0)
            + tools.map_or(0, |t| size(t, 0))
            + extra.values().map(|v| size(v, 0)).sum::<usize>();
        let meter =
            Meter::new(FUEL + FUEL_PER_BYTE * size as u64, MOST_LIVE.saturating_add(size.saturating_mul(4)));
        let now = self.now.unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
        });
        let mut vm = Vm::new(&self.program, meter.clone(), now);
        let json = |v: &Json| Value::from_json(&meter, v, 0);
        vm.set_global("messages", json(&messages)?);
        vm.set_global("tools", tools.map_or(Ok(Value::None), json)?);
        vm.set_global("documents", Value::None);
        vm.set_global("add_generation_prompt", Value::Bool(add_generation_prompt));
        vm.set_global("bos_token", Value::text(&meter, self.bos.as_str())?);
        vm.set_global("eos_token", Value::text(&meter, self.eos.as_str())?);
        for (k, v) in extra {
            vm.set_global(k, json(v)?);
        }
        vm.run()
    }
}

/// Bytes a value needs, roughly.
fn size(v: &Json, depth: u32) -> usize {
    if depth > 200 {
        return 0;
    }
    match v {
        Json::String(s) => s.len() + 64,
        Json::Array(a) => 64 + a.iter().map(|v| 32 + size(v, depth + 1)).sum::<usize>(),
        Json::Object(o) => 64 + o.iter().map(|(k, v)| k.len() + 128 + size(v, depth + 1)).sum::<usize>(),
        _ => 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(source: &str) -> String {
        let t = match Template::new(source, "<s>", "</s>") {
            Ok(t) => t.at(0),
            Err(e) => return e.to_string(),
        };
        let m = [Message::new("user", "hi"), Message::new("assistant", "a'b\nc")];
        t.render(&m, None, true, &Map::new()).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn chatml_renders_each_turn_and_the_opening_of_the_answer() {
        let got = show(
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}\
             {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        );
        assert_eq!(
            got,
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\na'b\nc<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn values_print_as_python_prints_them() {
        for (source, want) in [
            (
                "{{ [1, 2.0, True, None, 'a', \"it's\", {'k': (1,)}] }}",
                "[1, 2.0, True, None, 'a', \"it's\", {'k': (1,)}]",
            ),
            ("{{ messages[1].content | tojson }}", "\"a'b\\nc\""),
            (
                "{{ {'a': [1, {}], 'é': none} | tojson(indent=2) }}",
                "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"é\": null\n}",
            ),
            (
                "{{ 'abcdef'[::-2] }} {{ [1,2,3][0:5:-1] }} {{ [1,2,3][-2:] }} {{ 'abc'[5:] }}|",
                "fdb [] [2, 3] |",
            ),
            ("{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ -2 ** 2 }}", "-4 2 3.5 1024 4"),
            ("{{ 1 ~ true ~ none ~ nix }}|{{ 'a' 'b' }}", "1TrueNone|ab"),
            ("{{ 'x' if false }}|{{ 'a' in 'cat' and not 'b' in ['a'] }}", "|True"),
            (
                "{% set ns = namespace(n=0) %}{% for i in range(4) if i != 2 %}{% set ns.n = ns.n + i %}{{ loop.index }}{{ ',' if not loop.last }}{% endfor %} {{ ns.n }}",
                "1,2,3 4",
            ),
            (
                "{% macro f(a, b=2) %}{{ a }}-{{ b }}{{ caller() if caller }}{% endmacro %}{{ f(1) }} {% call f(3, b=4) %}!{% endcall %}",
                "1-2 3-4!",
            ),
            ("{{ strftime_now('%d %b %Y') }}", "01 Jan 1970"),
            (
                "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.rsplit(' ', 1) }}",
                "['a', 'b', '', 'c'] ['a', 'b'] ['a b', 'c']",
            ),
            (
                "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'b': 1, 'a': 2}|dictsort }}",
                "b1a2[('a', 2), ('b', 1)]",
            ),
            (
                "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('+') }}",
                "hi",
            ),
            ("  {% if true %}\n a\n  {%- endif %}\nb\n", " a"),
            ("{# c #}\n{% raw %}{{ x }}{% endraw %}\n!", "{{ x }}!"),
            ("{% generation %}g{% endgeneration %}", "g"),
            ("{{ '%s is %d' % ('a', 2) }} {{ '{} {x}'.format(1, x=2) }}", "a is 2 1 2"),
        ] {
            let got = show(source);
            if source.starts_with("  {%") {
                assert_eq!(got, " ab", "{source}");
            } else {
                assert_eq!(got, want, "{source}");
            }
        }
    }

    #[test]
    fn a_template_that_fails_says_why_in_a_sentence() {
        for (source, want) in [
            (
                "{{ raise_exception('no system role') }}",
                "the chat template refuses this conversation: no system role",
            ),
            (
                "{{ nix.x }}",
                "the chat template refuses this conversation: `nix` is undefined, so it has no `x`",
            ),
            (
                "{{ [].append(1) }}",
                "the chat template refuses this conversation: `append` would change a list, which templates may not",
            ),
            (
                "{% if %}",
                "the chat template does not parse: line 1: expected an expression, found `%}`; pass another template, or send the prompt raw",
            ),
        ] {
            assert_eq!(show(source), want, "{source}");
        }
    }
}
