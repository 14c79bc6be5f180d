//! A live line while an experiment runs: what is done, how long it will take, what the interval is now.

use std::time::Instant;

use tamp_lab::run::Event;
use tamp_lab::spec::Frozen;

use crate::out::{Bar, Ui, note};

/// The line.
pub struct Live {
    ui: Ui,
    metric: String,
    stage: String,
    bar: Option<Bar>,
    start: Instant,
}

impl Live {
    /// A line for a spec.
    pub fn new(ui: Ui, spec: &Frozen) -> Live {
        let metric = spec.spec.expected.metric.clone();
        Live { ui, metric, stage: String::new(), bar: None, start: Instant::now() }
    }

    /// Shows what happened.
    pub fn show(&mut self, e: &Event<'_>) {
        match e {
            Event::Stage(what) => {
                self.stage = (*what).to_string();
                self.bar = None;
                self.start = Instant::now();
            }
            Event::Sample { record, done, of } => {
                let stage = &self.stage;
                let bar = self.bar.get_or_insert_with(|| self.ui.steps(stage, *of as u64));
                bar.at(*done as u64);
                if let Some(why) = &record.failed {
                    note(format_args!("{}: {why}", record.arm));
                }
            }
            Event::Voided(why) => note(format_args!("a block does not count: {why}")),
            Event::Note(what) => note(what),
            Event::Look(d) => {
                if let Some(e) = d.estimates.get(&self.metric) {
                    let (name, metric, percent) = (&d.candidate, &self.metric, 100.0 * (1.0 - d.level));
                    // The first looks are held to so small a level that they may say nothing yet.
                    let interval = if e.high < 10.0 * e.low {
                        format!("{:.4}–{:.4}, {percent:.1} %", e.low, e.high)
                    } else {
                        "too early for an interval".into()
                    };
                    note(format_args!("{name}: {} pairs, {metric} × {:.4} ({interval})", d.pairs, e.ratio));
                }
            }
        }
    }
}
