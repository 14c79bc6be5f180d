//! Randomised, counterbalanced orders. The order of a block follows from (arms, seed, block) alone, so a run can be
//! resumed, prolonged, or have a disturbed block replaced by a later one.

use serde::{Deserialize, Serialize};

use super::Slot;
use super::rng::Rng;

/// One process of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// the control, before everything
    Opening,
    /// a sample of a block
    Slot(Slot),
    /// the control, after everything
    Closing,
}

/// Blocks after which every order has been used equally often: 2 of two arms (ABBA and BAAB), k of k arms.
pub fn round(arms: usize) -> usize {
    if arms == 2 { 2 } else { arms.max(1) }
}

/// Control–candidate pairs in one block.
pub fn pairs_per_block(arms: usize) -> usize {
    match arms {
        0 | 1 => 0,
        2 => 2,
        _ => 1,
    }
}

/// Arms of block `block` in the order they run. Two arms: ABBA or BAAB, a coin deciding which of the two comes first in
/// blocks 2i and 2i + 1. More arms: rows of Latin squares, each square with its rows, columns and arms shuffled, so that
/// within a square every arm stands once at every position.
pub fn block_order(arms: usize, seed: u64, block: usize) -> Vec<usize> {
    let (square, row) = (block / round(arms), block % round(arms));
    let mut rng = Rng::keyed(seed, square as u64);
    if arms == 2 {
        let control_first = (row == 0) == (rng.bits() >> 63 == 0);
        return if control_first { vec![0, 1, 1, 0] } else { vec![1, 0, 0, 1] };
    }
    let mut shuffled = || {
        let mut v: Vec<usize> = (0..arms).collect();
        rng.shuffle(&mut v);
        v
    };
    let (rows, columns, names) = (shuffled(), shuffled(), shuffled());
    let Some(&row) = rows.get(row) else { return Vec::new() };
    columns.iter().map(|c| names[(row + c) % arms]).collect()
}

/// The slots of blocks `0..blocks`, in the order they run.
pub fn order(arms: usize, blocks: usize, seed: u64) -> Vec<Slot> {
    (0..blocks)
        .flat_map(|block| {
            block_order(arms, seed, block).into_iter().enumerate().map(move |(position, arm)| Slot {
                block,
                position,
                arm,
            })
        })
        .collect()
}

/// [`order`] with the opening and the closing control around it.
pub fn steps(arms: usize, blocks: usize, seed: u64) -> Vec<Step> {
    std::iter::once(Step::Opening)
        .chain(order(arms, blocks, seed).into_iter().map(Step::Slot))
        .chain(std::iter::once(Step::Closing))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_round_gives_every_arm_every_position_equally_often(arms in 1usize..7, seed: u64, first in 0usize..50) {
            let n = round(arms);
            let mut seen = std::collections::BTreeMap::new();
            for block in first * n..(first + 1) * n {
                for (position, arm) in block_order(arms, seed, block).into_iter().enumerate() {
                    *seen.entry((position, arm)).or_insert(0usize) += 1;
                }
            }
            let positions = block_order(arms, seed, 0).len();
            prop_assert_eq!(seen.len(), positions * arms);
            prop_assert!(seen.values().all(|&k| k == 1));
        }

        #[test]
        fn a_prolonged_run_keeps_its_first_blocks(arms in 1usize..7, seed: u64, short in 0usize..20, more in 0usize..20) {
            let long = order(arms, short + more, seed);
            let first: Vec<_> = long.into_iter().filter(|s| s.block < short).collect();
            prop_assert_eq!(first, order(arms, short, seed));
        }

        #[test]
        fn a_line_of_time_costs_both_arms_the_same(seed: u64, block in 0usize..1000) {
            let o = block_order(2, seed, block);
            let at = |arm| o.iter().enumerate().filter(|&(_, &a)| a == arm).map(|(i, _)| i).sum::<usize>();
            prop_assert_eq!(at(0), at(1));
        }
    }

    #[test]
    fn the_order_is_drawn_not_fixed() {
        let first: Vec<usize> = (0..400).map(|seed| block_order(2, seed, 0)[0]).collect();
        let ones = first.iter().sum::<usize>();
        // ±5 standard errors of a fair coin
        assert!((150..=250).contains(&ones), "{ones} of 400 begin with the candidate");
        let squares: std::collections::BTreeSet<_> = (0..200).map(|s| block_order(3, s, 0)).collect();
        assert_eq!(squares.len(), 6);
    }

    #[test]
    fn a_control_opens_and_closes_the_whole() {
        let s = steps(2, 3, 1);
        assert_eq!(s.len(), 2 + 3 * 4);
        assert_eq!((s[0], s[13]), (Step::Opening, Step::Closing));
        assert_eq!(steps(0, 3, 1), [Step::Opening, Step::Closing]);
    }
}
