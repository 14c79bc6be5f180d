//! Every process of a run where it stood in time: one mark each, so that drift, a slow first slot or a burst of
//! contention can be seen and need not be believed.

use tamp_base::record::quantile;

use super::svg::{Scale, Svg, fit, lines, spread, tick_labels, width};
use super::text::{Raw, clock, metric, number, span, utc};
use crate::record::{RunRecord, Stage};

/// One process.
#[derive(Clone, Debug)]
pub struct Point {
    /// place among the arms, the control is 0
    pub arm: usize,
    /// ms since 1970
    pub at_ms: u64,
    /// the metric
    pub value: f64,
    /// why it ran
    pub stage: Stage,
    /// block, from 0
    pub block: u32,
    /// it does not count
    pub void: bool,
}

/// Times within which nothing counts, and why.
#[derive(Clone, Debug)]
pub struct Shade {
    /// ms since 1970: begin, end
    pub from_to: [u64; 2],
    /// why
    pub why: String,
}

/// The plot of one metric.
#[derive(Clone, Debug, Default)]
pub struct Strip {
    /// by the names of `Sample::metrics`
    pub metric: String,
    /// more is better
    pub up: bool,
    /// names, the control first
    pub arms: Vec<String>,
    /// in the order they ran
    pub points: Vec<Point>,
    /// disturbed blocks
    pub shades: Vec<Shade>,
}

impl Strip {
    /// Adds what a block, or a bracketing control, left behind. Scouts run other prompts and are left out.
    pub fn add(&mut self, records: &[RunRecord], void: Option<&str>) {
        let counted: Vec<&RunRecord> = records.iter().filter(|r| r.stage != Stage::Scout).collect();
        for r in &counted {
            let (Some(arm), Some(value)) =
                (self.arms.iter().position(|a| *a == r.arm), r.metric(&self.metric))
            else {
                continue;
            };
            self.points.push(Point {
                arm,
                at_ms: r.started_ms,
                value,
                stage: r.stage,
                block: r.block,
                void: void.is_some(),
            });
        }
        if let (Some(why), Some(first), Some(last)) = (void, counted.first(), counted.last()) {
            let end = last.started_ms.saturating_add(last.took_ms.max(0.0) as u64);
            self.shades
                .push(Shade { from_to: [first.started_ms, end.max(first.started_ms)], why: why.into() });
        }
    }

    /// Median of an arm's counted samples of the blocks.
    fn median(&self, arm: usize) -> f64 {
        let of = |p: &&Point| p.arm == arm && !p.void && p.stage == Stage::Block;
        quantile(&self.points.iter().filter(of).map(|p| p.value).collect::<Vec<_>>(), 0.5)
    }

    /// The values the axis must hold: all that counts, and of what does not only as much as leaves the rest readable.
    fn range(&self) -> [f64; 2] {
        let ends = |void: bool| {
            let v = self.points.iter().filter(|p| p.void == void).map(|p| p.value);
            v.fold([f64::INFINITY, f64::NEG_INFINITY], |e, x| [e[0].min(x), e[1].max(x)])
        };
        let (counted, off) = (ends(false), ends(true));
        if !counted[0].is_finite() {
            return off;
        }
        let room = 1.5 * (counted[1] - counted[0]);
        let (lo, hi) =
            (off[0].max(counted[0] - room).min(counted[0]), off[1].min(counted[1] + room).max(counted[1]));
        let pad = 0.06 * (hi - lo);
        [lo - pad, hi + pad]
    }

    /// Draws it `wide` pixels wide. Nothing when no sample has the metric.
    pub fn svg(&self, id: String, wide: f64, tips: bool) -> Option<Raw> {
        let first = self.points.iter().map(|p| p.at_ms).min()?;
        let last = self.points.iter().map(|p| p.at_ms).max()?;
        let (name, unit) = metric(&self.metric);
        let medians: Vec<(usize, f64)> =
            (0..self.arms.len()).map(|a| (a, self.median(a))).filter(|m| m.1.is_finite()).collect();
        let notes: Vec<String> = medians.iter().map(|m| number(m.1)).collect();
        let [lo, hi] = self.range();
        let probe = Scale::linear(lo, hi, [0.0, 1.0]);
        let ticks = probe.ticks(6);
        let labels = tick_labels(&ticks);
        let left = labels.iter().map(|l| width(l)).fold(24.0, f64::max) + 10.0;
        let right = wide - notes.iter().map(|l| width(l)).fold(30.0, f64::max) - 12.0;
        let (top, bottom) = (30.0, 226.0);
        let y = Scale::linear(lo, hi, [bottom, top]);
        let x = Scale::linear(first as f64, last as f64, [left + 10.0, right - 10.0]);
        let mut s = Svg::new(id, wide);

        let heading = if unit.is_empty() { name.clone() } else { format!("{name}, {unit}") };
        s.text("lab", [left, 16.0], &heading);
        let better = if self.up { "higher is better ↑" } else { "lower is better ↓" };
        if left + width(&heading) + width(better) + 24.0 < wide {
            s.text("lab dim end", [wide - 2.0, 16.0], better);
        }
        for (t, label) in ticks.iter().zip(&labels) {
            s.line("grid", [left, y.at(*t)], [right, y.at(*t)]);
            s.text("lab dim end num", [left - 6.0, y.at(*t) + 4.0], label);
        }
        for [a, z] in self.bands(x) {
            s.rect("void", [a, top], [z - a, bottom - top]);
        }
        self.blocks(&mut s, x, [top, bottom]);
        self.medians(&mut s, &medians, &notes, y, [left, right]);
        for p in &self.points {
            let (px, py) = (x.at(p.at_ms as f64), y.at(p.value));
            if matches!(p.stage, Stage::Opening | Stage::Closing | Stage::Reverted) {
                s.mark_ring([px, py]);
            }
            let said = if tips { self.said(p, unit, y.beyond(p.value)) } else { String::new() };
            s.mark(p.arm, p.void, [px, py], &said);
        }
        self.brackets(&mut s, x, bottom);
        times(&mut s, first, last, x, bottom);
        let title = format!("{name} of every process in the order they ran");
        let text = format!(
            "{} processes from {} UTC on, over {}. Medians: {}. {} blocks were disturbed and do not count.",
            self.points.len(),
            utc(first),
            span(last.saturating_sub(first) as f64),
            medians
                .iter()
                .zip(&notes)
                .map(|(m, n)| format!("{} {n} {unit}", self.arms[m.0]))
                .collect::<Vec<_>>()
                .join(", "),
            self.shades.len(),
        );
        Some(s.done("plot", bottom + 46.0, &title, &text))
    }

