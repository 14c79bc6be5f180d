//! GGUF: what is written is read again, and nothing hostile gets through.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use tamp_base::meta::{Array, IntKind, Meta, Value};
use tamp_formats::Kind;
use tamp_weights::testing::{Arch, Tiny, tiny};
use tamp_weights::{Error, TensorInfo, Weights, gguf};

fn refused(bytes: Vec<u8>) -> String {
    Weights::from_gguf_bytes(bytes).unwrap_err().to_string()
}

/// Header, keys and tensors by hand, so that they can be wrong.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn head(version: u32, tensors: u64, keys: u64) -> Self {
        Raw(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }
    fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn str(mut self, s: &str) -> Self {
        self = self.u64(s.len() as u64);
        self.0.extend(s.as_bytes());
        self
    }
    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self = self.str(name).u32(dims.len() as u32);
        for d in dims {
            self = self.u64(*d);
        }
        self.u32(kind).u64(offset)
    }
    /// Padding and `n` bytes of data.
    fn data(mut self, n: usize) -> Vec<u8> {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + n, 0);
        self.0
    }
}

#[test]
fn tiny_models_load_and_are_what_they_say() {
    for arch in Arch::ALL {
        for kind in Kind::ALL {
            let t = Tiny::new(arch, 7).kind(kind).tied(false);
            let w = Weights::from_gguf_bytes(t.build()).unwrap();
            assert_eq!(w.meta.str("general.architecture").unwrap(), arch.name());
            let q = w.tensor("blk.1.attn_q.weight").unwrap().unwrap();
            assert_eq!(q.kind, kind);
            assert_eq!(q.bytes.len(), kind.row_bytes(q.shape[0]).unwrap() * q.shape[1]);
            assert!(w.tensor("blk.2.attn_q.weight").unwrap().is_none());
            let tokens = w.meta.strs_opt("tokenizer.ggml.tokens").unwrap().unwrap();
            assert_eq!(w.tensor("output.weight").unwrap().unwrap().shape[1], tokens.len());
            let mut unique: Vec<_> = tokens.iter().collect();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), tokens.len(), "a token is there twice");
        }
    }
    assert_eq!(tiny(Arch::Llama, 1), tiny(Arch::Llama, 1));
    assert_ne!(tiny(Arch::Llama, 1), tiny(Arch::Llama, 2));
}

#[test]
fn the_57_byte_file_with_alignment_0_is_refused() {
    let f = Raw::head(3, 0, 1).str("general.alignment").u32(4).u32(0).0;
    assert_eq!(f.len(), 57);
    assert_eq!(refused(f), "general.alignment is U32(0), expected a power of two of at least 8");
    for a in [4, 24, 1 << 31] {
        refused(Raw::head(3, 0, 1).str("general.alignment").u32(4).u32(a).0);
    }
}

#[test]
fn counts_beyond_the_file_are_refused_before_allocating() {
    for (t, k) in [(1 << 60, 0), (0, 1 << 60), (u64::MAX, u64::MAX), (2, 0)] {
        assert!(refused(Raw::head(3, t, k).data(8)).contains("cut short"));
    }
    let array = Raw::head(3, 0, 1).str("a").u32(9).u32(0).u64(1 << 60).data(64);
    assert!(refused(array).contains("cut short"));
    let name = Raw::head(3, 1, 0).u64(1 << 60).data(64);
    assert!(refused(name).contains("cut short"));
}

#[test]
fn tensors_stay_inside_the_file_and_apart() {
    let two =
        |a: u64, b: u64, n| Raw::head(3, 2, 0).tensor("a", &[16], 0, a).tensor("b", &[16], 0, b).data(n);
    assert!(Weights::from_gguf_bytes(two(0, 64, 128)).is_ok());
    assert!(refused(two(0, 32, 128)).contains("overlap"));
    assert!(refused(two(64, 64, 128)).contains("overlap"));
    assert!(refused(two(0, 64, 127)).contains("cut short"));
    assert!(refused(two(0, 65, 256)).contains("multiple of the alignment"));
    assert!(refused(two(0, u64::MAX - 31, 128)).contains("offset of `b`"));
    let one = |dims: &[u64], kind| Raw::head(3, 1, 0).tensor("a", dims, kind, 0).data(64);
    assert!(refused(one(&[1 << 32, 1 << 32], 0)).contains("below 2^63"));
    assert!(refused(one(&[1 << 62], 0)).contains("the size of `a`"));
    assert!(refused(one(&[0], 0)).contains("at least 1"));
    assert!(refused(one(&[1; 5], 0)).contains("at most 4"));
    assert!(refused(one(&[31], 2)).contains("a multiple of 32 for q4_0"));
    let twice = Raw::head(3, 2, 0).tensor("a", &[8], 0, 0).tensor("a", &[8], 0, 32).data(64);
    assert_eq!(refused(twice), "the tensor `a` is there twice");
}

#[test]
fn an_unknown_type_names_its_tensor_when_it_is_used() {
    let f = Raw::head(3, 2, 0).tensor("odd", &[16], 999, 0).tensor("b", &[16], 0, 64).data(128);
    let w = Weights::from_gguf_bytes(f).unwrap();
    assert!(w.tensor("b").unwrap().is_some());
    assert!(matches!(w.tensor("odd"), Err(Error::UnknownKind { name, .. }) if name == "odd"));
    let inside = Raw::head(3, 2, 0).tensor("odd", &[16], 999, 32).tensor("b", &[16], 0, 0).data(128);
    assert!(refused(inside).contains("overlap"));
    let outside = Raw::head(3, 1, 0).tensor("odd", &[16], 999, 128).data(128);
    assert!(refused(outside).contains("cut short"));
}

