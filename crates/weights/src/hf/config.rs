//! `config.json` ⇄ metadata. Nothing in it is believed before it was held against what a model can be.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value as Json};
use tamp_base::meta::{Meta, Value};

use super::json;
use crate::error::{Error, Result};

/// The key that says how q and k rows pair up for rope.
pub(crate) const PAIRING: &str = "tamp.rope.pairing";

/// Longest `config.json` read, bytes; real ones stay under 100 KB.
pub(crate) const LONGEST: u64 = 1 << 20;

#[derive(Deserialize)]
struct Config {
    model_type: Option<String>,
    hidden_size: Option<u64>,
    intermediate_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: Option<u64>,
    max_position_embeddings: Option<u64>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_scaling: Option<Rope>,
    /// what newer configurations call it
    rope_parameters: Option<Rope>,
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<u64>,
    use_sliding_window: Option<bool>,
    bos_token_id: Option<Ids>,
    eos_token_id: Option<Ids>,
    quantization_config: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Rope {
    rope_type: Option<String>,
    /// what older configurations call it; some give both
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
}

/// One token id or several; never more than a handful.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ids(pub Vec<u32>);

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = Ids;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a token id or a short list of token ids")
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> std::result::Result<Ids, E> {
                let id = v.try_into().map_err(|_| E::custom(format!("{v} is no token id")))?;
                Ok(Ids(vec![id]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut s: A) -> std::result::Result<Ids, A::Error> {
                let mut v = Vec::new();
                while let Some(id) = s.next_element::<u32>()? {
                    if v.len() == 16 {
                        return Err(serde::de::Error::custom("more than 16 token ids"));
                    }
                    v.push(id);
                }
                Ok(Ids(v))
            }
        }
        d.deserialize_any(Visit)
    }
}

/// What the tensors are read with, beside the metadata.
pub(crate) struct Facts {
    pub meta: Meta,
    pub layers: usize,
    pub tied: bool,
}

/// Reads `config.json` into metadata.
pub(crate) fn read(bytes: &[u8]) -> Result<Facts> {
    let c: Config = json("config.json", bytes)?;
    let arch = match c.model_type.as_deref() {
        Some("llama" | "mistral") => "llama",
        Some(t @ ("qwen2" | "qwen3")) => t,
        t => {
            return Err(Error::Unsupported {
                what: format!("model_type {:?} in config.json", short(t.unwrap_or("(none)"))),
                hint: "tamp reads llama, mistral, qwen2 and qwen3 checkpoints".into(),
            });
        }
    };
    if c.quantization_config.is_some() {
        return Err(Error::Unsupported {
            what: "quantization_config in config.json".into(),
            hint: "tamp reads F32, F16 and BF16 checkpoints; take the unquantised one and `tamp quantize` it"
                .into(),
        });
    }
    if let Some(act) = c.hidden_act.as_deref().filter(|a| !matches!(*a, "silu" | "swish")) {
        return Err(Error::Unsupported {
            what: format!("hidden_act {:?} in config.json", short(act)),
            hint: "these families use silu".into(),
        });
    }

    let d = int("hidden_size", c.hidden_size, 1 << 20)?;
    let layers = int("num_hidden_layers", c.num_hidden_layers, 1024)?;
    let heads = int("num_attention_heads", c.num_attention_heads, 1 << 14)?;
    let kv = int("num_key_value_heads", Some(c.num_key_value_heads.unwrap_or(heads)), heads)?;
    if !heads.is_multiple_of(kv) {
        return Err(Error::bad(
            "num_key_value_heads in config.json",
            kv,
            format!("a divisor of {heads} heads"),
        ));
    }
    let head = int("head_dim", Some(c.head_dim.unwrap_or(d / heads)), 1 << 14)?;
    if head % 2 == 1 {
        return Err(Error::bad("head_dim in config.json", head, "an even number"));
    }
    let rot = match c.partial_rotary_factor {
        None => head,
        Some(f) if f > 0.0 && f <= 1.0 => ((head as f64 * f) as u64).max(2) & !1,
        Some(f) => return Err(Error::bad("partial_rotary_factor in config.json", f, "over 0, at most 1")),
    };
    let context = int("max_position_embeddings", c.max_position_embeddings, 1 << 30)?;
    let eps = float("rms_norm_eps", c.rms_norm_eps.unwrap_or(1e-6), 0.0, 1.0)?;
    let scaling = c.rope_scaling.as_ref().or(c.rope_parameters.as_ref());
    let theta = c.rope_theta.or(scaling.and_then(|r| r.rope_theta)).unwrap_or(10_000.0);
    let theta = float("rope_theta", theta, 1.0, 1e15)?;

    let mut meta = Meta::default();
    meta.set("general.architecture", Value::Str(arch.into()));
    let mut set = |k: &str, v: Value| meta.set(format!("{arch}.{k}"), v);
    let u = |v: u64| Value::U32(v as u32);
    set("block_count", u(layers));
    set("context_length", u(context));
    set("embedding_length", u(d));
    set("feed_forward_length", u(int("intermediate_size", c.intermediate_size, 1 << 24)?));
    set("vocab_size", u(int("vocab_size", c.vocab_size, 1 << 24)?));
    set("attention.head_count", u(heads));
    set("attention.head_count_kv", u(kv));
    set("attention.key_length", u(head));
    set("attention.value_length", u(head));
    set("attention.layer_norm_rms_epsilon", Value::F32(eps as f32));
    set("rope.dimension_count", u(rot));
    set("rope.freq_base", Value::F32(theta as f32));
    // Qwen checkpoints name a window that is in force only when they say so.
    let windowed = c.use_sliding_window.unwrap_or(c.model_type.as_deref() == Some("mistral"));
    if let Some(w) = c.sliding_window.filter(|&w| windowed && w < context) {
        set("attention.sliding_window", u(int("sliding_window", Some(w), 1 << 30)?));
    }
    if let Some(r) = scaling {
        rope(r, context, &mut set)?;
    }
    meta.set(PAIRING, Value::Str("half".into()));
    set_stops(&mut meta, c.bos_token_id.as_ref(), c.eos_token_id.as_ref());
    Ok(Facts { meta, layers: layers as usize, tied: c.tie_word_embeddings.unwrap_or(false) })
}

