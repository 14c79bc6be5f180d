//! What was asked, measured and decided, in order: JSON lines, each holding the hash of the one before. Rows are added,
//! never changed; a correction is a new row.
//!
//! A row's `hash` is blake3 over its RFC 8785 form without `hash`; the file holds the canonical form itself, so a
//! changed byte anywhere is found and its line named. A kill while a row is written leaves a line without its end,
//! which the next writer cuts off: the row was never told to anybody.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::host::Host;
use crate::spec::hash;
use crate::stats::null::Null;
use crate::verdict::Decision;

/// `kind` of a row.
pub const ROW: &str = "tamp.lab.row";

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Reading or writing failed.
    #[error("ledger {0}: {1}")]
    Io(PathBuf, std::io::Error),
    /// A line is not what it was when it was written.
    #[error("ledger {0}, line {1}: {2}")]
    Tampered(PathBuf, usize, String),
    /// A row of a later version.
    #[error("ledger {0}, line {1}: version {2} of {ROW} is not known here")]
    Version(PathBuf, usize, u64),
}

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// always [`ROW`]
    pub kind: String,
    /// version of this record, 1
    pub v: u32,
    /// place, from 0
    pub n: u64,
    /// ms since 1970
    pub at_ms: u64,
    /// hash of the row before; 64 zeros for the first
    pub prev: String,
    /// what happened
    #[serde(flatten)]
    pub body: Body,
    /// blake3 over the row without this field
    #[serde(default)]
    pub hash: String,
}

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "row", rename_all = "lowercase")]
pub enum Body {
    /// A question was frozen.
    Opened {
        /// id of the spec
        spec: String,
        /// the spec's fields
        value: Value,
        /// file it came from
        file: String,
        /// id of the program it is part of
        #[serde(default, skip_serializing_if = "Option::is_none")]
        program: Option<String>,
        /// place in the queue at opening
        #[serde(default)]
        rank: u32,
        /// hash of each declared dependency at opening
        #[serde(default)]
        depends: std::collections::BTreeMap<String, String>,
    },
    /// What this machine can resolve was measured.
    Calibrated {
        /// machine and contract it holds for
        key: String,
        /// the machine
        host: Host,
        /// what it can resolve
        null: Null,
        /// record files
        records: Vec<String>,
    },
    /// A look at the arms, a block, or a bracketing control.
    Measured {
        /// id of the spec
        spec: String,
        /// `scout`, `opening`, `block N`, `closing`, `reverted`
        what: String,
        /// record file
        records: String,
        /// why these do not count
        #[serde(default, skip_serializing_if = "Option::is_none")]
        void: Option<String>,
        /// which attempt at the question, from 0
        #[serde(default)]
        attempt: u32,
    },
    /// A verdict.
    Decided {
        /// id of the spec
        spec: String,
        /// which attempt at the question, from 0
        #[serde(default)]
        attempt: u32,
        /// hash of the calibration row that was used
        #[serde(default, skip_serializing_if = "Option::is_none")]
        calibration: Option<String>,
        /// the verdict and all it rests on
        decision: Box<Decision>,
        /// commit that was kept, or undone
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commit: Option<String>,
        /// what was done about it
        #[serde(default)]
        action: String,
    },
    /// An earlier row no longer counts.
    Superseded {
        /// hash of that row
        of: String,
        /// why
        reason: String,
    },
    /// A word about an earlier row.
    Corrected {
        /// hash of that row
        of: String,
        /// what is wrong in it
        note: String,
    },
    /// Known from elsewhere, under other conditions.
    External {
        /// how it is called
        name: String,
        /// found by these
        tags: Vec<String>,
        /// what they found
        verdict: String,
        /// figures and conditions
        note: String,
        /// where it is written
        source: String,
        /// what our own predictor says of it
        #[serde(default, skip_serializing_if = "String::is_empty")]
        predicted: String,
    },
    /// A program was opened, or closed with its summary.
    Program {
        /// id of the program
        program: String,
        /// its fields when opened, its summary when closed
        value: Value,
        /// `opened` or `closed`
        what: String,
        /// file it came from
        #[serde(default)]
        file: String,
    },
}

/// A ledger on disk.
#[derive(Clone, Debug)]
pub struct Ledger {
    path: PathBuf,
}

/// 64 zeros.
fn nothing() -> String {
    "0".repeat(64)
}

