//! Which tokens stay: top-nσ, top-k, typical, top-p, min-p, XTC; sorting the vocabulary only where typical has it whole.
//!
//! All work on logits already divided by the temperature; the order of candidates is (logit down, id up).

use std::cmp::Ordering;

use tamp_base::ids::Token;

/// A token that may still be chosen, with its tempered logit.
pub(crate) type Candidate = (f64, Token);

/// Larger logits first, lower ids first among equals. No NaN gets here.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The `k` best, in no order; all of them when `k` is 0.
///
/// Most of a vocabulary falls to the threshold that the best seen so far set, so nothing of its size is stored.
pub(crate) fn top_k(all: impl Iterator<Item = Candidate>, k: usize) -> Vec<Candidate> {
    if k == 0 {
        return all.collect();
    }
    let mut best: Vec<Candidate> = Vec::new();
    let mut floor = None;
    let room = k.saturating_mul(2).max(64);
    for c in all {
        if floor.is_some_and(|f| order(&c, &f).is_gt()) {
            continue;
        }
        best.push(c);
        if best.len() >= room && best.len() > k {
            best.select_nth_unstable_by(k - 1, order);
            best.truncate(k);
            floor = best.last().copied();
        }
    }
    if best.len() > k {
        best.select_nth_unstable_by(k - 1, order);
        best.truncate(k);
    }
    best
}

/// The shortest run of best tokens whose probability reaches `p`. `max` is the largest logit.
///
/// The mass is summed in the order given; the run is found by sorting only the tokens within a widening distance of
/// the best, which gives the run a full sort would.
pub(crate) fn top_p(all: impl Iterator<Item = Candidate> + Clone, p: f64, max: f64) -> Vec<Candidate> {
    if p >= 1.0 {
        return all.collect();
    }
    let goal = p * all.clone().map(|c| weight(c.0 - max)).sum::<f64>();
    for reach in [2.0, 6.0, 12.0, FLOOR] {
        let mut near: Vec<Candidate> = all.clone().filter(|c| c.0 >= max - reach).collect();
        near.sort_unstable_by(order);
        let mut mass = 0.0;
        let reached = near.iter().position(|c| {
            mass += weight(c.0 - max);
            mass >= goal
        });
        if let Some(last) = reached {
            near.truncate(last + 1);
            return near;
        }
    }
    // The two orders of summing differ by rounding: everything that weighs anything belongs to the run.
    all.filter(|c| c.0 >= max - FLOOR).collect()
}

/// Keeps tokens with at least `p` of the best token's probability.
pub(crate) fn min_p(list: &mut Vec<Candidate>, p: f64, max: f64) {
    if p > 0.0 {
        let floor = max + libm::log(p);
        list.retain(|c| c.0 >= floor);
    }
}

/// The lowest logit that stays: `n` standard deviations of the logits below the best. -inf where `n` is 0.
///
/// Ruled-out tokens (-inf) are none of the distribution.
pub(crate) fn sigma_floor(all: impl Iterator<Item = f64> + Clone, n: f64, max: f64) -> f64 {
    if n == 0.0 {
        return f64::NEG_INFINITY;
    }
    let finite = || all.clone().filter(|x| x.is_finite());
    let (mut count, mut sum) = (0.0f64, 0.0);
    finite().for_each(|x| (count, sum) = (count + 1.0, sum + x));
    let mean = sum / count.max(1.0);
    let squares: f64 = finite().map(|x| (x - mean) * (x - mean)).sum();
    max - n * libm::sqrt(squares / count.max(1.0))
}

/// The largest logit of a list.
pub(crate) fn best_of(list: &[Candidate]) -> f64 {
    list.iter().fold(f64::NEG_INFINITY, |m, c| m.max(c.0))
}

