//! Writes a few good inputs for every target into `corpus/`: mutations of them reach past the first length and the first
//! hash, which a fuzzer would be years in finding. `cargo run --bin seeds` in this folder.

#[allow(dead_code)]
#[path = "../crates/weights/tests/common/make.rs"]
mod make;

use std::error::Error;
use std::fs;
use std::path::Path;

use tamp_text::Tokenizer;
use tamp_weights::Weights;
use tamp_weights::bundle::{About, Behavior, ROWS, Writer};
use tamp_weights::testing::{Arch, Tiny};

type Done<T = ()> = Result<T, Box<dyn Error>>;

const TOKENIZER: &str = r#"{"added_tokens":[{"id":6,"content":"<|x|>","special":true}],
"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},
"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"h":0,"e":1,"l":2,"o":3,"he":4,"ll":5},
"merges":["h e","l l"]}}"#;

const TEMPLATE: &str = "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m.content | trim }}{% if not loop.last %}
{% endif %}{% endfor %}{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% macro f(a, b=1) %}{{ a ~ b }}\
{% endmacro %}{{ f(namespace(x=1).x) }}{% if add_generation_prompt %}<|assistant|>{% endif %}";

const SCHEMA: &str = concat!(
    "\0",
    r##"{"$defs":{"x":{"anyOf":[{"$ref":"#/$defs/x"},{"const":1}]}},"type":"object","properties":{"a":{"type":"string","##,
    r##""pattern":"^a+$"},"b":{"$ref":"#/$defs/x"},"c":{"type":"array","items":{"type":"integer","minimum":3}}}}"##
);

fn main() -> Done {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let put = |target: &str, name: &str, bytes: &[u8]| -> Done {
        let dir = corpus.join(target);
        fs::create_dir_all(&dir)?;
        Ok(fs::write(dir.join(name), bytes)?)
    };
    for (name, arch) in [("llama", Arch::Llama), ("qwen2", Arch::Qwen2), ("qwen3", Arch::Qwen3)] {
        let gguf = Tiny::new(arch, 1).build();
        let model = Weights::from_gguf_bytes(gguf.clone())?;
        let compiled = Tokenizer::from_meta(&model.meta)?.compile();
        for (form, odd) in [("hashed", 1), ("plain", 0)] {
            let mut bundle = bundle(&model, &compiled, &corpus)?;
            bundle[4] = odd;
            put("bundle", &format!("{name}.{form}"), &bundle)?;
        }
        put("compiled_tokenizer", name, &compiled)?;
        put("gguf", name, &gguf)?;
    }
    let json = Tokenizer::from_json(TOKENIZER.as_bytes(), None)?;
    put("compiled_tokenizer", "json", &json.compile())?;
    put("tokenizer_json", "bpe", TOKENIZER.as_bytes())?;
    put("template", "chat", TEMPLATE.as_bytes())?;
    put("grammar", "schema", SCHEMA.as_bytes())?;
    put("grammar", "regex", b"\x01(ab|[c-f]{2,5}|\\d+)(x?y)*")?;
    put("grammar", "lark", b"\x02start: a b*\na: \"x\" | /[0-9]+/\nb: \"[\" a (\",\" a)* \"]\"")?;
    put(
        "streams",
        "hermes",
        b"\x00<think>so</think>a <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
    )?;
    put(
        "streams",
        "llama3",
        b"\x01{\"name\": \"f\", \"parameters\": {}}; {\"parameters\": {\"a\": [null]}, \"name\": \"g\"}",
    )?;
    put("streams", "mistral", b"\x02[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\"}]")?;
    let config = make::config();
    put("safetensors", "llama", &two(config.as_bytes(), &make::safetensors(&make::tensors(), true)))?;
    put("onnx", "llama", &two(config.as_bytes(), &make::onnx()))?;
    let (checkpoint, tokenizer) = make::llama2c(true);
    put("llama2c", "tied", &two(&tokenizer, &checkpoint))
}

/// A bundle as its target takes it: what stands before the manifest, and the manifest.
fn bundle(model: &Weights, compiled: &[u8], dir: &Path) -> Done<Vec<u8>> {
    fs::create_dir_all(dir)?;
    let path = dir.join("whole.tamp");
    let about = About {
        layout: ROWS.into(),
        behavior: Behavior::Exact,
        compiled: Some(("compiled".into(), compiled.to_vec())),
        draft: None,
    };
    let mut writer = Writer::create(&path, model, about)?;
    // A few tensors, so that most mutations hit a description.
    for t in model.tensors().filter(|t| t.name.contains("blk.0.attn_k")) {
        let Some(tensor) = model.tensor(t.name)? else { continue };
        writer.tensor(t.name, tensor.kind, t.shape, ROWS, &tensor.bytes)?;
    }
    writer.finish()?;
    let file = fs::read(&path)?;
    fs::remove_file(&path)?;
    let start = u64::from_le_bytes(file[16..24].try_into()?) as usize;
    Ok(two(&file[..start], &file[start..]))
}

fn two(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&(first.len() as u32).to_le_bytes(), first, second].concat()
}