impl Ledger {
    /// `<folder>/ledger.jsonl`; the folder is made when the first row is.
    pub fn at(folder: &Path) -> Self {
        Ledger { path: folder.join("ledger.jsonl") }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every row, each checked against its hash and its predecessor. An unfinished last line is passed over.
    pub fn rows(&self) -> Result<Vec<Row>, LedgerError> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(mut f) => f.read_to_end(&mut bytes).map_err(|e| LedgerError::Io(self.path.clone(), e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(LedgerError::Io(self.path.clone(), e)),
        };
        self.check(&bytes)
    }

    /// Bytes of a last line without its end, which a kill left: no row, and cut off by the next that is written.
    pub fn torn(&self) -> Result<u64, LedgerError> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(mut f) => f.read_to_end(&mut bytes).map_err(|e| LedgerError::Io(self.path.clone(), e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(LedgerError::Io(self.path.clone(), e)),
        };
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        Ok((bytes.len() - whole) as u64)
    }

    fn check(&self, bytes: &[u8]) -> Result<Vec<Row>, LedgerError> {
        let mut rows: Vec<Row> = Vec::new();
        for (i, line) in whole_lines(bytes).enumerate() {
            let bad = |why: String| LedgerError::Tampered(self.path.clone(), i + 1, why);
            let value: Value = serde_json::from_slice(line).map_err(|e| bad(format!("not JSON: {e}")))?;
            if value["kind"] != ROW {
                return Err(bad(format!("kind is {}, not {ROW}", value["kind"])));
            }
            match value["v"].as_u64() {
                Some(1) => {}
                other => return Err(LedgerError::Version(self.path.clone(), i + 1, other.unwrap_or(0))),
            }
            let canonical = serde_json_canonicalizer::to_vec(&value).map_err(|e| bad(e.to_string()))?;
            let told = value["hash"].as_str().unwrap_or_default().to_string();
            if canonical != line || sealed(&value) != told {
                return Err(bad("its bytes do not give the hash it holds; it was changed".into()));
            }
            let row: Row = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
            let before = rows.last().map_or_else(nothing, |r| r.hash.clone());
            if row.prev != before || row.n != i as u64 {
                return Err(
                    bad("it does not follow the line before; one was removed, added or moved".into()),
                );
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Adds a row at `at_ms`. Writers in other processes wait for each other.
    pub fn add(&self, at_ms: u64, body: Body) -> Result<Row, LedgerError> {
        let io = |e| LedgerError::Io(self.path.clone(), e);
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .map_err(io)?;
        file.lock().map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let rows = self.check(&bytes)?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        let prev = rows.last().map_or_else(nothing, |r| r.hash.clone());
        let mut row =
            Row { kind: ROW.into(), v: 1, n: rows.len() as u64, at_ms, prev, body, hash: String::new() };
        let bad = |e: serde_json::Error| io(std::io::Error::other(e));
        row.hash = sealed(&serde_json::to_value(&row).map_err(bad)?);
        let mut line = serde_json_canonicalizer::to_vec(&row).map_err(bad)?;
        line.push(b'\n');
        file.set_len(whole as u64).map_err(io)?;
        file.seek(SeekFrom::Start(whole as u64)).map_err(io)?;
        file.write_all(&line).and_then(|()| file.sync_data()).map_err(io)?;
        Ok(row)
    }
}

fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    bytes[..end].split_inclusive(|&b| b == b'\n').map(|l| &l[..l.len() - 1])
}

/// The hash of a row without its `hash`.
fn sealed(row: &Value) -> String {
    let mut open = row.clone();
    if let Some(o) = open.as_object_mut() {
        o.remove("hash");
    }
    hash(&open)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(n: usize) -> Body {
        Body::Corrected { of: "x".into(), note: format!("n {n}: π ≈ 3.14159, \"quoted\"") }
    }

    fn ledger(rows: usize) -> (tempfile::TempDir, Ledger) {
        let dir = tempfile::tempdir().unwrap();
        let l = Ledger::at(dir.path());
        for n in 0..rows {
            l.add(1_700_000_000_000 + n as u64, note(n)).unwrap();
        }
        (dir, l)
    }

    #[test]
    fn any_flipped_bit_is_found_and_its_line_named() {
        let (_dir, l) = ledger(4);
        let good = std::fs::read(l.path()).unwrap();
        assert_eq!(l.rows().unwrap().len(), 4);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                std::fs::write(l.path(), &bad).unwrap();
                let line = good[..at].iter().filter(|&&b| b == b'\n').count() + 1;
                match l.rows() {
                    Err(LedgerError::Tampered(_, n, _) | LedgerError::Version(_, n, _)) => {
                        assert!(n == line, "byte {at} bit {bit}: line {n}, not {line}")
                    }
                    // The end of the last line makes it an unfinished one, which reads as never written.
                    Ok(rows) => {
                        assert!(at == good.len() - 1 && rows.len() == 3, "byte {at} bit {bit} unseen")
                    }
                    Err(e) => panic!("{e}"),
                }
            }
        }
    }

    #[test]
    fn a_removed_or_moved_line_is_found() {
        let (_dir, l) = ledger(4);
        let text = std::fs::read_to_string(l.path()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for order in [vec![0, 2, 3], vec![1, 0, 2, 3], vec![0, 1, 1, 2, 3], vec![1, 2, 3]] {
            let changed: String = order.iter().map(|&i: &usize| format!("{}\n", lines[i])).collect();
            std::fs::write(l.path(), changed).unwrap();
            assert!(matches!(l.rows(), Err(LedgerError::Tampered(..))), "{order:?}");
        }
    }

    #[test]
    fn a_row_cut_short_by_a_kill_is_dropped_and_written_over() {
        let (_dir, l) = ledger(3);
        let good = std::fs::read(l.path()).unwrap();
        let third = good[..good.len() - 1].iter().rposition(|&b| b == b'\n').unwrap() + 1;
        for cut in third..good.len() {
            std::fs::write(l.path(), &good[..cut]).unwrap();
            assert_eq!(l.rows().unwrap().len(), 2, "cut at {cut}");
            assert_eq!(l.add(5, note(9)).unwrap().n, 2);
            assert_eq!(l.rows().unwrap().len(), 3);
        }
    }

    #[test]
    fn writers_at_the_same_time_lose_nothing() {
        let (_dir, l) = ledger(0);
        std::thread::scope(|s| {
            for t in 0..4 {
                let l = l.clone();
                s.spawn(move || (0..10).for_each(|n| drop(l.add(7, note(t * 10 + n)).unwrap())));
            }
        });
        assert_eq!(l.rows().unwrap().len(), 40);
    }
}