/// Keeps the tokens whose surprise is nearest to the entropy, as few as reach the probability `p`. Of equal distances the
/// likelier token comes first, then the lower id. Leaves the list in the order of ids.
pub(crate) fn typical(list: &mut Vec<Candidate>, p: f64) {
    if p >= 1.0 {
        return;
    }
    let max = best_of(list);
    let total: f64 = list.iter().map(|c| weight(c.0 - max)).sum();
    let log_total = libm::log(total);
    let surprise = |c: &Candidate| log_total - (c.0 - max);
    let entropy: f64 = list
        .iter()
        .map(|c| (weight(c.0 - max), c))
        .filter(|(w, _)| *w > 0.0)
        .map(|(w, c)| w / total * surprise(c))
        .sum();
    let mut near: Vec<(f64, Candidate)> = list
        .iter()
        .filter(|c| weight(c.0 - max) > 0.0)
        .map(|c| ((surprise(c) - entropy).abs(), *c))
        .collect();
    near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| order(&a.1, &b.1)));
    let mut mass = 0.0;
    let last = near.iter().position(|(_, c)| {
        mass += weight(c.0 - max);
        mass >= p * total
    });
    near.truncate(last.map_or(near.len(), |i| i + 1));
    *list = near.into_iter().map(|n| n.1).collect();
    list.sort_unstable_by_key(|c| c.1);
}

/// Leaves out every token with at least the probability `threshold` but the least likely of them (the highest id among
/// equals); nothing where fewer than two reach it.
pub(crate) fn exclude_top(list: &mut Vec<Candidate>, threshold: f64) {
    let max = best_of(list);
    let total: f64 = list.iter().map(|c| weight(c.0 - max)).sum();
    let reaches = |c: &Candidate| weight(c.0 - max) >= threshold * total && c.0 > f64::NEG_INFINITY;
    let Some(least) = list.iter().filter(|c| reaches(c)).copied().max_by(order) else { return };
    list.retain(|c| !reaches(c) || c.1 == least.1);
}

/// Logits this far below the best weigh less than 2^-57 of it each and count as nothing in every sum.
const FLOOR: f64 = 40.0;

