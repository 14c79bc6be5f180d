//! Small drawings by hand: scales, ticks, places for labels, and the element itself. A drawing has a title and a
//! description for readers who do not see it, and no text that lies on other text.

use super::text::{Px, Raw, html};

/// Width that a character of the labels' size takes at most, in pixels of the drawing.
const CHAR: f64 = 6.7;

/// How wide a label is, generously.
pub fn width(label: &str) -> f64 {
    label.chars().count() as f64 * CHAR
}

/// From values to places.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    from: [f64; 2],
    to: [f64; 2],
    log: bool,
}

impl Scale {
    /// Even steps. A range without width gets one, so that its only value lies in the middle.
    pub fn linear(lo: f64, hi: f64, to: [f64; 2]) -> Scale {
        let (lo, hi) = if lo.is_finite() && hi.is_finite() { (lo.min(hi), lo.max(hi)) } else { (0.0, 1.0) };
        let pad = if hi - lo > 1e-12 * hi.abs().max(1e-12) { 0.0 } else { (0.05 * hi.abs()).max(1e-6) };
        Scale { from: [lo - pad, hi + pad], to, log: false }
    }

    /// Even ratios; both ends above 0.
    pub fn ratios(lo: f64, hi: f64, to: [f64; 2]) -> Scale {
        let ok = |x: f64| if x.is_finite() && x > 0.0 { x.ln() } else { 0.0 };
        Scale { log: true, ..Scale::linear(ok(lo), ok(hi), to) }
    }

    /// Where a value lies; beyond the range it lies on the edge.
    pub fn at(&self, value: f64) -> f64 {
        let v = if self.log { value.ln() } else { value };
        let share = (v - self.from[0]) / (self.from[1] - self.from[0]);
        let share = if share.is_nan() { 0.5 } else { share.clamp(0.0, 1.0) };
        self.to[0] + share * (self.to[1] - self.to[0])
    }

    /// Whether a value is beyond the range.
    pub fn beyond(&self, value: f64) -> bool {
        let v = if self.log { value.ln() } else { value };
        !(self.from[0]..=self.from[1]).contains(&v)
    }

    /// The ends of the range.
    pub fn ends(&self) -> [f64; 2] {
        if self.log { self.from.map(f64::exp) } else { self.from }
    }

    /// Round values inside the range, about `most` of them and never more than twice that.
    pub fn ticks(&self, most: usize) -> Vec<f64> {
        let [lo, hi] = self.ends();
        // Over a wide range of ratios, round values are those of a slide rule.
        if self.log && hi / lo > 5.0 {
            let all: Vec<f64> = (-9..=9).flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(e))).collect();
            let inside: Vec<f64> = all.into_iter().filter(|t| (lo..=hi).contains(t)).collect();
            let step = inside.len().div_ceil((2 * most).max(1)).max(1);
            return inside.into_iter().step_by(step).collect();
        }
        let raw = (hi - lo) / most.max(1) as f64;
        let unit = 10f64.powf(raw.log10().floor());
        let step =
            [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|m| m * unit).find(|s| *s >= raw).unwrap_or(10.0 * unit);
        let first = (lo / step).ceil();
        (0..=2 * most).map(|i| (first + i as f64) * step).filter(|t| *t <= hi + 1e-9 * step).collect()
    }
}

/// Labels of ticks, with the same digits on all of them.
pub fn tick_labels(ticks: &[f64]) -> Vec<String> {
    let exact = |d: usize| {
        ticks
            .iter()
            .all(|t| (format!("{t:.d$}").parse::<f64>().unwrap_or(*t) - t).abs() <= 1e-6 * t.abs().max(1e-3))
    };
    let digits = (0..=5).find(|d| exact(*d)).unwrap_or(5);
    ticks.iter().map(|t| format!("{t:.digits$}")).collect()
}

