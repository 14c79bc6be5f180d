//! What a machine can resolve, from a control beside itself.

use super::{DISTURBED, Event, Lab, LabError, Standing};
use crate::bench::At;
use crate::host::Gate;
use crate::ledger::{Body, Row};
use crate::record::{RunRecord, Stage};
use crate::spec::{Arm, Frozen};
use crate::stats::null::Null;
use crate::stats::{Direction, Estimates, design, paired};
use crate::verdict::{direction, metrics, seed};

/// Pairs of a null that calibrates a contract.
const NULL_PAIRS: usize = 12;
/// Hours for which a calibration holds: this machine's neighbours change by the day.
pub const CALIBRATION_HOURS: f64 = 24.0;

impl Lab<'_> {
    /// The calibration of a contract on this machine: the youngest in the ledger, or a null run now.
    pub(super) fn calibration(
        &mut self,
        spec: &Frozen,
        rows: &[Row],
        at: &Standing,
    ) -> Result<(String, Null), LabError> {
        let scouts = at.records.iter().filter(|r| r.stage == Stage::Scout);
        let foreign = scouts.clone().filter_map(|r| r.quiet.foreign_cpu).reduce(f64::max);
        let control = spec.spec.arms().remove(0);
        let ran = scouts.into_iter().find(|r| r.arm == control.name);
        let program = ran.map_or("", |r| r.binary.as_str());
        let key = calibration_key(spec, &self.bench.host().class(), program, load_class(foreign));
        let now = self.bench.now_ms();
        let names = metrics(spec);
        let fits = |r: &&Row| {
            matches!(&r.body, Body::Calibrated { key: k, null, .. } if *k == key && names.iter().all(|n| null.runs.contains_key(n)))
                && (now.saturating_sub(r.at_ms) as f64) < CALIBRATION_HOURS * 3.6e6
        };
        if let Some(Row { body: Body::Calibrated { null, .. }, hash, .. }) = rows.iter().rev().find(fits) {
            return Ok((hash.clone(), null.clone()));
        }
        (self.watch)(Event::Stage("calibrating: the control beside itself"));
        let pair = [control.clone(), Arm { name: format!("{}-again", control.name), ..control }];
        let (mut records, mut hashes) = (Vec::new(), Vec::new());
        let (mut block, mut voided) = (0, 0);
        while (block - voided) * 2 < NULL_PAIRS {
            self.bench.wait_quiet(spec).map_err(LabError::Busy)?;
            let mut one = Vec::new();
            for (position, arm) in design::block_order(2, seed(&spec.id) ^ 1, block).into_iter().enumerate() {
                let slot = At { stage: Stage::Block, block: block as u32, position: position as u32 };
                let record = self.bench.sample(spec, &pair[arm], slot);
                let done = 4 * (block - voided) + position + 1;
                (self.watch)(Event::Sample { record: &record, done, of: 2 * NULL_PAIRS });
                if (self.stop)() {
                    return Err(LabError::Stopped(0, spec.spec.pairs()[1]));
                }
                one.push(record);
            }
            block += 1;
            if let Some(why) =
                one.iter().find_map(|r| r.failed.clone().or_else(|| self.bench.disturbed(spec, r)))
            {
                (self.watch)(Event::Voided(&why));
                voided += 1;
                if voided > DISTURBED {
                    return Err(LabError::Busy(why));
                }
                continue;
            }
            hashes.push(self.store.put(&one)?);
            records.extend(one);
        }
        let null = Null::of(null_estimates(&records, &pair, &all_metrics(&records), seed(&spec.id)));
        let row =
            self.add(Body::Calibrated { key, host: self.bench.host(), null: null.clone(), records: hashes })?;
        Ok((row.hash, null))
    }
}

/// What a calibration holds for: the machine, what others do on it, the program, and all that a process of it does.
/// `program` is the hash of the control's binary, empty for another engine; `load` a word of [`load_class`]. What a spec
/// lets others use is part of it: a floor found in a loud hour says too much of a quiet one, and the other way round.
pub fn calibration_key(spec: &Frozen, machine: &str, program: &str, load: &str) -> String {
    let of = |name: &str| spec.value.get(name).cloned().unwrap_or_default();
    let allowed = spec.spec.design.foreign_cpu.unwrap_or(Gate::default().foreign_cpu);
    crate::spec::hash(&serde_json::json!({
        "machine": machine,
        "contract": of("contract"),
        "control": of("control"),
        "program": program,
        "load": load,
        "foreign_cpu": allowed,
    }))
}

/// How much of the machine others used, in a word: up to what the quiet gate usually lets pass, up to a core, more, or
/// not told.
pub fn load_class(foreign_cpu: Option<f64>) -> &'static str {
    match foreign_cpu {
        None => "unknown",
        Some(f) if f <= Gate::default().foreign_cpu => "quiet",
        Some(f) if f <= 1.0 => "a core",
        Some(_) => "more",
    }
}

fn all_metrics(records: &[RunRecord]) -> Vec<String> {
    let first = records.first().and_then(|r| r.sample());
    first.map(|s| s.metrics().into_keys().collect()).unwrap_or_default()
}

/// The estimates of a null run, of every metric that has them.
pub fn null_estimates(records: &[RunRecord], pair: &[Arm; 2], names: &[String], seed: u64) -> Estimates {
    let of = |name: &str| {
        let samples: Vec<crate::stats::Measured> = records
            .iter()
            .filter_map(|r| {
                let arm = usize::from(r.arm == pair[1].name);
                let slot = crate::stats::Slot { block: r.block as usize, position: r.position as usize, arm };
                Some(crate::stats::Measured { slot, value: r.metric(name)? })
            })
            .collect();
        let way: Direction = direction(name);
        paired::estimate(&samples, 0, 1, way, 0.05, seed).ok()
    };
    names.iter().filter_map(|n| Some((n.clone(), of(n)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibration_holds_for_one_machine_program_load_and_gate() {
        let spec = crate::spec::tests::example();
        let spec_of = |s: &crate::spec::Spec| Frozen {
            id: String::new(),
            spec: s.clone(),
            value: serde_json::to_value(s).unwrap(),
        };
        let mut loud = spec.clone();
        loud.design.foreign_cpu = Some(4.0);
        let (quiet, core) = (load_class(Some(0.1)), load_class(Some(0.9)));
        let keys = [
            calibration_key(&spec_of(&spec), "m", "p", quiet),
            calibration_key(&spec_of(&spec), "n", "p", quiet),
            calibration_key(&spec_of(&spec), "m", "q", quiet),
            calibration_key(&spec_of(&spec), "m", "p", core),
            calibration_key(&spec_of(&loud), "m", "p", quiet),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|b| a != b), "{i}");
        }
        assert_eq!(keys[0], calibration_key(&spec_of(&spec), "m", "p", load_class(Some(0.2))));
        assert_eq!((load_class(None), load_class(Some(3.0))), ("unknown", "more"));
    }
}
