//! What the records of an attempt tell beside their speed: which programs ran, on what, with which words.

use std::collections::BTreeMap;

use tamp_base::record::Sample;

use super::book::{Attempt, Experiment};
use super::strip::Strip;
use crate::host::Host;
use crate::record::{RunRecord, Stage, Store, StoreError};
use crate::stats::Direction;
use crate::verdict::direction;

/// What one arm's first process said.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// the command line
    pub argv: Vec<String>,
    /// blake3 of the program
    pub binary: String,
    /// blake3 of the model file
    pub model: String,
    /// name, version, revision
    pub engine: String,
    /// hash of the plan
    pub plan: String,
    /// threads
    pub threads: usize,
    /// prompt → hash of its token ids, and how many they are
    pub prompts: BTreeMap<String, (String, usize)>,
    /// why one failed, and its exit status
    pub failed: Option<String>,
    /// this is what the scout said, not a counted process
    pub scouted: bool,
}

/// What is known of an attempt beside its verdict.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// the expected metric first
    pub strips: Vec<Strip>,
    /// by arm, in the order they first ran
    pub arms: Vec<(String, Seen)>,
    /// where
    pub host: Option<Host>,
    /// processes, scouts too
    pub processes: usize,
    /// of these with a time that counts
    pub counted: usize,
    /// when the first began and the last ended, ms since 1970
    pub from_to: Option<[u64; 2]>,
    /// record files that are not here
    pub missing: Vec<String>,
}

/// Metrics that are plotted: the expected one first, then those of the gates.
fn metrics(e: &Experiment<'_>) -> Vec<String> {
    let Some(s) = &e.spec else { return Vec::new() };
    let mut all = vec![s.expected.metric.clone()];
    for g in s.success.iter().chain(&s.kill) {
        if !all.contains(&g.metric) {
            all.push(g.metric.clone());
        }
    }
    all
}

impl Facts {
    /// Reads the records of an attempt. A file that is not there is noted; one that was changed is an error, for no plot
    /// stands on changed records.
    pub fn read(e: &Experiment<'_>, attempt: &Attempt<'_>, store: &Store) -> Result<Facts, StoreError> {
        let arms = e.arms();
        let mut f = Facts::default();
        for name in metrics(e) {
            let up = direction(&name) == Direction::Up;
            f.strips.push(Strip { metric: name, up, arms: arms.clone(), ..Strip::default() });
        }
        for m in &attempt.measured {
            let records = match store.get(m.records) {
                Ok(r) => r,
                Err(StoreError::Io(_, why)) if why.kind() == std::io::ErrorKind::NotFound => {
                    f.missing.push(m.records.to_string());
                    continue;
                }
                Err(other) => return Err(other),
            };
            f.strips.iter_mut().for_each(|s| s.add(&records, m.void));
            for r in &records {
                f.note(r, m.void.is_some());
            }
        }
        f.arms.sort_by_key(|a| arms.iter().position(|n| *n == a.0));
        Ok(f)
    }

    fn note(&mut self, r: &RunRecord, void: bool) {
        self.processes += 1;
        self.counted += usize::from(!void && r.stage == Stage::Block);
        let end = r.started_ms.saturating_add(r.took_ms.max(0.0) as u64);
        self.from_to = Some(match self.from_to {
            None => [r.started_ms, end],
            Some([a, b]) => [a.min(r.started_ms), b.max(end)],
        });
        self.host.get_or_insert_with(|| r.host.clone());
        let at = self.arms.iter().position(|a| a.0 == r.arm).unwrap_or_else(|| {
            self.arms.push((r.arm.clone(), Seen::default()));
            self.arms.len() - 1
        });
        let seen = &mut self.arms[at].1;
        // The words of a counted process, not the scout's, where there is one.
        if seen.argv.is_empty() || (seen.scouted && r.stage != Stage::Scout && r.failed.is_none()) {
            *seen = Seen { failed: seen.failed.take(), ..Seen::of(r) };
        }
        if let (None, Some(why)) = (&seen.failed, &r.failed) {
            seen.failed = Some(match r.exit {
                Some(code) => format!("exit {code}: {why}"),
                None => why.clone(),
            });
        }
    }
}

impl Seen {
    fn of(r: &RunRecord) -> Seen {
        let s = r.sample().cloned().unwrap_or_default();
        Seen {
            scouted: r.stage == Stage::Scout,
            argv: r.argv.clone(),
            binary: r.binary.clone(),
            model: r.model.clone(),
            engine: engine(&s),
            plan: s.plan_hash.clone(),
            threads: s.threads,
            prompts: s
                .requests
                .iter()
                .map(|q| (q.prompt.clone(), (q.prompt_hash.clone(), q.prompt_tokens)))
                .collect(),
            failed: None,
        }
    }
}

fn engine(s: &Sample) -> String {
    let e = &s.engine;
    let mut all = format!("{} {}", e.name, e.version).trim().to_string();
    if !e.revision.is_empty() {
        all += &format!(" at {}{}", super::text::short(&e.revision), if e.dirty { " + changes" } else { "" });
    }
    all
}
