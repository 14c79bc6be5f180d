//! What one process of a run left behind, and the compressed files that hold it.
//!
//! A block of records is one file, named by blake3 of its uncompressed JSON, so that a ledger row that holds the hash
//! holds the samples. A file is written beside its name and renamed, so that a kill leaves all of it or nothing.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use tamp_base::record::Sample;

use crate::host::{Host, Quiet};

/// `kind` of a [`RunRecord`].
pub const RUN: &str = "tamp.lab.run";

/// Uncompressed bytes that a record file may hold; a larger one is not ours.
const LARGEST: u64 = 256 << 20;

/// Why a record file is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("record {0}: {1}")]
    Io(PathBuf, std::io::Error),
    /// The content is not what the name says.
    #[error("record {0} does not hold what its name says; it was changed or damaged")]
    Tampered(PathBuf),
    /// Not a block of records.
    #[error("record {0}: {1}")]
    Syntax(PathBuf, String),
}

/// Where in a run a process stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// one look at each arm before anything counts
    Scout,
    /// the control before the first block
    Opening,
    /// a counted slot
    Block,
    /// the control after the last block
    Closing,
    /// the control after a code candidate was removed
    Reverted,
}

/// One process, one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// always [`RUN`]
    pub kind: String,
    /// version of this record, 1
    pub v: u32,
    /// id of the spec
    pub spec: String,
    /// name of the arm
    pub arm: String,
    /// why it ran
    pub stage: Stage,
    /// block, from 0
    pub block: u32,
    /// slot within the block, from 0
    pub position: u32,
    /// ms since 1970 when it started
    pub started_ms: u64,
    /// how long it took, ms
    pub took_ms: f64,
    /// the command line
    pub argv: Vec<String>,
    /// blake3 of the program
    pub binary: String,
    /// blake3 of the model file
    pub model: String,
    /// where
    pub host: Host,
    /// what else went on
    pub quiet: Quiet,
    /// this run held the machine lock
    pub locked: bool,
    /// exit status; absent when a signal ended it
    pub exit: Option<i32>,
    /// why there is no sample
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// the last of stderr
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// what the process said of itself; several when it was forced to run beside others
    pub samples: Vec<Sample>,
}

impl RunRecord {
    /// The sample that counts.
    pub fn sample(&self) -> Option<&Sample> {
        self.samples.first()
    }

    /// A metric of that sample, by the names of [`Sample::metrics`].
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.sample()?.metrics().get(name).copied()
    }

    /// A record of a process that could not even be started.
    pub fn unstarted(spec: &str, arm: &str, host: Host, now_ms: u64, why: String) -> RunRecord {
        RunRecord {
            kind: RUN.into(),
            v: 1,
            spec: spec.into(),
            arm: arm.into(),
            stage: Stage::Scout,
            block: 0,
            position: 0,
            started_ms: now_ms,
            took_ms: 0.0,
            argv: Vec::new(),
            binary: String::new(),
            model: String::new(),
            host,
            quiet: Quiet::default(),
            locked: false,
            exit: None,
            failed: Some(why),
            stderr: String::new(),
            samples: Vec::new(),
        }
    }

    /// Taken alone: under the lock and not beside others of the same run.
    pub fn alone(&self) -> bool {
        self.locked && self.samples.len() < 2
    }
}

/// The folder of record files.
#[derive(Clone, Debug)]
pub struct Store(PathBuf);

impl Store {
    /// `<ledger's folder>/records`.
    pub fn new(folder: &Path) -> Self {
        Store(folder.join("records"))
    }

    fn path(&self, hash: &str) -> PathBuf {
        self.0.join(format!("{hash}.json.gz"))
    }

    /// Writes a block and gives its hash. A block that is there already is left alone.
    pub fn put(&self, block: &[RunRecord]) -> Result<String, StoreError> {
        let text =
            serde_json::to_vec(block).map_err(|e| StoreError::Syntax(self.0.clone(), e.to_string()))?;
        let hash = blake3::hash(&text).to_hex().to_string();
        let path = self.path(&hash);
        let io = |e| StoreError::Io(path.clone(), e);
        if path.exists() {
            return Ok(hash);
        }
        fs::create_dir_all(&self.0).map_err(io)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.0).map_err(io)?;
        let mut gz = GzEncoder::new(&mut file, Compression::best());
        gz.write_all(&text).and_then(|()| gz.finish().map(|_| ())).map_err(io)?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(&path).map_err(|e| io(e.error))?;
        Ok(hash)
    }

    /// Reads a block back and checks that it is the one.
    pub fn get(&self, hash: &str) -> Result<Vec<RunRecord>, StoreError> {
        let path = self.path(hash);
        let file = fs::File::open(&path).map_err(|e| StoreError::Io(path.clone(), e))?;
        let mut text = Vec::new();
        // A damaged stream is tampering too, not a fault of the disk.
        if GzDecoder::new(file).take(LARGEST).read_to_end(&mut text).is_err()
            || blake3::hash(&text).to_hex().as_str() != hash
        {
            return Err(StoreError::Tampered(path));
        }
        serde_json::from_slice(&text).map_err(|e| StoreError::Syntax(path, e.to_string()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tamp_base::record::{EngineId, RequestRun, SAMPLE};

    /// A process that decoded four tokens at `ms` each.
    pub fn record(arm: &str, block: u32, position: u32, ms: f64) -> RunRecord {
        let gap = (ms * 1e6) as u64;
        let request = RequestRun {
            prompt: "short".into(),
            prompt_hash: "ab".into(),
            prompt_tokens: 4,
            tokens: vec![5, 6, 7, 8],
            text: "four new words here".into(),
            first_token_ns: 3 * gap,
            prefill_ns: 2 * gap,
            token_ns: vec![gap; 3],
            total_ns: 6 * gap,
            finish: "length".into(),
            ..RequestRun::default()
        };
        let sample = Sample {
            kind: SAMPLE.into(),
            v: 1,
            engine: EngineId { name: "tamp".into(), version: "0".into(), ..EngineId::default() },
            threads: 2,
            requests: vec![request],
            decision_grade: true,
            ..Sample::default()
        };
        RunRecord {
            kind: RUN.into(),
            v: 1,
            spec: "s".into(),
            arm: arm.into(),
            stage: Stage::Block,
            block,
            position,
            started_ms: 1_000_000 + 1000 * u64::from(4 * block + position),
            took_ms: 6.0 * ms,
            argv: vec!["tamp".into()],
            binary: "b".into(),
            model: "m".into(),
            host: Host::default(),
            quiet: Quiet::default(),
            locked: true,
            exit: Some(0),
            failed: None,
            stderr: String::new(),
            samples: vec![sample],
        }
    }

    #[test]
    fn a_block_comes_back_as_it_was_and_a_changed_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let block = vec![record("control", 0, 0, 1.1), record("candidate", 0, 1, 0.3)];
        let hash = store.put(&block).unwrap();
        assert_eq!(store.put(&block).unwrap(), hash);
        assert_eq!(store.get(&hash).unwrap(), block);
        let path = store.path(&hash);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            // Bytes of the gzip header that carry no content (time, system) may change unseen.
            match store.get(&hash) {
                Ok(same) => assert!(at < 10 && same == block, "byte {at}"),
                Err(StoreError::Tampered(p)) => assert_eq!(p, path),
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
    }
}
