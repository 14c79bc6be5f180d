//! Hostile files end in an error, or load and work within bounds: 1 s, 64 MB, never a panic.
//!
//! The fast set tries some thousand mutations; `TAMP_TEST_FULL=1` tries 100 000 of each kind.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod support;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use serde_json::{Map, json};
use support::Rng;
use tamp_base::meta::{Array, IntKind, Meta, Value};
use tamp_text::{Bytes, Detokenizer, Message, Special, Template, Tokenizer};

#[global_allocator]
static ALLOC: PeakAlloc = PeakAlloc;

/// One at a time: the peak is the process's.
static ONE: Mutex<()> = Mutex::new(());

/// Runs within the bounds.
fn bounded<T>(what: &dyn Fn() -> String, f: impl FnOnce() -> T) -> T {
    ALLOC.reset_peak_usage();
    let (before, start) = (ALLOC.current_usage(), Instant::now());
    let r = f();
    let (took, peak) = (start.elapsed(), ALLOC.peak_usage().saturating_sub(before));
    assert!(took < Duration::from_secs(1), "{took:?}: {}", what());
    assert!(peak < 64 << 20, "{peak} bytes: {}", what());
    r
}

fn tries(fast: usize) -> usize {
    if std::env::var_os("TAMP_TEST_FULL").is_some() { 100_000 } else { fast }
}

/// Flips, cuts, repeats, splices and big numbers.
fn mutate(rng: &mut Rng, base: &[u8], bag: &[&str]) -> Vec<u8> {
    let mut b = base.to_vec();
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(b.len() + 1);
        let to = (at + rng.below(24)).min(b.len());
        match rng.below(7) {
            0 if at < b.len() => b[at] ^= 1 << rng.below(8),
            1 => drop(b.drain(at..to)),
            2 => {
                let part = b[at..to].to_vec();
                let n = 1 + rng.below(40);
                b.splice(at..at, part.repeat(n));
            }
            3 => b.truncate(at),
            4 => {
                let n = rng.pick(&[
                    "0",
                    "-1",
                    "4294967295",
                    "99999999999999999999",
                    "1e999",
                    "null",
                    "\"\"",
                    "[]",
                    "{}",
                ]);
                b.splice(at..to, n.bytes());
            }
            5 => drop(b.splice(at..at, rng.pick(bag).bytes())),
            _ => {
                let from = rng.below(b.len() + 1);
                let part = b[from..(from + 40).min(b.len())].to_vec();
                b.splice(at..to, part);
            }
        }
    }
    b
}

fn small_json() -> String {
    let mut vocab = Map::new();
    for (i, c) in ('!'..='~').chain('¡'..='ÿ').chain('Ā'..='Ń').enumerate() {
        vocab.insert(c.to_string(), json!(i));
    }
    for (a, b) in [("h", "e"), ("l", "l"), ("Ġ", "a"), ("he", "ll"), ("hell", "o"), ("Ġa", "b")] {
        let n = vocab.len();
        vocab.insert(format!("{a}{b}"), json!(n));
    }
    let n = vocab.len();
    json!({
        "version": "1.0",
        "added_tokens": [
            {"id": n, "content": "<|im_start|>", "special": true, "normalized": false, "lstrip": true, "rstrip": true, "single_word": false},
            {"id": n + 1, "content": "  ", "special": false, "normalized": true, "lstrip": false, "rstrip": false, "single_word": true}
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "a+b"}, "content": "ab"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "Split", "pattern": {"Regex": "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}
        ]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [n], "tokens": ["<|im_start|>"]}}},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "unk_token": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": ["h e", "l l", ["Ġ", "a"], "he ll", "hell o", "Ġa b"]}
    })
    .to_string()
}

const TEXT: &str = "hello  <|im_start|> aab 12345 it's \u{301}\u{fffd}\r\n\n é漢🚀 ▁ \u{0}";

fn use_tokenizer(t: &Tokenizer) {
    for special in [Special::Parse, Special::Plain] {
        let ids = t.encode(TEXT, special, true);
        let mut d = Detokenizer::new(t);
        ids.iter().for_each(|&id| drop(d.push(id)));
        drop(d.finish());
        drop(t.decode(&ids, true));
    }
    drop(t.decode(&[0, u32::MAX, t.len() as u32], true));
}

