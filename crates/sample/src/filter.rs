//! Which tokens stay: top-k, top-p, min-p, without sorting the vocabulary.
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

/// Keeps the `k` best.
pub(crate) fn top_k(list: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < list.len() {
        list.select_nth_unstable_by(k - 1, order);
        list.truncate(k);
    }
}

/// Terms below `max - FLOOR` weigh less than 2^-57 each and count as zero in every sum.
const FLOOR: f64 = 40.0;

/// Keeps the shortest run of best tokens whose probability reaches `p`. `max` is the largest logit.
///
/// The mass is summed in id order of the list as it came; the run is found by sorting only the tokens within a
/// widening distance of the best, which gives the run a full sort would.
pub(crate) fn top_p(list: &mut Vec<Candidate>, p: f64, max: f64) {
    if p >= 1.0 {
        return;
    }
    list.sort_unstable_by_key(|c| c.1);
    let weight = |c: &Candidate| if c.0 < max - FLOOR { 0.0 } else { libm::exp(c.0 - max) };
    let goal = p * list.iter().map(weight).sum::<f64>();
    for reach in [2.0, 6.0, 12.0, FLOOR, f64::INFINITY] {
        let mut near: Vec<Candidate> = list.iter().filter(|c| c.0 >= max - reach).copied().collect();
        near.sort_unstable_by(order);
        let mut mass = 0.0;
        let reached = near.iter().position(|c| {
            mass += weight(c);
            mass >= goal
        });
        if let Some(last) = reached {
            near.truncate(last + 1);
            *list = near;
            return;
        }
    }
}

/// Keeps tokens with at least `p` of the best token's probability.
pub(crate) fn min_p(list: &mut Vec<Candidate>, p: f64, max: f64) {
    if p > 0.0 {
        let floor = max + libm::log(p);
        list.retain(|c| c.0 >= floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        fn top_k_is_the_head_of_the_sorted_list(list in lists(), k in 0usize..400) {
            let mut got = list.clone();
            top_k(&mut got, k);
            let keep = if k == 0 { list.len() } else { k.min(list.len()) };
            prop_assert_eq!(sorted(got), &sorted(list)[..keep]);
        }

        #[test]
        fn top_p_is_the_shortest_sufficient_head(list in lists(), p in 0.01f64..1.0) {
            let max = max(&list);
            let mut got = list.clone();
            top_p(&mut got, p, max);
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