    /// The shaded parts, one where blocks touch: a band over a band would be darker and mean nothing by it.
    fn bands(&self, x: Scale) -> Vec<[f64; 2]> {
        let mut all: Vec<[f64; 2]> = Vec::new();
        for s in &self.shades {
            let [a, z] = s.from_to.map(|t| x.at(t as f64));
            match all.last_mut().filter(|b| a - 5.0 <= b[1]) {
                Some(b) => b[1] = b[1].max(z + 5.0),
                None => all.push([a - 5.0, z + 5.0]),
            }
        }
        all
    }

    fn said(&self, p: &Point, unit: &str, beyond: bool) -> String {
        let place = match p.stage {
            Stage::Block => format!("block {}", p.block),
            Stage::Opening => "opening control".into(),
            Stage::Closing => "closing control".into(),
            Stage::Reverted => "control after the revert".into(),
            Stage::Scout => "scout".into(),
        };
        let void = if p.void { ", does not count" } else { "" };
        let off = if beyond { ", beyond the axis" } else { "" };
        format!("{}: {} {unit} · {place} · {}{void}{off}", self.arms[p.arm], number(p.value), clock(p.at_ms))
    }

    /// Thin lines between blocks.
    fn blocks(&self, s: &mut Svg, x: Scale, [top, bottom]: [f64; 2]) {
        let of: Vec<&Point> = self.points.iter().filter(|p| p.stage == Stage::Block).collect();
        for w in of.windows(2).filter(|w| w[0].block != w[1].block) {
            let at = (x.at(w[0].at_ms as f64) + x.at(w[1].at_ms as f64)) / 2.0;
            s.line("block", [at, top], [at, bottom]);
        }
    }

    fn medians(
        &self,
        s: &mut Svg,
        medians: &[(usize, f64)],
        notes: &[String],
        y: Scale,
        [left, right]: [f64; 2],
    ) {
        let mut places: Vec<f64> = medians.iter().map(|m| y.at(m.1)).collect();
        for (m, at) in medians.iter().zip(&places) {
            s.line(&format!("median a{}", m.0 % 6), [left, *at], [right, *at]);
        }
        spread(&mut places, 14.0, 36.0, 222.0);
        for ((m, note), at) in medians.iter().zip(notes).zip(&places) {
            s.text(&format!("lab num t{}", m.0 % 6), [right + 6.0, at + 4.0], note);
        }
    }

    /// What the ringed marks are, below the axis.
    fn brackets(&self, s: &mut Svg, x: Scale, bottom: f64) {
        let word = |p: &Point| match p.stage {
            Stage::Opening => Some("opening"),
            Stage::Closing => Some("closing"),
            Stage::Reverted => Some("reverted"),
            _ => None,
        };
        let named: Vec<(f64, &str)> =
            self.points.iter().filter_map(|p| Some((x.at(p.at_ms as f64), word(p)?))).collect();
        let [lo, hi] = [0.0, s.width()];
        let spans: Vec<(f64, f64)> = named
            .iter()
            .map(|(at, w)| {
                let l = fit(*at, w, lo, hi);
                (l, l + width(w))
            })
            .collect();
        for (((_, w), (l, _)), row) in named.iter().zip(&spans).zip(lines(&spans)) {
            // A second line would run into the times; the ring alone tells enough then.
            if row == 0 {
                s.text("lab dim", [*l, bottom + 40.0], w);
            }
        }
    }
}

/// Minutes since the first process.
fn times(s: &mut Svg, first: u64, last: u64, x: Scale, bottom: f64) {
    let long = last.saturating_sub(first) as f64;
    let (unit, ms) = if long < 180_000.0 {
        ("s", 1e3)
    } else if long < 10_800_000.0 {
        ("min", 6e4)
    } else {
        ("h", 3.6e6)
    };
    let minutes = Scale::linear(0.0, (long / ms).max(1e-9), [0.0, 1.0]);
    let ticks: Vec<f64> = minutes.ticks(6).into_iter().filter(|t| *t >= 0.0).collect();
    let mut taken = f64::NEG_INFINITY;
    for (t, label) in ticks.iter().zip(tick_labels(&ticks)) {
        let at = x.at(first as f64 + t * ms);
        let label = if *t == 0.0 { format!("0 {unit}") } else { label };
        let l = fit(at, &label, 0.0, s.width());
        s.line("axis", [at, bottom], [at, bottom + 4.0]);
        if l > taken {
            s.text("lab dim num", [l, bottom + 20.0], &label);
            taken = l + width(&label) + 8.0;
        }
    }
}
