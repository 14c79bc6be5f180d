//! Tensor names: Hugging Face's and GGUF's.

/// (Hugging Face, GGUF) of the tensors outside the layers.
const OUTER: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// (Hugging Face, GGUF) of the modules of one layer; each has a weight and may have a bias.
const INNER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Tensors of old checkpoints that hold nothing the configuration does not say.
pub(crate) fn is_derived(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".masked_bias")
}

/// The GGUF name of a Hugging Face tensor of a model of `layers` layers.
pub(crate) fn to_gguf(name: &str, layers: usize) -> Option<String> {
    if let Some((_, g)) = OUTER.iter().find(|(h, _)| *h == name) {
        return Some((*g).into());
    }
    let (l, rest) = layer(name.strip_prefix("model.layers.")?, layers)?;
    let (module, part) = rest.rsplit_once('.')?;
    let (_, g) = INNER.iter().find(|(h, _)| *h == module)?;
    matches!(part, "weight" | "bias").then(|| format!("blk.{l}.{g}.{part}"))
}

/// The Hugging Face name of a GGUF tensor.
pub(crate) fn to_hf(name: &str, layers: usize) -> Option<String> {
    if let Some((h, _)) = OUTER.iter().find(|(_, g)| *g == name) {
        return Some((*h).into());
    }
    let (l, rest) = layer(name.strip_prefix("blk.")?, layers)?;
    let (module, part) = rest.rsplit_once('.')?;
    let (h, _) = INNER.iter().find(|(_, g)| *g == module)?;
    matches!(part, "weight" | "bias").then(|| format!("model.layers.{l}.{h}.{part}"))
}

/// `7.rest` → (7, `rest`), with one spelling per number.
fn layer(s: &str, layers: usize) -> Option<(usize, &str)> {
    let (l, rest) = s.split_once('.')?;
    let n: usize = l.parse().ok()?;
    (n < layers && n.to_string() == l).then_some((n, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (h, g) in OUTER {
            assert_eq!(to_gguf(h, 1).as_deref(), Some(g));
            assert_eq!(to_hf(g, 1).as_deref(), Some(h));
        }
        for (h, g) in INNER {
            for part in ["weight", "bias"] {
                let (h, g) = (format!("model.layers.11.{h}.{part}"), format!("blk.11.{g}.{part}"));
                assert_eq!(to_gguf(&h, 12).as_ref(), Some(&g));
                assert_eq!(to_hf(&g, 12), Some(h));
            }
        }
    }

    #[test]
    fn other_names_have_no_place() {
        for n in [
            "model.layers.2.self_attn.q_proj.weight",
            "model.layers.01.self_attn.q_proj.weight",
            "model.layers.+1.self_attn.q_proj.weight",
            "model.layers.1.self_attn.q_proj.scale",
            "model.layers.1.weight",
            "model.layers.",
            "",
        ] {
            assert_eq!(to_gguf(n, 2), None, "{n}");
        }
    }
}