/// Moves centres apart until neighbours are `gap` apart and all lie in `lo..=hi`, as far as there is room; the order
/// stays.
pub fn spread(at: &mut [f64], gap: f64, lo: f64, hi: f64) {
    let mut order: Vec<usize> = (0..at.len()).collect();
    order.sort_by(|a, b| at[*a].total_cmp(&at[*b]));
    let mut least = lo;
    for &i in &order {
        at[i] = at[i].max(least);
        least = at[i] + gap;
    }
    let mut most = hi;
    for &i in order.iter().rev() {
        at[i] = at[i].min(most);
        most = at[i] - gap;
    }
}

/// A line for each label so that none overlaps another of its line: `(left, right)` of each, lines from 0.
pub fn lines(spans: &[(f64, f64)]) -> Vec<usize> {
    let mut taken: Vec<Vec<(f64, f64)>> = Vec::new();
    spans
        .iter()
        .map(|&(l, r)| {
            let free = |row: &Vec<(f64, f64)>| row.iter().all(|&(a, b)| r + 6.0 < a || b + 6.0 < l);
            let row = taken.iter().position(free).unwrap_or_else(|| {
                taken.push(Vec::new());
                taken.len() - 1
            });
            taken[row].push((l, r));
            row
        })
        .collect()
}

/// Left edge of a label centred on `x` and kept inside `lo..=hi`.
pub fn fit(x: f64, label: &str, lo: f64, hi: f64) -> f64 {
    let w = width(label);
    (x - w / 2.0).min(hi - w).max(lo)
}

/// A drawing.
pub struct Svg {
    id: String,
    width: f64,
    body: Raw,
}

impl Svg {
    /// An empty one; `id` is unique on the page.
    pub fn new(id: String, width: f64) -> Svg {
        Svg { id, width, body: Raw::new() }
    }

    /// Adds an element.
    pub fn put(&mut self, part: Raw) {
        self.body.add(part);
    }

    /// A line.
    pub fn line(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        let [a, b, c, d] = [from[0], from[1], to[0], to[1]].map(Px);
        self.put(html!("<path class=\"{}\" d=\"M{} {}L{} {}\"/>", class, a, b, c, d));
    }

    /// A box.
    pub fn rect(&mut self, class: &str, at: [f64; 2], size: [f64; 2]) {
        let [x, y, w, h] = [at[0], at[1], size[0].max(0.0), size[1].max(0.0)].map(Px);
        self.put(html!(
            "<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>",
            class,
            x,
            y,
            w,
            h
        ));
    }

    /// Words; `class` says size and anchor (`end`, `mid`, else from the left).
    pub fn text(&mut self, class: &str, at: [f64; 2], words: &str) {
        self.put(html!("<text class=\"{}\" x=\"{}\" y=\"{}\">{}</text>", class, Px(at[0]), Px(at[1]), words));
    }

    /// A mark of an arm: colour and shape both tell which. `said` is shown by a pointer that rests on it.
    pub fn mark(&mut self, arm: usize, void: bool, at: [f64; 2], said: &str) {
        let place = shape(arm, at);
        let class = format!("m a{}{}", arm % 6, if void { " off" } else { "" });
        if said.is_empty() {
            self.put(html!("<path class=\"{}\" d=\"{}\"/>", class, place));
        } else {
            self.put(html!("<path class=\"{}\" d=\"{}\"><title>{}</title></path>", class, place, said));
        }
    }

    /// A ring around a mark that stands outside the blocks.
    pub fn mark_ring(&mut self, [x, y]: [f64; 2]) {
        self.put(html!("<circle class=\"ring\" cx=\"{}\" cy=\"{}\" r=\"7.5\"/>", Px(x), Px(y)));
    }

    /// How wide it is.
    pub fn width(&self) -> f64 {
        self.width
    }

    /// The element, of this height.
    pub fn done(self, class: &str, height: f64, title: &str, description: &str) -> Raw {
        let (t, d) = (format!("{}-t", self.id), format!("{}-d", self.id));
        html!(
            "<svg class=\"{}\" viewBox=\"0 0 {} {}\" width=\"{}\" height=\"{}\" role=\"img\" aria-labelledby=\"{} {}\"><title id=\"{}\">{}</title><desc id=\"{}\">{}</desc>{}</svg>\n",
            class,
            Px(self.width),
            Px(height),
            Px(self.width),
            Px(height),
            t,
            d,
            t,
            title,
            d,
            description,
            self.body
        )
    }
}

