//! What the output of the candidate still is: the same tokens, nearly the same, or at least a text that has not
//! collapsed into repetition. Every arm is also rolled out on pinned prompts before anything counts, and those texts are
//! shown to the reader of a verdict.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use tamp_base::record::RequestRun;

pub mod bounds;

use self::bounds::{Bounds, Held};
use crate::check::Pair;
use crate::record::RunRecord;
use crate::spec::{Class, Quality};

/// Longest run of one token that ordinary text has: code indents and rules of dashes stay below it.
pub(crate) const RUN: usize = 16;
/// Share of a horizon that may lie inside cycles, and of its most frequent 8-gram.
const CYCLES: f64 = 0.5;
const GRAM: f64 = 0.25;
/// Tokens below which repetition says nothing.
const SHORT: usize = 24;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// the class that was demanded
    pub class: Class,
    /// requests compared
    pub requests: usize,
    /// of these with other tokens than the control's
    pub flips: usize,
    /// shortest common beginning, as share of the control's tokens
    pub min_prefix: f64,
    /// first difference: prompt and token index
    pub first: Option<(String, usize)>,
    /// the worst candidate text by repetition
    pub degeneration: Degeneration,
    /// the control degenerates as much, so that it is the model's own
    pub control_too: bool,
    /// prompt → control's and candidate's text, cut to a screenful
    pub texts: BTreeMap<String, [String; 2]>,
    /// why it fails
    pub fails: Option<String>,
    /// the bounds beyond tokens, where the spec declares any
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
}

impl Report {
    /// Why a bound that was declared is not known: it could not be measured.
    pub fn missing(&self) -> Option<String> {
        self.bounds.as_ref()?.missing.clone()
    }

    /// Why a bound cannot be said to hold: what was asked is too little to tell.
    pub fn unresolved(&self) -> Option<String> {
        self.bounds.as_ref()?.first(Held::Unresolved)
    }
}

/// Signs of a text that repeats itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Degeneration {
    /// longest run of one token
    pub longest_run: usize,
    /// share of the text inside the longest stretch that repeats with one period, periods up to half the horizon
    pub cycle_share: f64,
    /// share of 8-grams that are the most frequent one
    pub gram_share: f64,
    /// tokens before the longest such stretch begins
    pub coherent_prefix: usize,
    /// tokens looked at
    pub tokens: usize,
}

impl Degeneration {
    /// Looks at one answer.
    pub fn of(tokens: &[u32]) -> Degeneration {
        let n = tokens.len();
        let mut run = usize::from(n > 0);
        let mut longest_run = run;
        for w in tokens.windows(2) {
            run = if w[0] == w[1] { run + 1 } else { 1 };
            longest_run = longest_run.max(run);
        }
        // A stretch that repeats with period p: tokens[i] == tokens[i + p] all along it, and at least twice p long.
        let (mut stretch, mut begins) = (0, n);
        for p in 1..=n / 2 {
            let mut len = 0;
            for i in 0..n - p {
                len = if tokens[i] == tokens[i + p] { len + 1 } else { 0 };
                if len >= p && len + p > stretch {
                    (stretch, begins) = (len + p, i + 1 - len);
                }
            }
        }
        let mut grams: HashMap<&[u32], usize> = HashMap::new();
        for g in tokens.windows(8) {
            *grams.entry(g).or_default() += 1;
        }
        let most = grams.values().copied().max().unwrap_or(0);
        Degeneration {
            longest_run,
            cycle_share: if n > 0 { stretch as f64 / n as f64 } else { 0.0 },
            gram_share: if most > 1 { most as f64 / (n - 7) as f64 } else { 0.0 },
            coherent_prefix: begins,
            tokens: n,
        }
    }

    /// Why it counts as collapsed.
    pub fn bad(&self, max_run: usize) -> Option<String> {
        if self.tokens < SHORT {
            return None;
        }
        if self.longest_run > max_run {
            return Some(format!("one token {} times in a row", self.longest_run));
        }
        if self.cycle_share > CYCLES {
            return Some(format!("{:.0} % of the text is one cycle", 100.0 * self.cycle_share));
        }
        (self.gram_share > GRAM)
            .then(|| format!("one 8-gram makes up {:.0} % of the text", 100.0 * self.gram_share))
    }
}

