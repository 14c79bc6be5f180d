//! Typed model metadata. The keys are GGUF's (`llama.block_count`, `tokenizer.ggml.tokens`, …); importers of
//! other files translate into them, so that families and tokenizers read one language.

use std::collections::BTreeMap;

use crate::texts::Texts;

/// A metadata value, with the types a GGUF file can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `u8`
    U8(u8),
    /// `i8`
    I8(i8),
    /// `u16`
    U16(u16),
    /// `i16`
    I16(i16),
    /// `u32`
    U32(u32),
    /// `i32`
    I32(i32),
    /// `u64`
    U64(u64),
    /// `i64`
    I64(i64),
    /// `f32`
    F32(f32),
    /// `f64`
    F64(f64),
    /// `bool`
    Bool(bool),
    /// UTF-8 text
    Str(String),
    /// A homogeneous array
    Array(Array),
}

/// A homogeneous array; small integers are widened, because nothing reads them as bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// unsigned integers of the given GGUF element type
    Uint(IntKind, Vec<u64>),
    /// signed integers of the given GGUF element type
    Int(IntKind, Vec<i64>),
    /// `f32`
    F32(Vec<f32>),
    /// `f64`
    F64(Vec<f64>),
    /// `bool`
    Bool(Vec<bool>),
    /// strings
    Str(Texts),
    /// arrays of arrays
    Nested(Vec<Array>),
}

/// Width of the integers of an [`Array`], kept so that a file written again says what the first one said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntKind {
    /// 8 bits
    B8,
    /// 16 bits
    B16,
    /// 32 bits
    B32,
    /// 64 bits
    B64,
}

/// Metadata of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta(pub BTreeMap<String, Value>);

/// A key that is missing or of the wrong type.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum MetaError {
    /// The key is not there.
    #[error("the model's metadata has no `{0}`")]
    Missing(String),
    /// The key is there with another type or out of range.
    #[error("the model's metadata says `{key}` = {got}, expected {want}")]
    Type {
        /// the key
        key: String,
        /// what was there
        got: String,
        /// what was expected
        want: &'static str,
    },
}

impl Value {
    /// A non-negative integer of any width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// A float, or an integer as a float.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            Value::I8(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::I64(v) => Some(v as f64),
            _ => self.as_u64().map(|v| v as f64),
        }
    }

    /// A short form for messages; never the whole of a long array.
    pub fn brief(&self) -> String {
        let s = match self {
            Value::Array(a) => format!("array of {}", a.len()),
            Value::Str(s) => format!("{s:?}"),
            v => format!("{v:?}"),
        };
        match s.char_indices().nth(80) {
            Some((i, _)) => format!("{}…", &s[..i]),
            None => s,
        }
    }
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::Uint(_, v) => v.len(),
            Array::Int(_, v) => v.len(),
            Array::F32(v) => v.len(),
            Array::F64(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::Str(v) => v.len(),
            Array::Nested(v) => v.len(),
        }
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Meta {
    /// The raw value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Sets a value.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        self.0.insert(key.into(), value);
    }

    fn need<'a, T>(
        &'a self,
        key: &str,
        want: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, MetaError> {
        let Some(v) = self.0.get(key) else { return Ok(None) };
        read(v).map(Some).ok_or_else(|| MetaError::Type { key: key.into(), got: v.brief(), want })
    }

    /// A required count that fits a `usize`.
    pub fn count(&self, key: &str) -> Result<usize, MetaError> {
        self.count_opt(key)?.ok_or_else(|| MetaError::Missing(key.into()))
    }

    /// An optional count.
    pub fn count_opt(&self, key: &str) -> Result<Option<usize>, MetaError> {
        self.need(key, "a non-negative integer", |v| v.as_u64().and_then(|v| usize::try_from(v).ok()))
    }

    /// An optional token id.
    pub fn token_opt(&self, key: &str) -> Result<Option<u32>, MetaError> {
        self.need(key, "a token id", |v| v.as_u64().and_then(|v| u32::try_from(v).ok()))
    }

    /// A required finite float.
    pub fn float(&self, key: &str) -> Result<f64, MetaError> {
        self.float_opt(key)?.ok_or_else(|| MetaError::Missing(key.into()))
    }

    /// An optional finite float.
    pub fn float_opt(&self, key: &str) -> Result<Option<f64>, MetaError> {
        self.need(key, "a finite number", |v| v.as_f64().filter(|v| v.is_finite()))
    }

    /// An optional boolean.
    pub fn bool_opt(&self, key: &str) -> Result<Option<bool>, MetaError> {
        self.need(key, "true or false", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// Required text.
    pub fn str(&self, key: &str) -> Result<&str, MetaError> {
        self.str_opt(key)?.ok_or_else(|| MetaError::Missing(key.into()))
    }

    /// Optional text.
    pub fn str_opt(&self, key: &str) -> Result<Option<&str>, MetaError> {
        self.need(key, "text", |v| match v {
            Value::Str(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// An optional array of strings.
    pub fn strs_opt(&self, key: &str) -> Result<Option<&Texts>, MetaError> {
        self.need(key, "an array of strings", |v| match v {
            Value::Array(Array::Str(s)) => Some(s),
            _ => None,
        })
    }

    /// An optional array of `f32`.
    pub fn floats_opt(&self, key: &str) -> Result<Option<&[f32]>, MetaError> {
        self.need(key, "an array of f32", |v| match v {
            Value::Array(Array::F32(s)) => Some(s.as_slice()),
            _ => None,
        })
    }

    /// An optional array of integers, any width.
    pub fn ints_opt(&self, key: &str) -> Result<Option<Vec<i64>>, MetaError> {
        self.need(key, "an array of integers", |v| match v {
            Value::Array(Array::Int(_, s)) => Some(s.clone()),
            Value::Array(Array::Uint(_, s)) => s.iter().map(|&x| i64::try_from(x).ok()).collect(),
            _ => None,
        })
    }
}
