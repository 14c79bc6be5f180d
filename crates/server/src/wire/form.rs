//! A body against its table of fields: an unknown name, a wrong type and a number out of its range are refused by name,
//! and the OpenAPI document is printed from the same table.

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::words::{brief, nearest};

/// A field of a body.
#[derive(Clone, Copy)]
pub struct Field {
    /// its name
    pub name: &'static str,
    /// what it takes
    pub what: What,
    /// one line
    pub about: &'static str,
}

/// What a field takes; `null` is the same as leaving it out.
#[derive(Clone, Copy)]
pub enum What {
    /// a number from … to …
    Num(f64, f64),
    /// a number above …, up to …
    Above(f64, f64),
    /// a whole number from … to …
    Int(i64, i64),
    /// true or false
    Bool,
    /// text of at most so many bytes
    Text(usize),
    /// one of these words
    Word(&'static [&'static str]),
    /// the endpoint reads it itself; its JSON schema
    Own(fn() -> Value),
    /// accepted and without effect on the answer
    Idle,
    /// only these values, written as JSON, which change nothing; the sentence for others
    Only(&'static [&'static str], &'static str),
}

/// A field of a table.
pub const fn field(name: &'static str, what: What, about: &'static str) -> Field {
    Field { name, what, about }
}

/// A body's fields.
pub struct Shape {
    /// its name in the OpenAPI document
    pub name: &'static str,
    /// its fields, in groups that several bodies share
    pub groups: &'static [&'static [Field]],
    /// those that must be there
    pub required: &'static [&'static str],
}

impl Shape {
    /// All fields.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> {
        self.groups.iter().flat_map(|g| g.iter())
    }

    /// As a JSON schema.
    pub fn schema(&self) -> Value {
        let properties: Map<String, Value> = self.fields().map(|f| (f.name.into(), f.schema())).collect();
        json!({"type": "object", "additionalProperties": false, "properties": properties, "required": self.required})
    }
}

impl Field {
    fn schema(&self) -> Value {
        let mut s = match self.what {
            What::Num(lo, hi) => json!({"type": "number", "minimum": lo, "maximum": hi}),
            What::Above(lo, hi) => json!({"type": "number", "exclusiveMinimum": lo, "maximum": hi}),
            What::Int(lo, hi) => json!({"type": "integer", "minimum": lo, "maximum": hi}),
            What::Bool => json!({"type": "boolean"}),
            What::Text(most) => json!({"type": "string", "maxLength": most}),
            What::Word(words) => json!({"enum": words}),
            What::Own(schema) => schema(),
            What::Idle => json!({}),
            What::Only(values, _) => {
                let values: Vec<Value> = values.iter().filter_map(|v| serde_json::from_str(v).ok()).collect();
                json!({"enum": values})
            }
        };
        s["description"] = self.about.into();
        s
    }

    fn check(&self, v: &Value) -> Result<(), ApiError> {
        let want = match self.what {
            What::Num(lo, hi) if v.as_f64().is_some_and(|x| (lo..=hi).contains(&x)) => return Ok(()),
            What::Num(lo, hi) => format!("a number from {lo} to {hi}"),
            What::Above(lo, hi) if v.as_f64().is_some_and(|x| x > lo && x <= hi) => return Ok(()),
            What::Above(lo, hi) => format!("a number above {lo}, up to {hi}"),
            What::Int(lo, hi) if whole(v).is_some_and(|x| (lo..=hi).contains(&x)) => return Ok(()),
            What::Int(lo, hi) => format!("a whole number from {lo} to {hi}"),
            What::Bool if v.is_boolean() => return Ok(()),
            What::Bool => "true or false".into(),
            What::Text(most) if v.as_str().is_some_and(|t| t.len() <= most) => return Ok(()),
            What::Text(most) => format!("text of at most {most} bytes"),
            What::Word(words) if v.as_str().is_some_and(|w| words.contains(&w)) => return Ok(()),
            What::Word(words) => format!("one of {}", words.join(", ")),
            What::Own(_) | What::Idle => return Ok(()),
            What::Only(values, why) => {
                let is = |text: &&&str| serde_json::from_str::<Value>(text).is_ok_and(|w| w == *v);
                if values.iter().any(|text| is(&text)) {
                    return Ok(());
                }
                let say = format!("`{}` = {} is not possible here: {why}", self.name, show(v));
                return Err(ApiError { code: "unsupported_value", ..ApiError::field(self.name, say) });
            }
        };
        Err(out_of_range(self.name, v, &want))
    }
}

/// The refusal of a value: the field, the value, what is taken.
pub fn out_of_range(name: &str, got: &Value, want: &str) -> ApiError {
    ApiError::field(name, format!("`{name}` = {} is not taken; expected {want}", show(got)))
}

/// A value in a sentence.
pub fn show(v: &Value) -> String {
    match v {
        Value::Array(a) => format!("an array of {}", a.len()),
        Value::Object(o) => format!("an object of {}", o.len()),
        Value::String(s) => format!("\"{}\"", brief(s)),
        other => brief(&other.to_string()),
    }
}

/// A whole number, also when it is written `3.0`.
pub fn whole(v: &Value) -> Option<i64> {
    v.as_i64().or_else(|| v.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i64))
}

