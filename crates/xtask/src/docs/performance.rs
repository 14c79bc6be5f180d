//! The table of `docs/performance.md` and the chart beside it, from the rows of `docs/performance.jsonl`: lines that
//! `tamp bench vs … --json` printed.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::chart;

/// Rows, one JSON object per line; a later line about the same work replaces an earlier one.
pub const ROWS: &str = "docs/performance.jsonl";
/// The page that holds the table.
pub const PAGE: &str = "docs/performance.md";
/// The chart.
pub const CHART: &str = "docs/performance.svg";

const BEGIN: &str = "<!-- the rows of performance.jsonl, written by `cargo xtask docs` -->";
const END: &str = "<!-- end of the rows -->";

/// One engine beside tamp at one work.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// the model file's stem
    pub model: String,
    /// decode, prefill, batch or context, with its size
    pub work: String,
    /// the other engine and its version
    pub engine: String,
    /// its version, may be empty
    pub version: String,
    /// it ran on other token ids than ours
    pub own_ids: bool,
    /// tokens/s
    pub ours: f64,
    /// tokens/s
    pub theirs: f64,
    /// median, smallest, largest of the paired ratios
    pub ratio: [f64; 3],
    /// pairs
    pub pairs: u64,
    /// share of the read ceiling and that ceiling, GB/s; none where arithmetic bounds
    pub share: Option<(f64, f64)>,
}

/// Reads the rows in order, the newest of each (model, work, engine).
pub fn rows(text: &str) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let row = row(line).with_context(|| format!("{ROWS} line {}", at + 1))?;
        let same = |r: &Row| r.model == row.model && r.work == row.work && r.engine == row.engine;
        match rows.iter().position(same) {
            Some(i) => rows[i] = row,
            None => rows.push(row),
        }
    }
    Ok(rows)
}

fn row(line: &str) -> Result<Row> {
    let v: Value = serde_json::from_str(line)?;
    if v["kind"] != "tamp.bench.vs" || v["v"] != 1 {
        bail!("kind {} v {} is not a row of `tamp bench vs`, version 1", v["kind"], v["v"]);
    }
    let word = |key: &str| {
        v[key].as_str().map(str::to_string).with_context(|| format!("`{key}` is missing or no text"))
    };
    let number = |key: &str| {
        let n = v[key].as_f64().filter(|n| n.is_finite() && *n > 0.0);
        n.with_context(|| format!("`{key}` is missing or not above 0"))
    };
    let work = match word("work")?.as_str() {
        "decode" => "decode".to_string(),
        "prefill" => format!("prefill {}", number("prompt_tokens")?),
        "batch" => format!("{} streams", number("batch")?),
        "context" => format!("decode at {}", number("prompt_tokens")?),
        other => bail!("work `{other}` is unknown"),
    };
    let share = match v["ceiling_fraction"].as_f64() {
        Some(f) if f > 1.0 => bail!("a share of {f:.2} is above the ceiling, which voids the row"),
        Some(f) if f > 0.0 => Some((f, number("ceiling_gb_s")?)),
        _ => None,
    };
    Ok(Row {
        model: word("model")?,
        work,
        engine: word("engine")?,
        version: v["engine_version"].as_str().unwrap_or_default().to_string(),
        own_ids: v["same_ids"] == false,
        ours: number("ours_tok_s")?,
        theirs: number("theirs_tok_s")?,
        ratio: [number("ratio")?, number("ratio_min")?, number("ratio_max")?],
        pairs: number("pairs")? as u64,
        share,
    })
}

/// Three digits that matter: `2 909`, `432`, `41.8`.
pub fn rate(v: f64) -> String {
    let whole = v.round() as u64;
    match whole {
        1000.. => format!("{} {:03}", whole / 1000, whole % 1000),
        100.. => whole.to_string(),
        _ => format!("{v:.1}"),
    }
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| model | work | beside | tamp tok/s | theirs tok/s | ratio (range) | pairs | share of read ceiling |\n\
         |---|---|---|--:|--:|---|--:|---|\n",
    );
    for r in rows {
        let share = match r.share {
            Some((f, gb_s)) => format!("{f:.2} of {gb_s:.0} GB/s"),
            None => "bound by arithmetic".into(),
        };
        let [ratio, low, high] = r.ratio;
        out += &format!(
            "| {} | {} | {} | {} | {} | {ratio:.2} ({low:.2}–{high:.2}) | {} | {share} |\n",
            r.model,
            r.work,
            beside(r),
            rate(r.ours),
            rate(r.theirs),
            r.pairs
        );
    }
    out
}

