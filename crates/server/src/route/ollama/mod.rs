//! Ollama's dialect: `/api/…`. Streams are lines of JSON and are the default.

pub mod about;
pub mod chat;
pub mod embed;
mod options;
mod say;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::app::App;
use crate::ask;
use crate::error::ApiError;
use crate::model::Served;
use crate::wire::form::{Field, What, field, out_of_range};

/// What names the model: `:latest` is what their clients add to a name without a tag.
pub async fn model(app: &App, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
    let known = |n: &str| app.models.list().iter().any(|m| *m.name == *n);
    match name.and_then(|n| Some((n, n.strip_suffix(":latest")?))) {
        Some((whole, short)) if !known(whole) && known(short) => ask::model(app, Some(short)).await,
        _ => ask::model(app, name).await,
    }
}

/// Which model, and how long it stays.
pub static MODEL: &[Field] = &[
    field("model", What::Text(256), "name of the model, with or without `:latest`"),
    field("keep_alive", What::Idle, "without effect: the operator decides which models stay"),
];

/// Where a model is loaded and nothing was asked.
pub fn is_none(v: Option<&Value>) -> bool {
    v.is_none_or(|v| v == "" || *v == json!([]))
}

/// What a fixed set of values is refused by.
pub fn refused(name: &str, why: &str) -> ApiError {
    let say = format!("`{name}` is not possible here: {why}");
    ApiError { code: "unsupported_value", ..ApiError::field(name, say) }
}

/// `format`: "json", or a schema.
pub fn format(v: &Value) -> Result<Option<Value>, ApiError> {
    match v {
        Value::String(s) if s.is_empty() => Ok(None),
        Value::String(s) if s == "json" => Ok(Some(json!({"type": "json_object"}))),
        Value::Object(_) => {
            Ok(Some(json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": v}})))
        }
        other => Err(out_of_range("format", other, "\"json\", or a JSON schema")),
    }
}

/// `think`.
pub fn think(v: &Value) -> Result<bool, ApiError> {
    match v {
        Value::Bool(on) => Ok(*on),
        other => Err(out_of_range("think", other, "true or false: no model here knows levels")),
    }
}

/// The JSON schema of `format`.
pub fn format_schema() -> Value {
    json!({"oneOf": [{"enum": ["", "json"]}, {"type": "object"}]})
}

/// A moment as RFC 3339 in UTC.
pub fn stamp(at: Duration) -> String {
    let (days, rest) = (at.as_secs() / 86_400, at.as_secs() % 86_400);
    // Civil date of a day count: eras of 400 years that begin in March (Hinnant, "chrono-compatible low-level date algorithms").
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s, us) = (rest / 3600, rest / 60 % 60, rest % 60, at.subsec_micros());
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{us:06}Z")
}

/// Now.
pub fn now() -> String {
    stamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_the_calendar_has_it() {
        for (s, want) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
        ] {
            assert_eq!(stamp(Duration::from_secs(s)), want);
        }
    }
}