/// A checked body.
#[derive(Debug)]
pub struct Form(Map<String, Value>);

impl Form {
    /// Holds a body to its table.
    ///
    /// # Errors
    /// 400 naming the field: an unknown one with the nearest known one, a missing one, a value that is not taken.
    pub fn read(shape: &Shape, body: Value) -> Result<Form, ApiError> {
        let Value::Object(mut map) = body else {
            return Err(ApiError::bad("invalid_json", format!("the body is {}, not an object", show(&body))));
        };
        for (name, value) in &map {
            let Some(f) = shape.fields().find(|f| f.name == name) else {
                return Err(unknown("", name, shape.fields().map(|f| f.name)));
            };
            if !value.is_null() {
                f.check(value)?;
            }
        }
        map.retain(|_, v| !v.is_null());
        match shape.required.iter().find(|r| !map.contains_key(**r)) {
            Some(missing) => Err(ApiError {
                code: "missing_field",
                ..ApiError::field(*missing, format!("`{missing}` is missing"))
            }),
            None => Ok(Form(map)),
        }
    }

    /// A field as it is.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A field, taken out.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// A number.
    pub fn num(&self, name: &str) -> Option<f32> {
        self.get(name).and_then(Value::as_f64).map(|x| x as f32)
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(whole)
    }

    /// A whole number that its table keeps at 0 or more.
    pub fn count(&self, name: &str) -> Option<usize> {
        self.int(name).and_then(|n| usize::try_from(n).ok())
    }

    /// True or false.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(Value::as_bool)
    }

    /// Text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }
}

/// The refusal of a name nobody knows. `inside`: where it stands, such as `messages[0].`.
pub fn unknown(inside: &str, name: &str, known: impl Iterator<Item = &'static str>) -> ApiError {
    let hint = nearest(name, known).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
    let param = format!("{inside}{}", brief(name));
    let say = format!("there is no field `{param}` here{hint}");
    ApiError { code: "unknown_field", ..ApiError::field(param, say) }
}

/// The members of an object inside a body, held to a list of names.
///
/// # Errors
/// 400 naming the place.
pub fn object<'v>(
    at: &str,
    v: &'v Value,
    known: &[&'static str],
) -> Result<&'v Map<String, Value>, ApiError> {
    let Value::Object(map) = v else { return Err(out_of_range(at, v, "an object")) };
    match map.keys().find(|k| !known.contains(&k.as_str())) {
        Some(stranger) => Err(unknown(&format!("{at}."), stranger, known.iter().copied())),
        None => Ok(map),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SHAPE: Shape = Shape {
        name: "T",
        groups: &[
            &[field("temperature", What::Num(0.0, 2.0), ""), field("n", What::Int(1, 4), "")],
            &[
                field("top_p", What::Above(0.0, 1.0), ""),
                field("flag", What::Bool, ""),
                field("say", What::Text(3), ""),
                field("word", What::Word(&["a", "b"]), ""),
                field("user", What::Idle, ""),
                field("store", What::Only(&["false", "[\"x\"]"], "nothing is stored"), ""),
            ],
        ],
        required: &["n"],
    };

    #[test]
    fn a_field_that_is_not_taken_is_named_with_its_value_and_range() {
        for (body, says) in [
            (
                json!({"n": 1, "temprature": 1}),
                "there is no field `temprature` here; did you mean `temperature`?",
            ),
            (json!({"n": 1, "zzz": 1}), "there is no field `zzz` here"),
            (json!({}), "`n` is missing"),
            (json!({"n": null}), "`n` is missing"),
            (json!({"n": 5}), "`n` = 5 is not taken; expected a whole number from 1 to 4"),
            (json!({"n": 1.5}), "`n` = 1.5 is not taken; expected a whole number from 1 to 4"),
            (json!({"n": 1e300}), "`n` = 1e+300 is not taken; expected a whole number from 1 to 4"),
            (
                json!({"n": 1, "temperature": "hot"}),
                "`temperature` = \"hot\" is not taken; expected a number from 0 to 2",
            ),
            (json!({"n": 1, "top_p": 0}), "`top_p` = 0 is not taken; expected a number above 0, up to 1"),
            (json!({"n": 1, "flag": 1}), "`flag` = 1 is not taken; expected true or false"),
            (
                json!({"n": 1, "say": "abcd"}),
                "`say` = \"abcd\" is not taken; expected text of at most 3 bytes",
            ),
            (json!({"n": 1, "word": "c"}), "`word` = \"c\" is not taken; expected one of a, b"),
            (json!({"n": 1, "store": true}), "`store` = true is not possible here: nothing is stored"),
            (json!([1]), "the body is an array of 1, not an object"),
        ] {
            assert_eq!(Form::read(&SHAPE, body).unwrap_err().message, says);
        }
        let whole =
            json!({"n": 2.0, "temperature": 2, "top_p": 1, "store": ["x"], "user": {"a": 1}, "flag": null});
        let f = Form::read(&SHAPE, whole).unwrap();
        assert_eq!((f.int("n"), f.num("temperature"), f.flag("flag")), (Some(2), Some(2.0), None));
    }
}