/// The outline of an arm's mark: circle, diamond, triangle, square, triangle on its tip, cross.
pub fn shape(arm: usize, [x, y]: [f64; 2]) -> Raw {
    match arm % 6 {
        0 => html!("M{} {}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", Px(x - 4.0), Px(y)),
        1 => html!("M{} {}l5 5l-5 5l-5 -5z", Px(x), Px(y - 5.0)),
        2 => html!("M{} {}l5 8.6h-10z", Px(x), Px(y - 5.4)),
        3 => html!("M{} {}h7.4v7.4h-7.4z", Px(x - 3.7), Px(y - 3.7)),
        4 => html!("M{} {}l5 -8.6h-10z", Px(x), Px(y + 5.4)),
        _ => html!("M{} {}h3v3h3v3h-3v3h-3v-3h-3v-3h3z", Px(x - 1.5), Px(y - 4.5)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ticks_are_inside_in_order_and_few(lo in -1e6f64..1e6, d in 1e-3f64..1e6, most in 2usize..9) {
            let s = Scale::linear(lo, lo + d, [0.0, 100.0]);
            let t = s.ticks(most);
            prop_assert!(!t.is_empty() && t.len() <= most + 2, "{t:?}");
            prop_assert!(t.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(t.iter().all(|v| *v >= lo - 1e-6 * d && *v <= lo + d * 1.000_001), "{t:?}");
        }

        #[test]
        fn ticks_of_ratios_are_inside_and_few(lo in 0.01f64..1.0, f in 1.001f64..1e4) {
            let s = Scale::ratios(lo, lo * f, [0.0, 100.0]);
            let t = s.ticks(5);
            prop_assert!(t.len() <= 11 && t.iter().all(|v| *v >= lo * 0.999_999 && *v <= lo * f * 1.000_001), "{t:?}");
        }

        #[test]
        fn a_place_is_always_inside_the_drawing(lo in prop::num::f64::ANY, hi in prop::num::f64::ANY, v in prop::num::f64::ANY) {
            for s in [Scale::linear(lo, hi, [10.0, 90.0]), Scale::ratios(lo, hi, [10.0, 90.0])] {
                prop_assert!((10.0..=90.0).contains(&s.at(v)), "{s:?} {v}");
            }
        }

        #[test]
        fn spread_labels_do_not_overlap_and_keep_their_order(mut at in prop::collection::vec(0f64..100.0, 0..6)) {
            let before = at.clone();
            spread(&mut at, 14.0, 0.0, 100.0);
            for i in 0..at.len() {
                prop_assert!((-1e-9..=100.0 + 1e-9).contains(&at[i]));
                for j in 0..i {
                    prop_assert!((at[i] - at[j]).abs() >= 14.0 - 1e-9, "{at:?}");
                    if before[i] < before[j] { prop_assert!(at[i] < at[j]); }
                }
            }
        }

        #[test]
        fn labels_of_one_line_do_not_overlap(spans in prop::collection::vec((0f64..300.0, 10f64..90.0), 0..12)) {
            let spans: Vec<(f64, f64)> = spans.into_iter().map(|(l, w)| (l, l + w)).collect();
            let rows = lines(&spans);
            for i in 0..spans.len() {
                for j in 0..i {
                    prop_assert!(rows[i] != rows[j] || spans[i].1 < spans[j].0 || spans[j].1 < spans[i].0);
                }
            }
        }
    }

    #[test]
    fn tick_labels_have_equal_digits_and_say_the_value() {
        assert_eq!(tick_labels(&[0.95, 1.0, 1.05]), ["0.95", "1.00", "1.05"]);
        assert_eq!(tick_labels(&[100.0, 150.0]), ["100", "150"]);
        assert_eq!(tick_labels(&[0.1, 0.2, 0.5, 1.0]), ["0.1", "0.2", "0.5", "1.0"]);
    }
}
