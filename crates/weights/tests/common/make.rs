//! Each maker writes the bytes from the format's description, not through this crate's writers.

use tamp_weights::testing::Noise;

pub const D: usize = 16;
pub const HEADS: usize = 4;
pub const KV: usize = 2;
pub const FF: usize = 24;
pub const VOCAB: usize = 20;
pub const LAYERS: usize = 2;

pub fn config() -> String {
    format!(
        r#"{{"model_type":"llama","hidden_size":{D},"intermediate_size":{FF},"num_hidden_layers":{LAYERS},
        "num_attention_heads":{HEADS},"num_key_value_heads":{KV},"vocab_size":{VOCAB},
        "max_position_embeddings":64,"rms_norm_eps":1e-05,"rope_theta":10000.0,"hidden_act":"silu",
        "tie_word_embeddings":true,"bos_token_id":1,"eos_token_id":[2,3]}}"#
    )
}

/// Hugging Face name, rows, columns (0: a vector), in the order of the architecture.
pub fn tensors() -> Vec<(String, usize, usize)> {
    let (q, kv) = (D, D / HEADS * KV);
    let mut v = vec![("model.embed_tokens.weight".to_string(), VOCAB, D)];
    for l in 0..LAYERS {
        for (n, rows, cols) in [
            ("input_layernorm", D, 0),
            ("self_attn.q_proj", q, D),
            ("self_attn.k_proj", kv, D),
            ("self_attn.v_proj", kv, D),
            ("self_attn.o_proj", D, q),
            ("post_attention_layernorm", D, 0),
            ("mlp.gate_proj", FF, D),
            ("mlp.up_proj", FF, D),
            ("mlp.down_proj", D, FF),
        ] {
            v.push((format!("model.layers.{l}.{n}.weight"), rows, cols));
        }
    }
    v.push(("model.norm.weight".into(), D, 0));
    v
}

/// The values of a tensor: small multiples of 1/8, so that every float type holds them.
pub fn values(name: &str, n: usize) -> Vec<f32> {
    let mut noise = Noise(name.bytes().fold(7, |h, b| h * 31 % 1_000_003 + u64::from(b)));
    (0..n).map(|_| (noise.below(17) as f32 - 8.0) / 8.0).collect()
}

pub fn le(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// safetensors of some tensors, as F32 or BF16.
pub fn safetensors(list: &[(String, usize, usize)], bf16: bool) -> Vec<u8> {
    let mut head = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut data = Vec::new();
    for (name, rows, cols) in list {
        let at = data.len();
        let v = values(name, rows * cols.max(&1));
        if bf16 {
            data.extend(v.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()));
        } else {
            data.extend(le(&v));
        }
        let dtype = if bf16 { "BF16" } else { "F32" };
        let shape = if *cols == 0 { format!("[{rows}]") } else { format!("[{rows},{cols}]") };
        head += &format!(
            r#","{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{at},{}]}}"#,
            data.len()
        );
    }
    head += "}";
    let mut out = (head.len() as u64).to_le_bytes().to_vec();
    out.extend(head.as_bytes());
    out.extend(data);
    out
}

/// A llama2.c checkpoint with the values of [`tensors`], and its tokenizer.
pub fn llama2c(tied: bool) -> (Vec<u8>, Vec<u8>) {
    let vocab = if tied { VOCAB as i32 } else { -(VOCAB as i32) };
    let mut out = Vec::new();
    for v in [D as i32, FF as i32, LAYERS as i32, HEADS as i32, KV as i32, vocab, 64] {
        out.extend(v.to_le_bytes());
    }
    let list = tensors();
    let mut put = |name: &str| {
        let (_, rows, cols) = list.iter().find(|t| t.0 == name).unwrap();
        out.extend(le(&values(name, rows * cols.max(&1))));
    };
    put("model.embed_tokens.weight");
    for n in [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.down_proj",
        "mlp.up_proj",
    ] {
        for l in 0..LAYERS {
            put(&format!("model.layers.{l}.{n}.weight"));
        }
    }
    put("model.norm.weight");
    out.extend(vec![0; 64 * (D / HEADS) * 4]);
    if !tied {
        out.extend(le(&values("lm_head.weight", VOCAB * D)));
    }
    let mut tok = 8i32.to_le_bytes().to_vec();
    for i in 0..VOCAB {
        let t = match i {
            0 => "<unk>".to_string(),
            1 => "\n<s>\n".into(),
            2 => "\n</s>\n".into(),
            3 => "<0x0A>".into(),
            4 => " the".into(),
            _ => char::from(b'a' + i as u8).into(),
        };
        tok.extend((-(i as f32)).to_le_bytes());
        tok.extend((t.len() as i32).to_le_bytes());
        tok.extend(t.as_bytes());
    }
    (out, tok)
}

fn varint(mut v: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while v > 127 {
        out.push(v as u8 | 128);
        v >>= 7;
    }
    out.push(v as u8);
    out
}

fn bytes(field: u64, b: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(b.len() as u64), b.to_vec()].concat()
}

fn number(field: u64, v: u64) -> Vec<u8> {
    [varint(field << 3), varint(v)].concat()
}

/// An ONNX export with matrices of int8 (times 1/8) and float norms; the embedding is uint8 around 128.
pub fn onnx() -> Vec<u8> {
    let init = |name: &str, dims: &[usize], dtype: u64, raw: &[u8]| {
        let dims: Vec<u8> = dims.iter().flat_map(|d| number(1, *d as u64)).collect();
        bytes(5, &[dims, number(2, dtype), bytes(8, name.as_bytes()), bytes(9, raw)].concat())
    };
    let mut nodes = Vec::new();
    let mut inits = Vec::new();
    for (n, (name, rows, cols)) in tensors().into_iter().enumerate() {
        let v = values(&name, rows * cols.max(1));
        if cols == 0 {
            inits.push(init(&name, &[rows], 1, &le(&v)));
            continue;
        }
        let path = format!(
            "/{}",
            name.strip_suffix(".weight")
                .unwrap()
                .replace("layers.", "layers:")
                .replace('.', "/")
                .replace(':', ".")
        );
        let (own, op, dtype, zero) = if n == 0 {
            (name.clone(), "Gather", 2, 128)
        } else {
            (format!("onnx::MatMul_{n}"), "MatMulInteger", 3, 0)
        };
        let q = |i: usize| (v[i] * 8.0) as i32 + zero;
        let raw: Vec<u8> = if n == 0 {
            (0..rows * cols).map(|i| q(i) as u8).collect()
        } else {
            // [in][out]
            (0..rows * cols).map(|i| q(i % rows * cols + i / rows) as u8).collect()
        };
        let dims = if n == 0 { [rows, cols] } else { [cols, rows] };
        let mut inputs =
            [format!("{own}_quantized"), "x".into(), "x_zero".into(), format!("{own}_zero_point")];
        if n > 0 {
            inputs.swap(0, 1);
        }
        let inputs: Vec<u8> = inputs.iter().flat_map(|i| bytes(1, i.as_bytes())).collect();
        nodes.push(bytes(
            1,
            &[inputs, bytes(3, format!("{path}/{op}_quant").as_bytes()), bytes(4, op.as_bytes())].concat(),
        ));
        inits.push(init(&format!("{own}_quantized"), &dims, dtype, &raw));
        inits.push(init(&format!("{own}_scale"), &[], 1, &0.125f32.to_le_bytes()));
        inits.push(init(&format!("{own}_zero_point"), &[], dtype, &[zero as u8]));
    }
    [number(1, 8), bytes(7, &[nodes.concat(), inits.concat()].concat())].concat()
}