#[test]
fn mutated_tokenizer_json_ends_in_an_error_or_tokenizes_within_bounds() {
    let _one = ONE.lock();
    let base = small_json();
    let good = Tokenizer::from_json(base.as_bytes(), None).unwrap();
    assert_eq!(
        String::from_utf8(good.decode(&good.encode("hello ab", Special::Parse, false), true)).unwrap(),
        "hello ab"
    );
    let bag = [
        "\"type\":\"ByteLevel\"",
        "\\u0000",
        "\\ud800",
        "(((",
        "(?!\\\\S)",
        "{1000}",
        "\\\\p{L}{999}",
        "Metaspace",
        "Sequence",
        "[[[[",
        "\"vocab\":",
    ];
    let mut rng = Rng(1);
    let mut loaded = 0;
    for i in 0..tries(2_000) {
        let file = mutate(&mut rng, base.as_bytes(), &bag);
        bounded(&|| format!("mutation {i}: {}", String::from_utf8_lossy(&file)), || {
            if let Ok(t) = Tokenizer::from_json(&file, None) {
                loaded += 1;
                use_tokenizer(&t);
            }
        });
    }
    assert!(loaded > tries(2_000) / 100, "mutations that load: {loaded}");
}

#[test]
fn tokenizer_json_bombs_end_in_an_error() {
    let _one = ONE.lock();
    let base = small_json();
    let deep = "[".repeat(100_000);
    for (from, to) in [
        ("\"normalizer\":{", "\"normalizer\":[[[["),
        ("(?i:'s|'t)", "(\\\\p{L}{1000}){1000}"),
        ("(?i:'s|'t)", "((a{0,100}){0,100}){0,100}"),
        ("\"!\":0", "\"!\":4294967295"),
        ("\"!\":0", "\"!\":1000000"),
        ("\"h e\"", "\"x y\""),
        ("\"h e\"", "[\"h\"]"),
        ("\"BPE\"", "\"Unigram\""),
        ("\"NFC\"", "\"Precompiled\""),
        ("\"content\":\"ab\"", "\"content\":5"),
    ] {
        let file = base.replacen(from, to, 1);
        assert_ne!(file, base, "{from}");
        let r = bounded(&|| from.into(), || {
            Tokenizer::from_json(file.as_bytes(), None).map(|t| use_tokenizer(&t))
        });
        if from != "\"content\":\"ab\"" {
            assert!(r.is_err(), "{from} → {to}");
        }
    }
    for file in [
        deep.clone(),
        base.replacen("\"normalizer\":", &format!("\"normalizer\":{deep}"), 1),
        "{}".into(),
        String::new(),
    ] {
        assert!(bounded(&|| "deep".into(), || Tokenizer::from_json(file.as_bytes(), None)).is_err());
    }
    // A replacement may not blow the text up without end.
    let grow = base.replacen("\"content\":\"ab\"", &format!("\"content\":\"{}\"", "ab".repeat(5000)), 1);
    let t = Tokenizer::from_json(grow.as_bytes(), None).unwrap();
    bounded(&|| "growth".into(), || t.encode(&"ab ".repeat(10_000), Special::Parse, false));
}

#[test]
fn long_runs_cost_linear_time() {
    let _one = ONE.lock();
    let t = Tokenizer::from_json(small_json().as_bytes(), None).unwrap();
    let spm = Tokenizer::from_meta(&small_spm()).unwrap();
    for run in ["a", " ", "hello", "1", "\n", "é", "<|im_start|>", "<|im", "!"] {
        let text = run.repeat(300_000 / run.len());
        for t in [&t, &spm] {
            bounded(&|| format!("run of {run:?}"), || t.encode(&text, Special::Parse, false));
        }
    }
}

