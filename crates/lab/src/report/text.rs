//! Text, numbers and dates as the page shows them. Everything that is not known when tamp is built goes through
//! [`Esc`]: titles, tags and answers of models are other people's words and may hold anything.

use std::fmt::{self, Display, Formatter, Write};

/// HTML that is safe as it stands: made of literals of this module and of escaped words only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Raw(String);

impl Raw {
    /// Nothing.
    pub fn new() -> Raw {
        Raw::default()
    }

    /// What [`html!`] built. Not for anything else.
    pub fn built(text: String) -> Raw {
        Raw(text)
    }

    /// A literal.
    pub fn of(text: &'static str) -> Raw {
        Raw(text.into())
    }

    /// Adds at the end.
    pub fn add(&mut self, more: Raw) {
        self.0.push_str(&more.0);
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl FromIterator<Raw> for Raw {
    fn from_iter<I: IntoIterator<Item = Raw>>(parts: I) -> Raw {
        let mut all = Raw::new();
        parts.into_iter().for_each(|p| all.add(p));
        all
    }
}

/// HTML from a literal with `{}` only, every argument escaped unless it is [`Raw`]. A name inside the braces would
/// go past the escaping; a test of this module refuses one.
macro_rules! html {
    ($f:literal $(, $a:expr)* $(,)?) => {
        $crate::report::text::Raw::built(format!($f $(, $crate::report::text::Esc(&$a))*))
    };
}
pub(crate) use html;

/// What may stand in a page.
pub trait Show {
    /// Writes it so that it cannot be taken for markup.
    fn show(&self, f: &mut Formatter<'_>) -> fmt::Result;
}

/// Shows anything that can be shown.
pub struct Esc<'a, T: ?Sized>(pub &'a T);

impl<T: Show + ?Sized> Display for Esc<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.show(f)
    }
}

