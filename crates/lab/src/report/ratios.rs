//! Paired ratios of a candidate: every pair, the interval, the gates it had to pass, what was predicted, and the band
//! inside which identical arms differ.

use super::svg::{Scale, Svg, fit, lines, tick_labels, width};
use super::text::{Raw, html, interval, metric, percent, ratio};
use crate::stats::{Estimate, Floor, Gate, Stat};

/// What is drawn of one metric.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// by the names of `Sample::metrics`
    pub metric: &'a str,
    /// what was found
    pub estimate: &'a Estimate,
    /// what identical arms show
    pub floor: Option<&'a Floor>,
    /// all gates of the spec
    pub success: &'a [Gate],
    /// all gates of the spec
    pub kill: &'a [Gate],
    /// the ratio that was predicted of this metric
    pub predicted: Option<f64>,
    /// the candidate's place among the arms
    pub arm: usize,
}

/// A gate in words.
pub fn gate(g: &Gate) -> String {
    let op = serde_json::to_value(g.op).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default();
    let op = op.replace(">=", "≥").replace("<=", "≤");
    let stat = match g.stat {
        Stat::CiLow => "low end",
        Stat::CiHigh => "high end",
        Stat::Median => "ratio",
    };
    format!("{stat} {op} {}", g.value)
}

/// A value on the axis with words above it.
struct Note {
    at: f64,
    words: String,
    class: &'static str,
}

impl Row<'_> {
    fn notes(&self) -> Vec<Note> {
        let of = |list: &[Gate], kind: &str, class: &'static str| -> Vec<Note> {
            let ours = list.iter().filter(|g| g.metric == self.metric);
            ours.map(|g| Note { at: g.value, words: format!("{kind}: {}", gate(g)), class }).collect()
        };
        let mut all = of(self.success, "success", "good");
        all.extend(of(self.kill, "kill", "bad"));
        all.extend(self.predicted.map(|p| Note {
            at: p,
            words: format!("predicted {}", ratio(p, 1.0)),
            class: "hope",
        }));
        all.retain(|n| n.at.is_finite() && n.at > 0.0);
        all
    }

    /// What the axis must hold. An interval of very few pairs may reach over many orders of magnitude; it is drawn as far
    /// as leaves the rest readable, and written out beside.
    fn values(&self) -> Vec<f64> {
        let e = self.estimate;
        let mut v = vec![1.0, e.ratio];
        v.extend(&e.ratios);
        v.extend(self.floor.iter().flat_map(|f| [1.0 + f.floor, 1.0 / (1.0 + f.floor)]));
        v.extend(self.notes().iter().map(|n| n.at));
        v.retain(|x| x.is_finite() && *x > 0.0);
        let (lo, hi) = v.iter().fold((1.0f64, 1.0f64), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
        v.extend([e.low.max(lo / 1.5), e.high.min(hi * 1.5)]);
        v.retain(|x| x.is_finite() && *x > 0.0);
        v
    }
}