fn small_spm() -> Meta {
    let mut m = Meta::default();
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(
        ["▁", "a", "b", "ab", "▁a", "▁ab", "h", "e", "l", "o", "he", "ll", "hell", "hello", "aa", "aaaa"]
            .map(String::from),
    );
    let n = tokens.len();
    let types = (0..n).map(|i| [2, 3, 3].get(i).copied().unwrap_or(if i < 259 { 6 } else { 1 })).collect();
    m.set("tokenizer.ggml.model", Value::Str("llama".into()));
    m.set("tokenizer.ggml.scores", Value::Array(Array::F32((0..n).map(|i| -(i as f32)).collect())));
    m.set("tokenizer.ggml.token_type", Value::Array(Array::Int(IntKind::B32, types)));
    m.set("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens.iter().collect())));
    m
}

#[test]
fn mutated_metadata_ends_in_an_error_or_tokenizes_within_bounds() {
    let _one = ONE.lock();
    let mut bpe = small_spm();
    bpe.set("tokenizer.ggml.model", Value::Str("gpt2".into()));
    bpe.set("tokenizer.ggml.pre", Value::Str("llama-bpe".into()));
    bpe.set(
        "tokenizer.ggml.merges",
        Value::Array(Array::Str(["a b", "h e", "l l", "he ll", " ", "", "é", "he  ll"].iter().collect())),
    );
    let keys = [
        "model",
        "pre",
        "tokens",
        "token_type",
        "scores",
        "merges",
        "bos_token_id",
        "eos_token_id",
        "unknown_token_id",
        "add_bos_token",
        "add_space_prefix",
        "eot_token_id",
    ];
    let mut rng = Rng(3);
    for i in 0..tries(2_000) {
        let mut m = if rng.below(2) == 0 { small_spm() } else { bpe.clone() };
        for _ in 0..1 + rng.below(3) {
            let key = format!("tokenizer.ggml.{}", rng.pick(&keys));
            let value = match rng.below(9) {
                0 => Value::Str(
                    rng.pick(&[
                        "llama",
                        "gpt2",
                        "bert",
                        "gemma4",
                        "qwen2",
                        "default",
                        "deepseek-llm",
                        "falcon",
                        "",
                        "x",
                    ])
                    .to_string(),
                ),
                1 => Value::U32(rng.next() as u32),
                2 => Value::I32(-1),
                3 => Value::Array(Array::Str(Default::default())),
                4 => Value::Array(Array::Str(
                    (0..rng.below(40))
                        .map(|i| {
                            rng.pick(&["", "a", "▁", "<0x41>", "<0xZZ>", "é", "a a", "Ġ", "<s>"])
                                .repeat(i % 700)
                        })
                        .collect(),
                )),
                5 => Value::Array(Array::F32(
                    (0..rng.below(300)).map(|_| f32::from_bits(rng.next() as u32)).collect(),
                )),
                6 => Value::Array(Array::Int(
                    IntKind::B32,
                    (0..rng.below(400)).map(|_| rng.below(9) as i64 - 1).collect(),
                )),
                7 => Value::Bool(rng.below(2) == 0),
                _ => Value::F64(f64::NAN),
            };
            m.set(key, value);
        }
        bounded(&|| format!("mutation {i}: {m:?}"), || {
            if let Ok(t) = Tokenizer::from_meta(&m) {
                use_tokenizer(&t);
            }
        });
    }
}

/// BPE and SentencePiece, each compiled.
fn compiled() -> [Vec<u8>; 3] {
    let mut bert = small_spm();
    bert.set("tokenizer.ggml.model", Value::Str("bert".into()));
    [
        Tokenizer::from_json(small_json().as_bytes(), None).unwrap().compile(),
        Tokenizer::from_meta(&small_spm()).unwrap().compile(),
        Tokenizer::from_meta(&bert).unwrap().compile(),
    ]
}

/// Every token is one, so that whoever looks it up in a table of that length finds it.
fn ids_are_in_range(t: &Tokenizer) {
    for special in [Special::Parse, Special::Plain] {
        let ids = t.encode(TEXT, special, true);
        assert!(ids.iter().all(|&id| (id as usize) < t.len()), "{ids:?} of {}", t.len());
    }
    assert!(t.ends().chain(t.bos()).chain(t.eos()).all(|id| (id as usize) < t.len()));
}

#[test]
fn mutated_compiled_tokenizers_end_in_an_error_or_give_tokens_of_theirs_within_bounds() {
    let _one = ONE.lock();
    let bag = [
        "\u{ff}",
        "\"norms\":[",
        "{\"ReplacePattern\":[\"\\\\p{L}{999}\",\"\"]},",
        "[[[[",
        "\"unknown\":7",
        "(?!\\\\S)",
    ];
    let mut rng = Rng(11);
    let (mut loaded, mut other) = (0, 0);
    let good = compiled();
    let want: Vec<_> = good
        .iter()
        .map(|c| Tokenizer::from_compiled(c.clone().into()).unwrap().encode(TEXT, Special::Parse, true))
        .collect();
    for i in 0..tries(6_000) {
        let which = rng.below(good.len());
        let mut file = good[which].clone();
        // A table's entries are found by overwriting in place; sections and rules by moving them.
        if rng.below(4) == 0 {
            file = mutate(&mut rng, &file, &bag);
        } else {
            let head = rng.below(3) == 0;
            for _ in 0..1 + rng.below(300) {
                let at = rng.below(if head { 260 } else { file.len() });
                file[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff, rng.0 as u8]);
            }
        }
        bounded(&|| format!("mutation {i} of {which}"), || {
            if let Ok(t) = Tokenizer::from_compiled(Bytes::from(file)) {
                loaded += 1;
                other += usize::from(t.encode(TEXT, Special::Parse, true) != want[which]);
                ids_are_in_range(&t);
                use_tokenizer(&t);
            }
        });
    }
    println!("{loaded} load, {other} of them give other tokens");
    assert!(loaded > tries(6_000) / 100 && other > tries(6_000) / 200, "{loaded} load, {other} differ");
}

