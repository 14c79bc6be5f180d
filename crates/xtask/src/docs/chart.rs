//! The chart: per work one bar of ours and one per other engine, all relative to ours in the same pairs, and a mark
//! where the measured read ceiling lies. Readable on light and dark pages.

use super::performance::{Row, rate};

const WIDTH: f64 = 760.0;
/// Where bars begin, and where the longest may end.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 580.0;
/// Right edges of the two columns of figures.
const RATE: f64 = 668.0;
const RATIO: f64 = 744.0;
const BAR: f64 = 14.0;
const LINE: f64 = 20.0;
const HEAD: f64 = 34.0;
const TOP: f64 = 64.0;

const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}\
.title{font-size:17px;font-weight:600}.small{font-size:12px;fill:#59636e}.head{font-weight:600}\
.right{text-anchor:end}.number{font-variant-numeric:tabular-nums}\
.ours{fill:#c2410c}.theirs{fill:#8c959f}.ceiling{stroke:#1f2328;stroke-width:1.5;stroke-dasharray:3 2}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.ours{fill:#fb923c}\
.theirs{fill:#6e7681}.ceiling{stroke:#e6edf3}}";

/// Draws the rows, grouped by model and work in order of first appearance.
pub fn svg(rows: &[Row]) -> String {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for r in rows {
        match groups.iter_mut().find(|g| g[0].model == r.model && g[0].work == r.work) {
            Some(g) => g.push(r),
            None => groups.push(vec![r]),
        }
    }
    // Everything is relative to ours; the longest bar or ceiling reaches the right edge.
    let longest = rows.iter().flat_map(|r| [1.0 / r.ratio[0], r.share.map_or(1.0, |s| 1.0 / s.0)]);
    let unit = (RIGHT - LEFT) / longest.fold(1.0, f64::max);
    let mut y = TOP;
    let mut body = String::new();
    for g in &groups {
        body += &text(16.0, y + 16.0, "head", &format!("{} · {}", g[0].model, g[0].work));
        y += HEAD - 8.0;
        let top = y;
        let own = median(g.iter().map(|r| r.ours).collect());
        body += &bar("ours", "tamp", y, unit, &rate(own), "");
        y += LINE;
        for r in g {
            let (length, ratio) = (unit / r.ratio[0], format!("{:.2}×", r.ratio[0]));
            body += &bar("theirs", &r.engine, y, length, &rate(r.theirs), &ratio);
            y += LINE;
        }
        let shares: Vec<f64> = g.iter().filter_map(|r| r.share.map(|s| s.0)).collect();
        if !shares.is_empty() {
            let share = median(shares);
            let x = LEFT + unit / share;
            body += &text(RATE, top - 10.0, "small right number", &format!("ceiling {}", rate(own / share)));
            let (a, b) = (top - 3.0, y - LINE + BAR + 3.0);
            body += &format!(
                "<line class=\"ceiling\" x1=\"{x:.1}\" y1=\"{a:.1}\" x2=\"{x:.1}\" y2=\"{b:.1}\"/>\n"
            );
        }
        y += 8.0;
    }
    let height = y + 12.0;
    let label = "Speed of tamp beside other engines on the same model files";
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{label}\">\n<title>{label}</title>\n\
         <style>{STYLE}</style>\n{}{}{}{body}</svg>\n",
        text(16.0, 28.0, "title", "Tokens per second, tamp beside other engines"),
        text(
            16.0,
            48.0,
            "small",
            "Bars relative to tamp, medians of pairs taken in turn in one run. Dashed: the memory read ceiling of that run."
        ),
        text(RATE, 28.0, "small right", "tok/s") + &text(RATIO, 28.0, "small right", "ahead by"),
    )
}

fn bar(class: &str, name: &str, y: f64, length: f64, value: &str, ratio: &str) -> String {
    let base = y + BAR - 3.0;
    let mut out = text(LEFT - 10.0, base, "right", name);
    out += &format!(
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>\n"
    );
    out += &text(RATE, base, "right number", value);
    if !ratio.is_empty() {
        out += &text(RATIO, base, "right number", ratio);
    }
    out
}

fn text(x: f64, y: f64, class: &str, what: &str) -> String {
    let what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{what}</text>\n")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(1.0)
}
