//! JSON without surprises: bounded depth, and a name that comes twice is refused, since one of the two would be ignored.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::ApiError;
use crate::words::brief;

/// Reads a body.
///
/// # Errors
/// 400 with what is wrong and where.
pub fn parse(bytes: &[u8], depth: usize) -> Result<Value, ApiError> {
    if let Err(e) = std::str::from_utf8(bytes) {
        let why = format!("the body is not UTF-8: byte {} begins no character", e.valid_up_to());
        return Err(ApiError::bad("invalid_json", why));
    }
    let mut de = serde_json::Deserializer::from_slice(bytes);
    Node(depth)
        .deserialize(&mut de)
        .and_then(|v| de.end().map(|()| v))
        .map_err(|e| ApiError::bad("invalid_json", format!("the body is not the JSON it should be: {e}")))
}

struct Node(usize);

impl Node {
    fn inner<E: Error>(&self) -> Result<Node, E> {
        self.0.checked_sub(1).map(Node).ok_or_else(|| E::custom("arrays and objects are nested too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.into()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut a: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(v) = a.next_element_seed(self.inner()?)? {
            out.push(v);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(name) = a.next_key::<String>()? {
            let value = a.next_value_seed(self.inner()?)?;
            if out.contains_key(&name) {
                return Err(A::Error::custom(format!("`{}` is there twice", brief(&name))));
            }
            out.insert(name, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_says_is_what_is_read() {
        for text in
            [r#"{"a":[1,-2,3.5,1e3,true,null,"é\n"],"b":{}}"#, "3", "[]", r#""x""#, "18446744073709551615"]
        {
            let want: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text.as_bytes(), 8).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_could_be_misread_is_refused_in_a_sentence() {
        for (text, says) in [
            (&b"{\"a\":1,\"b\":{\"c\":1,\"c\":2}}"[..], "`c` is there twice"),
            (b"[[[[1]]]]", "nested too deep"),
            (b"{\"a\":1} x", "trailing"),
            (b"{\"a\":1e999}", "out of range"),
            (b"\xff", "byte 0"),
            (b"{\"a\":\"\xc3\"}", "not UTF-8"),
            (b"", "EOF"),
            (b"NaN", "expected"),
        ] {
            let e = parse(text, 3).unwrap_err();
            assert!(e.message.contains(says), "{}", e.message);
        }
        assert!(parse(b"[[[1]]]", 3).is_ok());
        assert!(parse(&b"[".repeat(1 << 20), 64).is_err());
    }
}