#[test]
fn every_byte_of_a_compiled_tokenizer_may_be_any_extreme() {
    let _one = ONE.lock();
    let step = if tries(0) > 0 { 1 } else { 7 };
    for good in compiled() {
        for at in (0..good.len()).step_by(step) {
            for v in [0, 0xff, good[at] ^ 0x80, good[at] ^ 1] {
                let mut file = good.clone();
                file[at] = v;
                if let Ok(t) = Tokenizer::from_compiled(file.into()) {
                    ids_are_in_range(&t);
                }
            }
        }
        for len in 0..good.len() {
            if let Ok(t) = Tokenizer::from_compiled(good[..len].to_vec().into()) {
                panic!("{} tokens from {len} of {} bytes", t.len(), good.len());
            }
        }
    }
}

#[test]
fn compiled_bombs_end_in_an_error() {
    let _one = ONE.lock();
    let [good, ..] = compiled();
    let number = |at: usize, v: u64, n: usize| {
        let mut f = good.clone();
        f[at..at + n].copy_from_slice(&v.to_le_bytes()[..n]);
        f
    };
    // The head: version, ids, seeds and probes, longest, then sections of two 64-bit numbers.
    let mut bombs = vec![vec![], b"tampTOK\n".to_vec(), number(8, 2, 4)];
    bombs.extend([0, 1, 1 << 21, u64::from(u32::MAX)].map(|ids| number(12, ids, 4)));
    bombs.extend([24, 36].map(|probe| number(probe, 1 << 20, 4)));
    for section in 0..12 {
        let at = 44 + 16 * section;
        bombs.extend([1 << 20, u64::MAX, u64::MAX - 8].map(|offset| number(at, offset, 8)));
        bombs.extend([1 << 40, u64::MAX, u64::MAX - 400].map(|len| number(at + 8, len, 8)));
    }
    for (i, b) in bombs.iter().enumerate() {
        let r = bounded(&|| format!("bomb {i}"), || Tokenizer::from_compiled(Bytes::from(b.clone())));
        assert!(r.is_err(), "bomb {i}");
    }
    // Rules that ask for many automata stop being read.
    let rules = u64::from_le_bytes(good[44..52].try_into().unwrap()) as usize;
    let len = u64::from_le_bytes(good[52..60].try_into().unwrap()) as usize;
    let json = std::str::from_utf8(&good[rules..rules + len]).unwrap();
    let many = "{\"ReplacePattern\":[\"\\\\w{9}\",\"\"]},".repeat(10_000);
    let bomb = json.replacen("\"norms\":[", &format!("\"norms\":[{many}"), 1);
    assert_ne!(bomb, json);
    let mut file = good.clone();
    file[44..52].copy_from_slice(&(good.len() as u64).to_le_bytes());
    file[52..60].copy_from_slice(&(bomb.len() as u64).to_le_bytes());
    file.extend_from_slice(bomb.as_bytes());
    assert!(bounded(&|| "many patterns".into(), || Tokenizer::from_compiled(file.into())).is_err());
}