/// Draws the rows on one axis, `wide` pixels wide. Nothing without rows.
pub fn svg(id: String, rows: &[Row<'_>], wide: f64) -> Option<Raw> {
    let values: Vec<f64> = rows.iter().flat_map(Row::values).collect();
    if rows.is_empty() {
        return None;
    }
    let ends = values.iter().fold([1.0f64, 1.0f64], |e, v| [e[0].min(*v), e[1].max(*v)]);
    // Room beside the outermost value, and at least two percent to each side when nothing differs.
    let pad = (ends[1] / ends[0]).powf(0.06).max(1.004);
    let x = Scale::ratios(ends[0] / pad, ends[1] * pad, [8.0, wide - 8.0]);
    let mut s = Svg::new(id, wide);
    let mut y = 4.0;
    for row in rows {
        y = one(&mut s, row, x, wide, y);
    }
    axis(&mut s, x, wide, y);
    let said: Vec<String> = rows
        .iter()
        .map(|r| {
            let e = r.estimate;
            let floor =
                r.floor.map_or(String::new(), |f| format!(", identical arms differ by {}", percent(f.floor)));
            format!(
                "{}: {} of {} pairs{floor}",
                metric(r.metric).0,
                interval(e.ratio, e.low, e.high),
                e.pairs
            )
        })
        .collect();
    Some(s.done(
        "plot",
        y + 44.0,
        "Paired ratios, candidate over control, more than 1 is better",
        &said.join(". "),
    ))
}

fn one(s: &mut Svg, row: &Row<'_>, x: Scale, wide: f64, top: f64) -> f64 {
    let e = row.estimate;
    let figure = interval(e.ratio, e.low, e.high);
    let (name, _) = metric(row.metric);
    s.text("lab head", [8.0, top + 14.0], &name);
    let narrow = width(&name) + width(&figure) + 30.0 > wide;
    let mut y = top + 14.0;
    if narrow {
        y += 17.0;
        s.text("lab num", [8.0, y], &figure);
    } else {
        s.text("lab num end", [wide - 8.0, y], &figure);
    }
    y += 8.0;
    let notes = row.notes();
    let spans: Vec<(f64, f64)> = notes
        .iter()
        .map(|n| {
            let l = fit(x.at(n.at), &n.words, 2.0, wide - 2.0);
            (l, l + width(&n.words))
        })
        .collect();
    let rows = lines(&spans);
    let label_top = y;
    y += 16.0 * rows.iter().map(|r| r + 1).max().unwrap_or(0) as f64 + 4.0;
    let band = 10.0 + (3.0 * e.ratios.len() as f64).clamp(18.0, 84.0);
    let (from, to) = (y, y + band + 20.0);
    if let Some(f) = row.floor {
        let [a, b] = [x.at(1.0 / (1.0 + f.floor)), x.at(1.0 + f.floor)];
        s.rect("floor", [a, from], [b - a, to - from]);
    }
    s.line("one", [x.at(1.0), from], [x.at(1.0), to]);
    let under = |line: usize| label_top + 16.0 * line as f64 + 12.0;
    for (n, line) in notes.iter().zip(&rows) {
        s.line(n.class, [x.at(n.at), under(*line) + 4.0], [x.at(n.at), to]);
    }
    for ((n, (l, _)), line) in notes.iter().zip(&spans).zip(&rows) {
        s.text(&format!("lab halo {}", n.class), [*l, under(*line)], &n.words);
    }
    // From top to bottom in order of block, so that a trend is a slant.
    let steps = (e.ratios.len().max(2) - 1) as f64;
    for (i, r) in e.ratios.iter().enumerate() {
        let at = [x.at(*r), from + 6.0 + i as f64 / steps * (band - 10.0)];
        s.put(html!(
            "<circle class=\"pair a{}\" cx=\"{}\" cy=\"{}\" r=\"2.6\"/>",
            row.arm % 6,
            super::text::Px(at[0]),
            super::text::Px(at[1])
        ));
    }
    let (bar, [l, h, m]) = (from + band + 9.0, [x.at(e.low), x.at(e.high), x.at(e.ratio)]);
    s.rect("ci", [l, bar - 3.5], [(h - l).max(1.5), 7.0]);
    s.line("mid", [m, bar - 8.0], [m, bar + 8.0]);
    to + 10.0
}

fn axis(s: &mut Svg, x: Scale, wide: f64, y: f64) {
    s.line("axis", [8.0, y], [wide - 8.0, y]);
    let ticks = x.ticks(if wide < 500.0 { 4 } else { 8 });
    let mut taken = f64::NEG_INFINITY;
    for (t, label) in ticks.iter().zip(tick_labels(&ticks)) {
        let (at, label) = (x.at(*t), format!("{label}×"));
        let l = fit(at, &label, 0.0, wide);
        s.line("axis", [at, y], [at, y + 4.0]);
        if l > taken {
            s.text("lab dim num", [l, y + 18.0], &label);
            taken = l + width(&label) + 8.0;
        }
    }
    s.text("lab dim", [8.0, y + 38.0], "← worse");
    s.text("lab dim end", [wide - 8.0, y + 38.0], "better →");
}

/// One interval, as small as a word: for lists of many, all on one axis from half to double.
pub fn small(id: String, e: &Estimate, floor: Option<&Floor>) -> Raw {
    let wide = 150.0;
    let x = Scale::ratios(0.5, 2.0, [8.0, wide - 8.0]);
    let mut s = Svg::new(id, wide);
    if let Some(f) = floor {
        let [a, b] = [x.at(1.0 / (1.0 + f.floor)), x.at(1.0 + f.floor)];
        s.rect("floor", [a, 2.0], [(b - a).max(1.0), 16.0]);
    }
    s.line("axis", [8.0, 10.0], [wide - 8.0, 10.0]);
    s.line("one", [x.at(1.0), 1.0], [x.at(1.0), 19.0]);
    let [l, h, m] = [x.at(e.low), x.at(e.high), x.at(e.ratio)];
    // An interval that holds 1 shows no side.
    let side = if e.low > 1.0 {
        "ci up"
    } else if e.high < 1.0 {
        "ci down"
    } else {
        "ci"
    };
    s.rect(side, [l, 7.0], [(h - l).max(3.0), 6.0]);
    s.line("mid", [m, 4.0], [m, 16.0]);
    if x.beyond(e.ratio) {
        // Further than the axis goes: an arrow on its end.
        let (tip, back) = if e.ratio > 1.0 { (wide - 1.0, -6.0) } else { (1.0, 6.0) };
        s.line("mid", [tip + back, 5.0], [tip, 10.0]);
        s.line("mid", [tip + back, 15.0], [tip, 10.0]);
    }
    s.done(
        "small",
        20.0,
        &format!("ratio {}", interval(e.ratio, e.low, e.high)),
        "on an axis from half to double, 1 in the middle",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Direction, Measured, Slot, paired};

    fn estimate(candidate: f64, level: f64) -> Estimate {
        let value = |block: usize, position: usize, arm: usize| {
            let noise = 1.0 + 0.02 * ((7 * block + 3 * position) % 5) as f64;
            Measured {
                slot: Slot { block, position, arm },
                value: if arm == 1 { 100.0 * candidate * noise } else { 100.0 * noise },
            }
        };
        let orders = [[0, 1, 1, 0], [1, 0, 0, 1]];
        let all: Vec<Measured> =
            (0..2).flat_map(|b| (0..4).map(move |p| value(b, p, orders[b][p]))).collect();
        paired::estimate(&all, 0, 1, Direction::Up, level, 1).unwrap()
    }

    #[test]
    fn an_interval_without_end_leaves_the_pairs_readable() {
        let e = estimate(1.1, 1e-9);
        assert!(e.high / e.low > 1e6, "{e:?}");
        let row = Row {
            metric: "decode_tok_s",
            estimate: &e,
            floor: None,
            success: &[],
            kill: &[],
            predicted: None,
            arm: 1,
        };
        let v = row.values();
        let (lo, hi) = v.iter().fold((1.0f64, 1.0f64), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
        assert!(hi / lo < 4.0, "{lo} {hi}");
        let drawn = svg("x".into(), &[row], 720.0).unwrap();
        assert_eq!(drawn.text().matches("class=\"pair a1\"").count(), e.ratios.len());
        assert!(drawn.text().contains("> 10\u{202f}000)") || drawn.text().contains("&gt; 10\u{202f}000)"));
    }
}
