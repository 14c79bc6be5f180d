//! Files stay small enough to be read.

use super::{Tree, rooms};

const FILE: usize = 500;
const CORE: &[(&str, usize)] = &[("crates/engine/src/step.rs", 120), ("crates/model/src/forward.rs", 100)];
/// What a newcomer reads, in order, before any one technique.
const READING: &[&str] = &[
    "README.md",
    "crates/engine/src/step.rs",
    "crates/model/src/forward.rs",
    "crates/model/src/mixer/attention.rs",
    "crates/kv/src/layer.rs",
];
const READING_TOTAL: usize = 600;

pub fn check(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for f in tree.sources() {
        let max = CORE.iter().find(|(p, _)| *p == f.path).map_or(FILE, |c| c.1);
        let n = f.lines_before_tests();
        if n > max {
            faults.push(format!("{}: {n} lines before tests, at most {max}", f.path));
        }
    }
    faults.extend(reading(tree));
    faults
}

fn reading(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    let mut total = 0;
    for path in READING {
        match tree.find(path) {
            Some(f) => total += f.lines_before_tests(),
            None => faults.push(format!("{path}: named by the reading order, and not there")),
        }
    }
    // The reader picks one technique; the order must fit with the shortest.
    total += rooms::technique_files(tree).map(|f| f.lines_before_tests()).min().unwrap_or(0);
    if total >= READING_TOTAL {
        faults.push(format!("the reading order has {total} lines, must stay under {READING_TOTAL}"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(step: usize, other: usize, layer: usize) -> Tree {
        let (step, other, layer) = ("//\n".repeat(step), "//\n".repeat(other), "//\n".repeat(layer));
        Tree::with(&[
            ("README.md", "# x\n"),
            (READING[1], step.as_str()),
            (READING[2], "//\n"),
            (READING[3], "//\n"),
            (READING[4], layer.as_str()),
            ("crates/os/src/big.rs", other.as_str()),
        ])
    }

    #[test]
    fn limits_bite_one_line_above_them_and_not_at_them() {
        assert_eq!(check(&tree(120, 500, 1)), Vec::<String>::new());
        assert!(check(&tree(121, 1, 1))[0].contains("step.rs: 121 lines before tests, at most 120"));
        assert!(check(&tree(1, 501, 1))[0].contains("big.rs: 501 lines"));
    }

    #[test]
    fn the_reading_order_is_complete_and_short() {
        assert!(check(&tree(100, 1, 497))[0].contains("the reading order has 600 lines"));
        assert_eq!(check(&tree(100, 1, 496)), Vec::<String>::new());
        assert!(check(&Tree::default()).len() == READING.len());
    }
}