impl Show for Raw {
    fn show(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<T: Show + ?Sized> Show for &T {
    fn show(&self, f: &mut Formatter<'_>) -> fmt::Result {
        (**self).show(f)
    }
}

impl Show for String {
    fn show(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.as_str().show(f)
    }
}

macro_rules! whole {
    ($($t:ty)*) => { $(impl Show for $t {
        fn show(&self, f: &mut Formatter<'_>) -> fmt::Result {
            Display::fmt(self, f)
        }
    })* };
}
whole!(u32 u64 usize);

/// A coordinate, in tenths.
#[derive(Clone, Copy, Debug)]
pub struct Px(pub f64);

impl Show for Px {
    fn show(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let x = if self.0.is_finite() { (self.0 * 10.0).round() / 10.0 } else { 0.0 };
        // No "-0": it is the same place and looks like a mistake.
        write!(f, "{}", if x == 0.0 { 0.0 } else { x })
    }
}

impl Show for str {
    fn show(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(c)?,
                // Control characters have pictures of their own, from U+2400 on.
                '\u{0}'..='\u{1f}' => {
                    f.write_char(char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'))?
                }
                '\u{7f}' => f.write_char('\u{2421}')?,
                '\u{80}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}')?,
                // Marks that turn the direction of text could make a figure read as another.
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    write!(f, "\u{27e8}U+{:04X}\u{27e9}", c as u32)?;
                }
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A figure with three significant digits, thousands apart; whole above 1000.
pub fn number(x: f64) -> String {
    if !x.is_finite() {
        return "–".into();
    }
    let size = x.abs();
    let decimals = match size {
        s if s >= 99.95 => 0,
        s if s >= 9.995 => 1,
        s if s >= 0.9995 => 2,
        s if s >= 0.0995 => 3,
        0.0 => 0,
        _ => 4,
    };
    let text = format!("{size:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    if x < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('−');
    }
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) && whole.len() > 4 {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out + rest
}

/// A ratio with the digits that `within`, the width of its interval, leaves meaningful.
pub fn ratio(x: f64, within: f64) -> String {
    if !x.is_finite() {
        return "–".into();
    }
    // Ends of intervals that very few pairs leave open.
    if x > 1e4 {
        return "> 10\u{202f}000".into();
    }
    if x < 1e-3 {
        return "< 0.001".into();
    }
    if x >= 100.0 {
        return number(x);
    }
    let decimals = if within.is_finite() && within < 0.01 && x < 10.0 {
        4
    } else if within.is_finite() && within < 0.2 && x < 10.0 {
        3
    } else {
        2
    };
    format!("{x:.decimals$}")
}

/// A ratio and its interval.
pub fn interval(x: f64, low: f64, high: f64) -> String {
    let w = high - low;
    format!("{} ({}–{})", ratio(x, w), ratio(low, w), ratio(high, w))
}

/// A share as percent.
pub fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "–".into();
    }
    let p = 100.0 * share;
    let decimals = if p.abs() >= 10.0 || p == 0.0 {
        0
    } else if p.abs() >= 1.0 {
        1
    } else {
        2
    };
    format!("{p:.decimals$} %").replace('-', "−")
}

/// A probability.
pub fn probability(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

/// Date and time of day, UTC, from ms since 1970 (days to civil date: Hinnant's algorithm, any Gregorian date).
pub fn utc(ms: u64) -> String {
    let (date, s) = (date(ms), ms / 1000 % 86_400);
    format!("{date} {:02}:{:02}", s / 3600, s / 60 % 60)
}

/// The date, UTC.
pub fn date(ms: u64) -> String {
    // 400 years are 146 097 days; years begin in March so that the leap day is the last.
    let z = ms / 86_400_000 + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + 400 * era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Time of day with seconds, UTC.
pub fn clock(ms: u64) -> String {
    let s = ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// A duration.
pub fn span(ms: f64) -> String {
    match ms / 1000.0 {
        s if !s.is_finite() => "–".into(),
        s if s < 1.0 => format!("{} ms", number(ms)),
        s if s < 120.0 => format!("{} s", number(s)),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// The beginning of a hash, as people compare them.
pub fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// Name and unit of a metric.
pub fn metric(name: &str) -> (String, &'static str) {
    let unit = [("_tok_s", "tok/s"), ("_gb_s", "GB/s"), ("_ms", "ms"), ("_mb", "MB"), ("_fraction", "share")];
    let (stem, unit) = unit.iter().find_map(|(e, u)| Some((name.strip_suffix(e)?, *u))).unwrap_or((name, ""));
    let plain = match stem {
        "ttft" => "time to first token",
        "e2e" => "end to end",
        "median_token" => "median token",
        "p95_token" => "95th percentile token",
        "p99_token" => "99th percentile token",
        "memory_peak" => "peak memory",
        "ceiling" if unit == "GB/s" => "read ceiling",
        "ceiling" => "share of the read ceiling",
        "start_to_ready" => "start to ready",
        "bytes_per_token" => "bytes per token",
        other => return (other.replace('_', " "), unit),
    };
    (plain.into(), unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn markup_control_characters_and_turned_text_show_as_what_they_are() {
        let t =
            html!("<p title=\"{}\">{}</p>", "a\"b'c", "<script>&\u{0}\u{1b}\u{202e}\u{85}\u{7f}</script>");
        assert_eq!(
            t.text(),
            "<p title=\"a&quot;b&#39;c\">&lt;script&gt;&amp;␀␛⟨U+202E⟩\u{fffd}␡&lt;/script&gt;</p>"
        );
        assert_eq!(html!("{}", Raw::of("<b>")).text(), "<b>");
    }

    proptest! {
        #[test]
        fn escaped_text_holds_no_markup_and_reads_back_as_it_was(s in "\\PC*") {
            let t = html!("{}", s);
            prop_assert!(!t.text().contains(['<', '>', '"', '\'']));
            let back = t.text().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&");
            if !s.contains(|c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')) {
                prop_assert_eq!(back, s);
            }
        }

        #[test]
        fn dates_follow_each_other_without_a_gap(day in 0u64..200_000) {
            let parts = |ms: u64| date(ms).split('-').map(|p| p.parse::<u64>().unwrap()).collect::<Vec<_>>();
            let (a, b) = (parts(day * 86_400_000), parts((day + 1) * 86_400_000));
            let leap = a[0].is_multiple_of(4) && (!a[0].is_multiple_of(100) || a[0].is_multiple_of(400));
            let long = [31, 28 + u64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][a[1] as usize - 1];
            let next = if a[2] < long { vec![a[0], a[1], a[2] + 1] } else if a[1] < 12 { vec![a[0], a[1] + 1, 1] } else { vec![a[0] + 1, 1, 1] };
            prop_assert_eq!(b, next);
        }
    }

    #[test]
    fn known_dates_are_right() {
        assert_eq!(utc(0), "1970-01-01 00:00");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00");
        assert_eq!(utc(1_795_178_096_000), "2026-11-20 12:34");
        assert_eq!(clock(1_795_178_096_000), "12:34:56");
    }

    #[test]
    fn figures_have_the_digits_they_deserve() {
        for (x, want) in [
            (0.0, "0"),
            (48.63, "48.6"),
            (486.31, "486"),
            (999.9, "1000"),
            (12_345.6, "12\u{202f}346"),
            (1.5, "1.50"),
            (0.123_45, "0.123"),
            (-0.000_01, "0.0000"),
            (-3.0, "−3.00"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(x), want, "{x}");
        }
        assert_eq!(interval(1.083_21, 1.061, 1.105), "1.083 (1.061–1.105)");
        assert_eq!(interval(1.000_21, 0.998_1, 1.002_3), "1.0002 (0.9981–1.0023)");
        assert_eq!(interval(2.78, 2.06, 3.21), "2.78 (2.06–3.21)");
        assert_eq!(
            (percent(0.512), percent(0.0123), percent(-0.05)),
            ("51 %".into(), "1.2 %".into(), "−5.0 %".into())
        );
        assert_eq!(
            (span(80.0), span(90_000.0), span(1.8e6)),
            ("80.0 ms".into(), "90.0 s".into(), "30 min".into())
        );
    }

    /// The literals that [`html!`] is given.
    fn literals(source: &str) -> Vec<&str> {
        let own = source.split("#[cfg(test)]").next().unwrap();
        let ends = |text: &str| {
            text.char_indices().find(|(i, c)| *c == '"' && !text[..*i].ends_with('\\')).unwrap().0
        };
        own.split("html!(")
            .skip(1)
            .filter_map(|rest| rest.trim_start().strip_prefix('"'))
            .map(|l| &l[..ends(l)])
            .collect()
    }

    #[test]
    fn no_argument_goes_past_the_escaping() {
        let named = |l: &str| l.match_indices('{').any(|(i, _)| !l[i + 1..].starts_with('}'));
        assert!(named("<b>{name}</b>") && named("{:?}"));
        let sources = [
            include_str!("experiment.rs"),
            include_str!("index.rs"),
            include_str!("page.rs"),
            include_str!("parts.rs"),
            include_str!("ratios.rs"),
            include_str!("rest.rs"),
            include_str!("strip.rs"),
            include_str!("svg.rs"),
        ];
        let all: Vec<&str> = sources.iter().flat_map(|s| literals(s)).collect();
        assert!(all.len() > 60, "{}", all.len());
        assert_eq!(all.iter().find(|l| named(l)), None);
        // The one other way to make HTML takes literals only.
        let built = sources.iter().map(|s| s.matches("Raw::built").count()).sum::<usize>();
        assert_eq!(built, 0);
    }
}
