//! What a run says before it begins, so that nothing begins anew or is cut off in silence.

use crate::ledger::{Body, Row};
use crate::observe::differences;
use crate::spec::Frozen;

/// Fields that are named of an edited spec.
const NAMED: usize = 3;

/// What is said of a last line without its end.
pub fn torn_words(bytes: u64) -> String {
    format!(
        "the ledger ends in {bytes} bytes of a row that a kill cut short; they are no row, and the next one takes their place"
    )
}

/// What is said when the file's last question was stopped before its verdict and the file has been changed since.
pub(super) fn edited(rows: &[Row], spec: &Frozen, file: &str) -> Option<String> {
    let place = rows.iter().rposition(|r| matches!(&r.body, Body::Opened { file: f, .. } if f == file))?;
    let Body::Opened { spec: id, value, .. } = &rows[place].body else { return None };
    let after = &rows[place + 1..];
    let decided = after.iter().any(|r| matches!(&r.body, Body::Decided { spec, .. } if spec == id));
    if *id == spec.id || decided || file.is_empty() {
        return None;
    }
    let blocks = after.iter().filter(
        |r| matches!(&r.body, Body::Measured { spec, what, .. } if spec == id && what.starts_with("block")),
    );
    let all = differences(value, &spec.value, "");
    let more = if all.len() > NAMED { format!(" and {} more", all.len() - NAMED) } else { String::new() };
    Some(format!(
        "{file} was changed ({}{more}) after its run was stopped with {} blocks measured: this is another question and \
         begins anew; undo the change to go on with {}",
        all.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", "),
        blocks.count(),
        &id[..id.len().min(12)]
    ))
}