fn beside(r: &Row) -> String {
    let own = if r.own_ids { ", own token ids" } else { "" };
    format!("{}{own}", format!("{} {}", r.engine, r.version).trim_end())
}

/// The page with its table renewed.
fn page(old: &str, rows: &[Row]) -> Result<String> {
    let (before, rest) = old.split_once(BEGIN).with_context(|| format!("{PAGE} has no line `{BEGIN}`"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{PAGE} has no line `{END}`"))?;
    Ok(format!("{before}{BEGIN}\n{}{END}{after}", table(rows)))
}

/// Path and text of both files as the rows say they should be.
pub fn rendered(root: &Path) -> Result<[(&'static str, String); 2]> {
    let read =
        |name: &str| std::fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {name}"));
    let rows = rows(&read(ROWS)?)?;
    Ok([(PAGE, page(&read(PAGE)?, &rows)?), (CHART, chart::svg(&rows))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(engine: &str, ratio: f64, fraction: &str) -> String {
        let same = engine == "a";
        format!(
            r#"{{"kind":"tamp.bench.vs","v":1,"model":"m","work":"decode","engine":"{engine}","engine_version":"7",
            "ours_tok_s":1432.4,"theirs_tok_s":41.84,"ratio":{ratio},"ratio_min":2,"ratio_max":4,"pairs":7,
            "ceiling_gb_s":52.3,"ceiling_fraction":{fraction},"same_ids":{same},"later":"field"}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn a_line_of_bench_vs_becomes_a_row_and_a_later_line_replaces_it() {
        let text = [line("a", 3.0, "0.5"), line("b", 2.5, "null"), line("a", 3.5, "0.75")].join("\n\n");
        let rows = rows(&text).unwrap();
        assert_eq!(rows.len(), 2);
        let page = page(&format!("top\n{BEGIN}\nold\n{END}\nend\n"), &rows).unwrap();
        assert!(page.starts_with("top\n") && page.ends_with("\nend\n") && !page.contains("old"), "{page}");
        assert!(
            page.contains("| m | decode | a 7 | 1 432 | 41.8 | 3.50 (2.00–4.00) | 7 | 0.75 of 52 GB/s |")
        );
        assert!(page.contains("| bound by arithmetic |") && page.contains("| b 7, own token ids |"));
        let chart = chart::svg(&rows);
        assert_eq!(chart.matches("class=\"theirs\"").count(), 2, "one bar per engine");
        assert_eq!(chart.matches("class=\"ours\"").count(), 1, "one bar of ours per work");
        assert_eq!(chart.matches("class=\"ceiling\"").count(), 1);
    }

    #[test]
    fn a_row_that_is_void_broken_or_of_another_kind_is_refused_with_its_line() {
        for (bad, says) in [
            (line("a", 3.0, "1.2"), "voids the row"),
            (line("a", 0.0, "0.5"), "`ratio`"),
            ("{\"kind\":\"tamp.bench.vs\",\"v\":2}".into(), "version 1"),
            ("{".into(), "line 2"),
        ] {
            let e = format!("{:#}", rows(&format!("{}\n{bad}\n", line("a", 3.0, "0.5"))).unwrap_err());
            assert!(e.contains(says) && e.contains("line 2"), "{bad}: {e}");
        }
        assert!(page("no marks", &[]).is_err());
    }

    #[test]
    fn names_cannot_break_the_chart() {
        let mut r = rows(&line("a", 3.0, "0.5")).unwrap();
        r[0].engine = "<b>&\"".into();
        let chart = chart::svg(&r);
        assert!(chart.contains("&lt;b&gt;&amp;&quot;") && !chart.contains("<b>"), "{chart}");
    }
}