/// The first answer to each (prompt, place in the process).
fn answers<'a>(records: &[&'a RunRecord]) -> BTreeMap<(String, usize), &'a RequestRun> {
    let mut out = BTreeMap::new();
    for s in records.iter().filter_map(|r| r.sample()) {
        for (i, q) in s.requests.iter().enumerate() {
            out.entry((q.prompt.clone(), i)).or_insert(q);
        }
    }
    out
}

/// Requests of one arm that did not all give the same tokens: an arm must agree with itself before it is compared.
fn wavers(records: &[&RunRecord]) -> Option<String> {
    let first = answers(records);
    for s in records.iter().filter_map(|r| r.sample()) {
        for (i, q) in s.requests.iter().enumerate() {
            if first.get(&(q.prompt.clone(), i)).is_some_and(|f| f.tokens != q.tokens) {
                return Some(q.prompt.clone());
            }
        }
    }
    None
}

/// Compares the arms. `rollouts` are the scouts' records, the counted ones come with `pair`.
pub fn judge(quality: &Quality, pair: Pair<'_>, rollouts: Pair<'_>) -> Report {
    let mut r = Report { class: quality.class, min_prefix: 1.0, ..Report::default() };
    let max_run = quality.max_run.unwrap_or(RUN);
    let mut worst_control: Option<String> = None;
    let mut worst: Option<String> = None;
    for (control, candidate) in [(pair.control, pair.candidate), (rollouts.control, rollouts.candidate)] {
        let theirs = answers(candidate);
        for (key, a) in answers(control) {
            let Some(b) = theirs.get(&key) else { continue };
            r.requests += 1;
            let same = a.tokens.iter().zip(&b.tokens).take_while(|(x, y)| x == y).count();
            let prefix = if a.tokens.is_empty() { 1.0 } else { same as f64 / a.tokens.len() as f64 };
            // An engine that tells no tokens is compared by text.
            let equal = if a.tokens.is_empty() || b.tokens.is_empty() {
                a.text == b.text
            } else {
                a.tokens == b.tokens
            };
            if !equal {
                r.flips += 1;
                r.first.get_or_insert((key.0.clone(), same));
                r.min_prefix = r.min_prefix.min(prefix);
            }
            let d = Degeneration::of(&b.tokens);
            if d.cycle_share >= r.degeneration.cycle_share {
                r.degeneration = d;
            }
            worst = worst.or(d.bad(max_run));
            worst_control = worst_control.or(Degeneration::of(&a.tokens).bad(max_run));
            let cut = |s: &str| s.chars().take(400).collect::<String>();
            r.texts.entry(key.0).or_insert([cut(&a.text), cut(&b.text)]);
        }
    }
    r.control_too = worst_control.is_some();
    let unsteady = wavers(pair.control)
        .map(|p| ("control", p))
        .or_else(|| wavers(pair.candidate).map(|p| ("candidate", p)));
    r.fails = if let (Some((arm, prompt)), true) = (unsteady, quality.class == Class::Exact) {
        Some(format!("the {arm} gave different tokens to {prompt:?} in different processes"))
    } else if r.requests == 0 {
        Some("no request of both arms could be compared".into())
    } else if quality.class == Class::Exact && r.flips > 0 {
        let (prompt, at) = r.first.clone().unwrap_or_default();
        Some(format!(
            "{} of {} requests gave other tokens, first at token {at} of {prompt:?}",
            r.flips, r.requests
        ))
    } else if quality.class == Class::NearExact
        && r.flips as f64 / r.requests as f64 > quality.max_flips.unwrap_or(0.1)
    {
        let most = quality.max_flips.unwrap_or(0.1);
        Some(format!(
            "{} of {} requests gave other tokens; {:.0} % are allowed",
            r.flips,
            r.requests,
            100.0 * most
        ))
    } else if quality.min_prefix.is_some_and(|m| r.min_prefix < m) {
        Some(format!("an answer follows the control for {:.0} % of its tokens only", 100.0 * r.min_prefix))
    } else if let (Some(why), false) = (worst, r.control_too) {
        Some(format!("an answer of the candidate has collapsed and the control's has not: {why}"))
    } else {
        None
    };
    r.bounds = bounds::measure(quality, rollouts);
    r.fails = r.fails.or_else(|| r.bounds.as_ref()?.first(Held::Outside));
    r
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;
    use proptest::prelude::*;

    fn lively(n: usize) -> Vec<u32> {
        (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 7).collect()
    }

    fn answered(arm: &str, tokens: Vec<u32>) -> RunRecord {
        let mut r = record(arm, 0, 0, 1.0);
        r.samples[0].requests[0].tokens = tokens;
        r
    }

    fn report(q: &Quality, a: Vec<u32>, b: Vec<u32>) -> Report {
        let (a, b) = (answered("control", a), answered("candidate", b));
        judge(q, Pair { control: &[&a], candidate: &[&b] }, Pair { control: &[], candidate: &[] })
    }

    #[test]
    fn exact_takes_no_other_token_and_names_the_first() {
        let q = Quality::default();
        assert!(report(&q, lively(40), lively(40)).fails.is_none());
        let mut other = lively(40);
        other[17] ^= 1;
        let r = report(&q, lively(40), other);
        assert!(r.fails.unwrap().contains("token 17") && r.flips == 1);
        assert!(report(&q, lively(40), lively(39)).fails.is_some());
    }

    #[test]
    fn an_arm_that_disagrees_with_itself_is_not_exact() {
        let (a, b, c) = (answered("control", lively(9)), answered("x", lively(9)), answered("x", lively(8)));
        let none = Pair { control: &[], candidate: &[] };
        let r = judge(&Quality::default(), Pair { control: &[&a], candidate: &[&b, &c] }, none);
        assert!(r.fails.unwrap().contains("different processes"));
    }

    #[test]
    fn near_exact_allows_a_share_and_a_prefix() {
        let q = Quality {
            class: Class::NearExact,
            max_flips: Some(1.0),
            min_prefix: Some(0.5),
            ..Quality::default()
        };
        let change = |at: usize| {
            let mut t = lively(40);
            t[at] ^= 1;
            t
        };
        assert!(report(&q, lively(40), change(30)).fails.is_none());
        assert!(report(&q, lively(40), change(5)).fails.unwrap().contains("12 %"));
        let strict = Quality { max_flips: Some(0.5), ..q };
        assert!(report(&strict, lively(40), change(30)).fails.unwrap().contains("50 %"));
    }

    #[test]
    fn a_collapsed_answer_fails_unless_the_control_collapses_too() {
        let q = Quality { class: Class::Approximate, ..Quality::default() };
        let icy: Vec<u32> = [7, 8].repeat(20);
        assert!(report(&q, lively(40), icy.clone()).fails.unwrap().contains("collapsed"));
        assert!(report(&q, icy.clone(), icy.clone()).fails.is_none());
        assert!(report(&q, lively(40), vec![9; 40]).fails.unwrap().contains("in a row"));
        assert!(report(&q, lively(40), lively(41)).fails.is_none());
        let mut late = lively(25);
        late.extend([7, 8, 9].repeat(5));
        assert_eq!(Degeneration::of(&late).coherent_prefix, 25);
        assert!(Degeneration::of(&late).bad(RUN).is_none());
    }

    #[test]
    fn cycles_are_found_up_to_half_the_horizon() {
        let phrase = lively(32);
        let d = Degeneration::of(&[phrase.clone(), phrase].concat());
        assert_eq!((d.cycle_share, d.coherent_prefix), (1.0, 0));
    }

    proptest! {
        #[test]
        fn the_cycle_share_is_the_longest_periodic_stretch(tokens in prop::collection::vec(0u32..3, 0..24)) {
            let n = tokens.len();
            let mut longest = 0;
            for from in 0..n {
                for to in from + 2..=n {
                    let part = &tokens[from..to];
                    let periodic = |p: usize| 2 * p <= part.len() && (p..part.len()).all(|i| part[i] == part[i - p]);
                    if (1..=part.len() / 2).any(periodic) {
                        longest = longest.max(part.len());
                    }
                }
            }
            let got = (Degeneration::of(&tokens).cycle_share * n as f64).round() as usize;
            prop_assert_eq!(got, longest);
        }
    }
}