#[test]
fn other_versions_and_byte_orders_say_so() {
    assert!(refused(Raw::head(1, 0, 0).0).contains("version 1"));
    assert!(refused(Raw::head(4, 0, 0).0).contains("version 4"));
    assert!(refused(Raw::head(3u32.swap_bytes(), 0, 0).0).contains("big-endian"));
    assert!(Weights::from_gguf_bytes(Raw::head(2, 0, 0).0).is_ok());
}

#[test]
fn keys_are_unique_text_and_nesting_ends() {
    let twice = Raw::head(3, 0, 2).str("a").u32(4).u32(0).str("a").u32(4).u32(1).0;
    assert_eq!(refused(twice), "the metadata key `a` is there twice");
    let mut bad = Raw::head(3, 0, 1).u64(1);
    bad.0.push(0xff);
    assert!(refused(bad.u32(4).u32(0).0).contains("UTF-8"));
    let nest = |depth: usize| {
        let mut r = Raw::head(3, 0, 1).str("a").u32(9);
        for _ in 1..depth {
            r = r.u32(9).u64(1);
        }
        r.u32(4).u64(1).u32(7).0
    };
    let w = Weights::from_gguf_bytes(nest(2)).unwrap();
    assert_eq!(w.meta.get("a"), Some(&Value::Array(Array::Nested(vec![Array::Uint(IntKind::B32, vec![7])]))));
    assert!(Weights::from_gguf_bytes(nest(4)).is_ok());
    assert!(refused(nest(5)).contains("at most 4 levels"));
    assert!(refused(nest(5000)).contains("at most 4 levels"));
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e30f32..1e30).prop_map(Value::F32),
        (-1e300f64..1e300).prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        ".{0,12}".prop_map(Value::Str),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    use proptest::collection::vec;
    let u = |k, max: u64| vec(0..=max, 0..5).prop_map(move |v| Array::Uint(k, v));
    let i = |k, max: i64| vec(-max - 1..=max, 0..5).prop_map(move |v| Array::Int(k, v));
    let flat = prop_oneof![
        u(IntKind::B8, 255),
        u(IntKind::B16, 65535),
        u(IntKind::B32, u32::MAX.into()),
        u(IntKind::B64, u64::MAX),
        i(IntKind::B8, 127),
        i(IntKind::B16, 32767),
        i(IntKind::B32, i32::MAX.into()),
        i(IntKind::B64, i64::MAX),
        vec(-1e30f32..1e30, 0..5).prop_map(Array::F32),
        vec(-1e300f64..1e300, 0..5).prop_map(Array::F64),
        vec(any::<bool>(), 0..5).prop_map(Array::Bool),
        vec(".{0,12}", 0..5).prop_map(|v| Array::Str(v.iter().collect())),
    ];
    flat.prop_recursive(3, 16, 4, |inner| vec(inner, 0..4).prop_map(Array::Nested))
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        keys in proptest::collection::btree_map("[a-z.]{1,12}", prop_oneof![scalar(), array().prop_map(Value::Array)], 0..8),
        tensors in proptest::collection::btree_map("[a-z.]{1,12}", (proptest::collection::vec(1usize..5, 1..=4), any::<bool>()), 0..8),
        seed: u64,
    ) {
        let meta = Meta(keys);
        let infos: Vec<TensorInfo> = tensors.iter().map(|(name, (shape, half))| {
            let kind = if *half { Kind::F16 } else { Kind::F32 };
            let bytes = shape.iter().product::<usize>() * kind.bytes();
            TensorInfo { name, kind: Some(kind), shape, bytes }
        }).collect();
        let data = |i: usize| -> Vec<u8> {
            let mut n = tamp_weights::testing::Noise(seed ^ i as u64);
            (0..infos[i].bytes).map(|_| n.word() as u8).collect()
        };
        let mut file = Vec::new();
        let n = gguf::write_to(&mut file, &meta, &infos, &mut |i, w| Ok(w.write_all(&data(i))?)).unwrap();
        prop_assert_eq!(n, file.len() as u64);
        let w = Weights::from_gguf_bytes(file).unwrap();
        prop_assert_eq!(&w.meta, &meta);
        prop_assert_eq!(w.tensors().collect::<Vec<_>>(), infos.clone());
        for (i, t) in infos.iter().enumerate() {
            let got = w.tensor(t.name).unwrap().unwrap();
            prop_assert_eq!(&got.bytes[..], &data(i)[..]);
        }
    }
}

#[test]
fn a_writer_that_gives_too_little_or_too_wide_is_refused() {
    let info = TensorInfo { name: "a", kind: Some(Kind::F32), shape: &[4], bytes: 16 };
    let e =
        gguf::write_to(&mut Vec::new(), &Meta::default(), &[info], &mut |_, w| Ok(w.write_all(&[0; 15])?));
    assert!(e.unwrap_err().to_string().contains("15 bytes"));
    let mut meta = Meta::default();
    meta.set("a", Value::Array(Array::Uint(IntKind::B8, vec![256])));
    assert!(gguf::write_to(&mut Vec::new(), &meta, &[], &mut |_, _| Ok(())).is_err());
}