/// `e^x` for `x` in `-FLOOR..=0`, 0 below; relative error under 1e-10. Multiplications and additions only, so it is the
/// same on every platform, and without a branch, so that the compiler may do several at once.
pub(crate) fn weight(x: f64) -> f64 {
    // Adding 1.5 · 2^52 rounds to a whole number, which then sits in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let x = x.min(0.0);
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * std::f64::consts::LN_2;
    // Taylor to r^9: |r| <= ln 2 / 2, the next term is below 7e-12.
    let mut y = 1.0 / 362_880.0;
    for c in [1.0 / 40_320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        y = y * r + c;
    }
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < -FLOOR { 0.0 } else { y * scale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_are_exponentials() {
        for i in 0..40_000 {
            let x = -f64::from(i) / 1000.0;
            assert!((weight(x) / x.exp() - 1.0).abs() < 1e-10, "{x}: {} {}", weight(x), x.exp());
        }
        assert_eq!((weight(0.0), weight(-40.1), weight(f64::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }

    fn lists() -> impl Strategy<Value = Vec<Candidate>> {
        // quarters: many ties
        prop::collection::vec(-200i32..200, 1..300)
            .prop_map(|v| v.iter().enumerate().map(|(i, &x)| (f64::from(x) / 4.0, i as Token)).collect())
    }

    fn sorted(mut v: Vec<Candidate>) -> Vec<Candidate> {
        v.sort_by(order);
        v
    }

    fn max(v: &[Candidate]) -> f64 {
        v.iter().fold(f64::NEG_INFINITY, |m, c| m.max(c.0))
    }

    proptest! {
        #[test]
        fn typical_keeps_the_shortest_run_of_least_distance(list in lists(), p in 0.01f64..1.0) {
            let max = max(&list);
            let mut got = list.clone();
            typical(&mut got, p);
            let total: f64 = list.iter().map(|c| (c.0 - max).exp()).sum();
            let prob = |c: &Candidate| (c.0 - max).exp() / total;
            let entropy: f64 = list.iter().map(|c| -prob(c) * prob(c).ln()).sum();
            let far = |c: &Candidate| (-prob(c).ln() - entropy).abs();
            let mass = |of: &[Candidate]| of.iter().map(prob).sum::<f64>();
            prop_assert!(mass(&got) >= p - 1e-9);
            // no token left out is nearer than one kept, and without the farthest the mass is short
            let worst = got.iter().copied().max_by(|a, b| far(a).total_cmp(&far(b))).unwrap();
            for c in list.iter().filter(|c| !got.contains(c)) {
                prop_assert!(far(c) >= far(&worst) - 1e-9);
            }
            prop_assert!(mass(&got) - prob(&worst) <= p + 1e-9);
            prop_assert!(got.is_sorted_by_key(|c| c.1));
        }

        #[test]
        fn xtc_leaves_one_of_the_likeliest(list in lists(), threshold in 0.0f64..0.5) {
            let max = max(&list);
            let total: f64 = list.iter().map(|c| (c.0 - max).exp()).sum();
            prop_assume!(list.iter().all(|c| ((c.0 - max).exp() / total - threshold).abs() > 1e-9));
            let mut got = list.clone();
            exclude_top(&mut got, threshold);
            let over = sorted(list.iter().copied().filter(|c| (c.0 - max).exp() / total >= threshold).collect());
            let keep = over.last().copied();
            let want: Vec<Candidate> =
                list.iter().copied().filter(|c| !over.contains(c) || Some(*c) == keep).collect();
            // With a threshold of almost nothing even weightless tokens count.
            if threshold > 1e-6 {
                prop_assert_eq!(got, want);
            }
        }

        #[test]
        fn top_n_sigma_keeps_by_distance_in_deviations(list in lists(), n in 0.1f64..4.0) {
            let max = max(&list);
            let masked = list.iter().map(|c| c.0).chain([f64::NEG_INFINITY; 3]);
            let floor = sigma_floor(masked, n, max);
            let count = list.len() as f64;
            let mean = list.iter().map(|c| c.0).sum::<f64>() / count;
            let sd = (list.iter().map(|c| (c.0 - mean).powi(2)).sum::<f64>() / count).sqrt();
            prop_assert!((floor - (max - n * sd)).abs() < 1e-9);
            prop_assert_eq!(sigma_floor(list.iter().map(|c| c.0), 0.0, max), f64::NEG_INFINITY);
        }

        #[test]
        fn top_k_is_the_head_of_the_sorted_list(list in lists(), k in 0usize..400) {
            let got = top_k(list.iter().copied(), k);
            let keep = if k == 0 { list.len() } else { k.min(list.len()) };
            prop_assert_eq!(sorted(got), &sorted(list)[..keep]);
        }

        #[test]
        fn top_p_is_the_shortest_sufficient_head(list in lists(), p in 0.01f64..1.0) {
            let max = max(&list);
            let got = top_p(list.iter().copied(), p, max);
            let all = sorted(list);
            let total: f64 = all.iter().map(|c| (c.0 - max).exp()).sum();
            let mass = |n: usize| all[..n].iter().map(|c| (c.0 - max).exp()).sum::<f64>() / total;
            let n = got.len();
            prop_assert_eq!(sorted(got), &all[..n]);
            prop_assert!(mass(n) >= p - 1e-9, "enough");
            prop_assert!(n == 1 || mass(n - 1) <= p + 1e-9, "not too much");
        }

        #[test]
        fn min_p_keeps_by_ratio_to_the_best(list in lists(), p in 0.0f64..1.0) {
            let max = max(&list);
            let mut got = list.clone();
            min_p(&mut got, p, max);
            for c in list {
                let ratio = (c.0 - max).exp();
                if (ratio - p).abs() > 1e-9 {
                    prop_assert_eq!(got.contains(&c), ratio >= p);
                }
            }
        }
    }
}