const TEMPLATE: &str = r#"{%- macro item(m, n=2) -%}{{ '<|' ~ m.role ~ '|>' }}{{ m['content'] | trim | replace('a', 'b') }}{%- endmacro -%}
{% set ns = namespace(s='', l=[], d={'a': 1}) %}
{% for m in messages if m.role != 'x' %}
{% if loop.first and tools is not none and tools is iterable %}{{ tools | tojson(indent=2) }}{% elif not loop.last %}{% continue %}{% else %}{{ raise_exception('no') if m.x is defined }}{% endif %}
{% set ns.s = ns.s + m.content[:3] ~ loop.index0 %}{% set ns.l = ns.l + [m.role, ns.s] %}
{% call(x) item(m, n=3) %}{{ x }}{% endcall %}{{ item(m) }}{% set cap | upper %}{{ ns.s }}{% endset %}{{ cap * 2 }}
{% for k, v in ns.d.items() %}{{ k }}={{ v // 2 % 3 ** 2 }}{% endfor %}{{ ns.l | map('upper') | join(', ') }}{{ ns.l[::-1][-2:0:-1] }}
{% endfor %}{# c #}{% raw %}{{ r }}{% endraw %}{{ '%s' % ns.s }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{%- if add_generation_prompt %}{{ bos_token + '<|assistant|>' }}{% generation %}{% endgeneration %}{% endif %}"#;

fn render(source: &str) -> Result<String, tamp_text::Error> {
    let t = Template::new(source, "<s>", "</s>")?;
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"a": [1, 2.5, null]}}}]);
    let m = [Message::new("user", " hé a\n"), Message::new("assistant", "b")];
    t.render(&m, Some(&tools), true, &Map::new())
}

#[test]
fn mutated_templates_end_in_an_error_or_render_within_bounds() {
    let _one = ONE.lock();
    assert!(render(TEMPLATE).is_ok(), "{:?}", render(TEMPLATE));
    let bag = [
        "{% for i in range(99999) %}",
        "{% endfor %}",
        "{{",
        "}}",
        "{%",
        "%}",
        "~",
        "*",
        "[::-9223372036854775808]",
        "[:-5:-1]",
        "ns.s ~ ns.s",
        "ns.l + ns.l",
        "* 99999999",
        "ns",
        "loop",
        "[ns.l]",
        "|tojson",
        "|indent(200)",
        "|batch(1)",
        "|replace('', ns.s)",
        ".split('')",
        ".join(",
        "|sort",
        "|unique",
        "item(m)",
        "**",
        "//0",
        "'%99999d' %",
        "not",
    ];
    let mut rng = Rng(5);
    let mut rendered = 0;
    for i in 0..tries(2_000) {
        let source = String::from_utf8_lossy(&mutate(&mut rng, TEMPLATE.as_bytes(), &bag)).into_owned();
        bounded(&|| format!("mutation {i}: {source}"), || rendered += usize::from(render(&source).is_ok()));
    }
    assert!(rendered > tries(2_000) / 100, "mutations that render: {rendered}");
}