/// Token ids that begin and end a text. A second and third end become the end of turn and of message, which is
/// what they are in the checkpoints that have them.
pub(crate) fn set_stops(meta: &mut Meta, bos: Option<&Ids>, eos: Option<&Ids>) {
    if let Some(id) = bos.and_then(|b| b.0.first()) {
        meta.set("tokenizer.ggml.bos_token_id", Value::U32(*id));
    }
    if let Some(eos) = eos {
        for (k, id) in ["eos", "eot", "eom"].into_iter().zip(&eos.0) {
            meta.set(format!("tokenizer.ggml.{k}_token_id"), Value::U32(*id));
        }
    }
}

fn rope(r: &Rope, context: u64, set: &mut impl FnMut(&str, Value)) -> Result<()> {
    let kind = r.rope_type.as_deref().or(r.old_type.as_deref()).unwrap_or("default");
    let need = |name: &str, v: Option<f64>, low: f64, high: f64| -> Result<f64> {
        let v = v.ok_or_else(|| {
            Error::missing(format!("{name} of {kind} rope scaling in config.json"), "the file is incomplete")
        })?;
        float(name, v, low, high)
    };
    if kind == "default" {
        return Ok(());
    }
    if !matches!(kind, "linear" | "llama3" | "yarn") {
        return Err(Error::Unsupported {
            what: format!("rope scaling {:?} in config.json", short(kind)),
            hint: "tamp has linear, llama3 and yarn".into(),
        });
    }
    let factor = need("factor", r.factor, 1.0, 1e6)?;
    set("rope.scaling.type", Value::Str(kind.into()));
    set("rope.scaling.factor", Value::F32(factor as f32));
    let original = r.original_max_position_embeddings;
    if kind == "llama3" {
        let low = need("low_freq_factor", r.low_freq_factor, 0.0, 1e6)?;
        let high = need("high_freq_factor", r.high_freq_factor, 0.0, 1e6)?;
        if low >= high {
            return Err(Error::bad(
                "high_freq_factor in config.json",
                high,
                format!("over low_freq_factor, {low}"),
            ));
        }
        set("rope.scaling.low_freq_factor", Value::F32(low as f32));
        set("rope.scaling.high_freq_factor", Value::F32(high as f32));
    }
    if kind == "llama3" || kind == "yarn" {
        let original = match original {
            None if kind == "yarn" => context as f64,
            v => need("original_max_position_embeddings", v, 1.0, f64::from(1 << 30))?,
        };
        set("rope.scaling.original_context_length", Value::U32(original as u32));
    }
    if kind == "yarn" {
        if let Some(a) = r.attention_factor {
            // GGUF keeps the part beside YaRN's own 0.1·ln(factor) + 1 (arXiv 2309.00071, eq. 22).
            let a = float("attention_factor", a, 0.0, 1e3)? / (0.1 * factor.ln() + 1.0);
            set("rope.scaling.attn_factor", Value::F32(a as f32));
        }
        for (k, v) in [("yarn_beta_fast", r.beta_fast), ("yarn_beta_slow", r.beta_slow)] {
            if let Some(v) = v {
                set(&format!("rope.scaling.{k}"), Value::F32(float(k, v, 0.0, 1e6)? as f32));
            }
        }
    }
    Ok(())
}

fn int(name: &str, v: Option<u64>, most: u64) -> Result<u64> {
    let v = v.ok_or_else(|| {
        Error::missing(format!("{name} in config.json"), "the file is incomplete, fetch it again")
    })?;
    if v == 0 || v > most {
        return Err(Error::bad(format!("{name} in config.json"), v, format!("1 to {most}")));
    }
    Ok(v)
}

