//! The same samples give the same verdict, bit by bit: every decided row can be worked out again from the records it
//! stands on.

use serde::Serialize;

use crate::ledger::{Body, Row};
use crate::record::{Store, StoreError};
use crate::spec::{Frozen, SpecError};
use crate::stats;
use crate::verdict::{Decision, Evidence, blocked, decide};

/// Why a decision cannot be worked out again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A record file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spec of the ledger.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Rows that it rests on are missing.
    #[error("row {0} rests on {1}, which the ledger does not hold")]
    Missing(u64, String),
    /// Statistics that this program no longer has.
    #[error("row {0} was decided by statistics version {1}; this tamp has version {2}")]
    Version(u64, u32, u32),
}

/// A decision then and now.
#[derive(Clone, Debug, Serialize)]
pub struct Replayed {
    /// place of the row
    pub n: u64,
    /// hash of the row
    pub row: String,
    /// id of the spec
    pub spec: String,
    /// candidate
    pub candidate: String,
    /// verdict in the ledger
    pub verdict: String,
    /// every bit of the decision is the same
    pub identical: bool,
    /// paths at which they differ
    pub differences: Vec<String>,
}

/// Works out a decided row again; `None` for other rows.
pub fn replay(rows: &[Row], store: &Store, row: &Row) -> Result<Option<Replayed>, ReplayError> {
    let Body::Decided { spec: id, attempt, calibration, decision, .. } = &row.body else { return Ok(None) };
    if decision.stats_version != stats::VERSION {
        return Err(ReplayError::Version(row.n, decision.stats_version, stats::VERSION));
    }
    let again = work_out(rows, store, row, id, *attempt, calibration.as_deref(), decision)?;
    let (then, now) = (
        serde_json::to_value(decision).unwrap_or_default(),
        serde_json::to_value(&again).unwrap_or_default(),
    );
    let differences = crate::observe::differences(&then, &now, "");
    Ok(Some(Replayed {
        n: row.n,
        row: row.hash.clone(),
        spec: id.clone(),
        candidate: decision.candidate.clone(),
        verdict: decision.verdict.map_or("open", |v| v.word()).into(),
        identical: differences.is_empty(),
        differences,
    }))
}

fn work_out(
    rows: &[Row],
    store: &Store,
    row: &Row,
    id: &str,
    attempt: u32,
    calibration: Option<&str>,
    decision: &Decision,
) -> Result<Decision, ReplayError> {
    let missing = |what: &str| ReplayError::Missing(row.n, what.to_string());
    let before = &rows[..row.n as usize];
    let value = before.iter().find_map(|r| match &r.body {
        Body::Opened { spec, value, .. } if spec == id => Some(value.clone()),
        _ => None,
    });
    let spec = Frozen::from_value(value.ok_or_else(|| missing("an opened row"))?, id)?;
    if spec.id != id {
        return Err(missing("a spec whose fields give its id"));
    }
    if let Some(by) = spec.spec.blocked.first() {
        return Ok(blocked(&spec, &decision.candidate, by));
    }
    let null = match calibration {
        None => None,
        Some(hash) => before.iter().find_map(|r| match &r.body {
            Body::Calibrated { null, .. } if r.hash == hash => Some(null),
            _ => None,
        }),
    };
    if null.is_none() && calibration.is_some() {
        return Err(missing("a calibration"));
    }
    let (mut records, mut voided) = (Vec::new(), 0);
    for r in before {
        let Body::Measured { spec, what, records: hash, void, attempt: a } = &r.body else { continue };
        if spec != id || *a != attempt {
            continue;
        }
        match void {
            None => records.extend(store.get(hash)?),
            Some(_) => voided += usize::from(what.starts_with("block")),
        }
    }
    let tried = spec.spec.tried().iter().position(|a| a.name == decision.candidate).unwrap_or(0);
    Ok(decide(Evidence { spec: &spec, tried, records: &records, voided, null, last: true }))
}