#[test]
fn template_bombs_end_in_an_error() {
    let _one = ONE.lock();
    let nest =
        |open: &str, close: &str, n: usize| format!("{{{{ {}1{} }}}}", open.repeat(n), close.repeat(n));
    let mut bombs: Vec<String> = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ range(10**12) }}",
        "{{ range(0, 10**12, 1) | list }}",
        "{{ 'x' * 10**12 }}",
        "{{ [0] * 10**9 }}",
        "{{ '' * 10**30 }}{{ 10 ** 10 ** 10 }}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}{{ ns.l == ns.l }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}",
        "{% set ns = namespace(l={}) %}{% for i in range(99999) %}{% set ns.l = {'a': ns.l.items} %}{% endfor %}",
        "{% set ns = namespace(l=0) %}{% for i in range(99999) %}{% set ns.l = namespace(p=ns.l) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
        "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s | replace('a', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s.join([ns.s, ns.s, ns.s]) %}{% endfor %}",
        "{% set ns = namespace(s='\\n' * 1000000) %}{% for i in range(60) %}{% set ns.s = ns.s | indent(200, blank=true) %}{% endfor %}",
        "{% set ns = namespace(s=['\\n']) %}{% for i in range(60) %}{% set ns.s = [ns.s | tojson] %}{% endfor %}",
        "{% set ns = namespace(s='&&') %}{% for i in range(60) %}{% set ns.s = (ns.s ~ ns.s) | e %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = '%s%s' % (ns.s, ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = '{0}{0}'.format(ns.s) %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'y' * 100000 }}{% endfor %}",
        "{% set s = 'y' * 8000000 %}{% set l = namespace(a=[]) %}{% for i in range(100) %}{% set l.a = l.a + [s ~ i] %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(x) %}{% call f(x) %}{{ f(x) }}{% endcall %}{{ caller() if caller }}{% endmacro %}{{ f(1) }}",
        "{% set s = 'a ' * 4000000 %}{% for i in range(99999) %}{% set x = s.split() %}{% endfor %}",
        "{% set s = 'a' * 8000000 %}{% for c in s %}{% endfor %}",
        "{% set l = range(100000) | list %}{% set u = l | unique | list %}{{ u }}{{ l | sort | unique }}",
        "{% set s = 'ab' * 3000000 %}{% for i in range(99999) %}{% if s == s ~ '' or 'zz' in s %}{% endif %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{% set ns.b = [ns, {'k': ns}] %}{{ ns }}{{ ns.b }}{{ ns.nix.nix }}",
        "{% for i in range(99999) %}{{ loop.changed(loop) }}{% endfor %}",
        "{% for k in range(99999) %}{% for m in messages %}{{ m | tojson(indent=64) }}{% endfor %}{% endfor %}",
        "{{ 'a'.center(10**18) }}{{ '%.99999999f' % 1.0 }}",
        "{{ strftime_now('%Y' * 100000) }}",
        "{% for i in range(5) %}{{ raise_exception('x' * 5000000) }}{% endfor %}",
    ]
    .map(String::from)
    .into();
    for n in [600, 5_000, 60_000] {
        bombs.extend([
            nest("(", ")", n),
            nest("[", "]", n),
            nest("{1:", "}", n),
            nest("not ", "", n),
            nest("-", "", n),
            nest("1 if 1 else ", "", n),
            nest("f(", ")", n),
            nest("", ".a", n),
            nest("", "|e", n),
            nest("", "[0]", n),
            nest("", " is none", n),
            "{% if 1 %}".repeat(n / 4) + &"{% endif %}".repeat(n / 4),
            "{% for i in x %}".repeat(n / 4),
            "{% macro a() %}".repeat(n / 4),
            "{% set x %}".repeat(n / 4),
            "{% filter e %}".repeat(n / 4),
            format!("{{% set {}a = 1 %}}", "(".repeat(n)),
        ]);
    }
    bombs.push("x".repeat(1 << 20));
    bombs.push("{{ 1".to_string() + &" ~ 'aaaaaaa'".repeat(20_000) + "}}{{");
    for b in &bombs {
        let short = || b.chars().take(150).collect::<String>();
        let r = bounded(&short, || render(b));
        assert!(r.is_err(), "{} rendered", short());
        assert!(r.unwrap_err().to_string().len() < 1000, "{}", short());
    }
}

#[test]
fn the_deepest_template_fits_a_small_stack() {
    let sources = [
        format!("{{{{ {}1{} }}}}", "(".repeat(45), ")".repeat(45)),
        "{% if 1 %}".repeat(90) + "x" + &"{% endif %}".repeat(90),
        "{% macro f(x) %}{% if 1 %}{% for i in [1] %}{{ [[f((((x))))]] }}{% endfor %}{% endif %}{% endmacro %}{{ f(1) }}".into(),
        "{% set ns = namespace(l=[]) %}{% for i in range(118) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}{{ ns.l == [ns.l] }}{{ ns.l | tojson }}".into(),
    ];
    let small = std::thread::Builder::new().stack_size(512 << 10);
    let run = small.spawn(move || sources.iter().map(|s| render(s).is_ok()).collect::<Vec<_>>()).unwrap();
    assert_eq!(run.join().unwrap(), [true, true, false, true]);
}

#[test]
fn what_python_allows_at_the_edges_is_no_panic() {
    let _one = ONE.lock();
    for e in [
        "[1,2,3][0:5:-1]",
        "[1,2,3][9223372036854775807:]",
        "'abc'[::-170141183460469231731687303715884105727]",
        "'é漢'[-1:5:2]",
        "-170141183460469231731687303715884105727 - 1",
        "(-170141183460469231731687303715884105727 - 1) // -1",
        "(-170141183460469231731687303715884105727 - 1) % -1",
        "1e308 * 10",
        "(1e308 * 10) | int",
        "(0.0 / 1) | round(300)",
        "''.split(',')",
        "'' | first",
        "[] | max",
        "'a'.rsplit('a', 0)",
        "'x' | truncate(0)",
        "[[1, 'a'] , [1, none]] | sort",
        "loop",
        "messages[99999999999999999999999]",
        "namespace",
        "'a' | center(3)",
        "{}.get",
        "range(5, 0, -2) | list",
        "'ß' | upper",
    ] {
        let source = format!("{{{{ {e} }}}}");
        bounded(&|| source.clone(), || drop(render(&source)));
    }
}