fn float(name: &str, v: f64, low: f64, high: f64) -> Result<f64> {
    if !(v.is_finite() && v >= low && v <= high && v > 0.0) {
        return Err(Error::bad(
            format!("{name} in config.json"),
            v,
            format!("a number over 0, {low} to {high}"),
        ));
    }
    Ok(v)
}

/// The beginning of a text that a file chose.
fn short(s: &str) -> String {
    s.chars().take(40).collect()
}

/// Metadata → `config.json`, for the families [`read`] knows.
pub(crate) fn write(meta: &Meta, tied: bool, vocab: usize) -> Result<Vec<u8>> {
    let arch = meta.str("general.architecture")?;
    let class = match arch {
        "llama" => "LlamaForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        _ => {
            return Err(Error::Unsupported {
                what: format!("writing a safetensors folder of architecture {arch:?}"),
                hint: "tamp writes llama, qwen2 and qwen3".into(),
            });
        }
    };
    let key = |k: &str| format!("{arch}.{k}");
    let d = meta.count(&key("embedding_length"))?;
    let heads = meta.count(&key("attention.head_count"))?;
    let kv = meta.count_opt(&key("attention.head_count_kv"))?.unwrap_or(heads);
    let head = meta.count_opt(&key("attention.key_length"))?.unwrap_or(d / heads.max(1));
    let rot = meta.count_opt(&key("rope.dimension_count"))?.unwrap_or(head);
    let theta = meta.float_opt(&key("rope.freq_base"))?.unwrap_or(10_000.0);

    let mut c = Map::new();
    let mut put = |k: &str, v: Json| c.insert(k.into(), v);
    put("architectures", Json::from(vec![class]));
    put("model_type", Json::from(arch));
    put("hidden_act", Json::from("silu"));
    put("hidden_size", Json::from(d));
    put("intermediate_size", Json::from(meta.count(&key("feed_forward_length"))?));
    put("num_hidden_layers", Json::from(meta.count(&key("block_count"))?));
    put("num_attention_heads", Json::from(heads));
    put("num_key_value_heads", Json::from(kv));
    put("head_dim", Json::from(head));
    put("vocab_size", Json::from(vocab));
    put("max_position_embeddings", Json::from(meta.count(&key("context_length"))?));
    put("rms_norm_eps", number(meta.float(&key("attention.layer_norm_rms_epsilon"))?));
    put("rope_theta", number(theta));
    put("tie_word_embeddings", Json::from(tied));
    if rot != head {
        put("partial_rotary_factor", number(rot as f64 / head.max(1) as f64));
    }
    if let Some(w) = meta.count_opt(&key("attention.sliding_window"))? {
        put("sliding_window", Json::from(w));
        put("use_sliding_window", Json::from(true));
    }
    let id = |k: &str| meta.token_opt(&format!("tokenizer.ggml.{k}_token_id"));
    if let Some(id) = id("bos")? {
        put("bos_token_id", Json::from(id));
    }
    let ends: Vec<u32> = [id("eos")?, id("eot")?, id("eom")?].into_iter().flatten().collect();
    match ends[..] {
        [] => None,
        [one] => put("eos_token_id", Json::from(one)),
        _ => put("eos_token_id", Json::from(ends)),
    };
    if let Some(r) = write_rope(meta, arch)? {
        put("rope_scaling", Json::Object(r));
    }
    let mut text = serde_json::to_vec_pretty(&Json::Object(c))
        .map_err(|error| Error::Json { what: "config.json".into(), error })?;
    text.push(b'\n');
    Ok(text)
}

fn write_rope(meta: &Meta, arch: &str) -> Result<Option<Map<String, Json>>> {
    let key = |k: &str| format!("{arch}.rope.scaling.{k}");
    let Some(kind) = meta.str_opt(&key("type"))?.filter(|k| *k != "none") else { return Ok(None) };
    let mut r = Map::new();
    r.insert("rope_type".into(), Json::from(kind));
    let factor = meta.float(&key("factor"))?;
    r.insert("factor".into(), number(factor));
    for (k, name) in [
        ("low_freq_factor", "low_freq_factor"),
        ("high_freq_factor", "high_freq_factor"),
        ("yarn_beta_fast", "beta_fast"),
        ("yarn_beta_slow", "beta_slow"),
    ] {
        if let Some(v) = meta.float_opt(&key(k))? {
            r.insert(name.into(), number(v));
        }
    }
    if let Some(v) = meta.count_opt(&key("original_context_length"))? {
        r.insert("original_max_position_embeddings".into(), Json::from(v));
    }
    if let Some(a) = meta.float_opt(&key("attn_factor"))? {
        r.insert("attention_factor".into(), number(a * (0.1 * factor.ln() + 1.0)));
    }
    Ok(Some(r))
}

/// A number as people write it: an f32's shortest form, an integer without a point.
fn number(v: f64) -> Json {
    let short = (v as f32).to_string().parse::<f64>().unwrap_or(v);
    if short.fract() == 0.0 && short.abs() < 9e15 {
        return Json::from(short as i64);
    }
    Number::from_f64(short).map_or(Json::Null, Json::Number)
}
