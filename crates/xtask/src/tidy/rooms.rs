//! The core says verbs, the rooms hold names: the files of the loop and the forward pass name no technique.

use std::collections::BTreeSet;

use super::{File, Tree, lex, lex::Tok};

const CORE: &[&str] = &["step.rs", "forward.rs", "block.rs", "attention.rs"];

/// Files that hold a technique: those with a `static …: Entry<…>`.
pub fn technique_files(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.sources().filter(|f| f.crate_name() != "base" && f.crate_name() != "xtask" && holds_entry(f))
}

fn holds_entry(f: &File) -> bool {
    let Ok(t) = lex::tokens(&f.before_tests()) else { return false };
    t.windows(3).any(|w| w[0].text == ":" && w[1].text == "Entry" && w[2].text == "<")
}

/// What the rooms are called and what is in them, read from the sources.
#[derive(Default)]
struct Names {
    rooms: BTreeSet<String>,
    cards: BTreeSet<String>,
    knobs: BTreeSet<String>,
    /// (parent module, module) of each technique's file
    modules: BTreeSet<(String, String)>,
}

fn names(tree: &Tree) -> Names {
    let mut names = Names::default();
    for f in tree.sources().filter(|f| !["base", "xtask"].contains(&f.crate_name())) {
        let Ok(t) = lex::tokens(&f.before_tests()) else { continue };
        for (i, w) in t.windows(3).enumerate() {
            if w[1].text != ":" || !w[2].is_str() {
                continue;
            }
            let value = w[2].text.trim_matches('"').to_string();
            match w[0].text.as_str() {
                "room" => names.rooms.insert(value),
                "name" if opened_by(&t[..i]) == "Card" => names.cards.insert(value),
                "name" if opened_by(&t[..i]) == "Knob" => names.knobs.insert(value),
                _ => false,
            };
        }
    }
    for f in technique_files(tree) {
        let parts: Vec<&str> = f.path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
        if let [.., parent, module] = parts.as_slice()
            && *parent != "src"
        {
            names.modules.insert(((*parent).into(), (*module).into()));
        }
    }
    names
}

/// The struct whose literal is open at the end of these tokens.
fn opened_by(before: &[Tok]) -> &str {
    let mut depth = 0;
    for i in (1..before.len()).rev() {
        match before[i].text.as_str() {
            "}" => depth += 1,
            "{" if depth > 0 => depth -= 1,
            "{" => return &before[i - 1].text,
            _ => {}
        }
    }
    ""
}

pub fn check(tree: &Tree) -> Vec<String> {
    let names = names(tree);
    let mut faults = Vec::new();
    for f in tree.sources().filter(|f| is_core(&f.path)) {
        for (i, line) in f.before_tests().lines().enumerate() {
            for id in card_ids(line, &names) {
                faults.push(format!("{}:{}: names `{id}`; the core says verbs only", f.path, i + 1));
            }
        }
        match lex::tokens(&f.before_tests()) {
            Ok(t) => faults.extend(core_tokens(f, &t, &names)),
            Err(e) => faults.push(format!("{}: {e}", f.path)),
        }
    }
    faults
}

fn is_core(path: &str) -> bool {
    (path.starts_with("crates/engine/") || path.starts_with("crates/model/"))
        && path.rsplit('/').next().is_some_and(|n| CORE.contains(&n))
}

/// Full card ids (`room.name`) in a line, comments included.
fn card_ids(line: &str, names: &Names) -> Vec<String> {
    let mut found = Vec::new();
    for room in &names.rooms {
        for (at, _) in line.match_indices(&format!("{room}.")) {
            let rest = &line[at + room.len() + 1..];
            let word: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
            // `self.policy.choose` is a field, not the id of a card.
            if names.cards.contains(&word) && !line[..at].ends_with('.') {
                found.push(format!("{room}.{word}"));
            }
        }
    }
    found
}

fn core_tokens(f: &File, t: &[Tok], names: &Names) -> Vec<String> {
    let mut faults = Vec::new();
    let text = |i: usize| t.get(i).map_or("", |t| t.text.as_str());
    for (i, tok) in t.iter().enumerate() {
        let at = format!("{}:{}", f.path, tok.line);
        for (parent, module) in &names.modules {
            let direct =
                tok.text == *module && text(i.wrapping_sub(1)) == "::" && text(i.wrapping_sub(2)) == parent;
            if direct || (tok.text == *module && in_group_of(&t[..i], parent)) {
                faults.push(format!("{at}: reaches into the technique `{parent}::{module}`"));
            }
        }
        if tok.is_str() {
            let word = tok.text.trim_matches('"');
            let compared =
                [text(i.wrapping_sub(1)), text(i + 1)].iter().any(|n| ["==", "!=", "=>", "|"].contains(n))
                    || text(i.wrapping_sub(1)) == "("
                        && ["eq", "ne", "starts_with", "ends_with", "contains"]
                            .contains(&text(i.wrapping_sub(2)));
            if compared {
                faults.push(format!("{at}: compares with {}; behaviour is chosen in the rooms", tok.text));
            } else if names.cards.contains(word) || names.knobs.contains(word) {
                faults.push(format!("{at}: names the card or knob {}", tok.text));
            }
        }
        let asks = ["used", "knob", "choice"].contains(&tok.text.as_str());
        if asks && text(i.wrapping_sub(1)) == "." && text(i + 1) == "(" {
            faults.push(format!(
                "{at}: asks the settings (`.{}`); that is done when the plan is made",
                tok.text
            ));
        }
    }
    faults
}

/// Is the end of these tokens inside `parent::{ … `?
fn in_group_of(before: &[Tok], parent: &str) -> bool {
    let mut depth = 0;
    for i in (0..before.len()).rev() {
        match before[i].text.as_str() {
            ";" => return false,
            "}" => depth += 1,
            "{" if depth > 0 => depth -= 1,
            "{" => return i >= 2 && before[i - 1].text == "::" && before[i - 2].text == parent,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUFFIX: &str = "pub static SUFFIX: Entry<dyn Proposer, Ctx> = Entry { card: Card { name: \"suffix\", \
        knobs: &[Knob { name: \"max\", about: \"\" }] }, open };";
    const TABLE: &str =
        "pub static TABLE: Table<dyn Proposer, Ctx> = Table { room: \"spec.propose\", rows: &[] };";

    fn faults(step: &str) -> Vec<String> {
        check(&Tree::with(&[
            ("crates/spec/src/propose/suffix.rs", SUFFIX),
            ("crates/spec/src/propose.rs", TABLE),
            ("crates/engine/src/step.rs", step),
        ]))
    }

    #[test]
    fn the_core_that_names_a_technique_is_found() {
        for (fault, says) in [
            ("use tamp_spec::propose::suffix::Suffix;", "reaches into the technique `propose::suffix`"),
            ("use tamp_spec::propose::{Proposer, suffix::Suffix};", "reaches into"),
            ("fn f() { tamp_spec::propose::suffix::go() }", "reaches into"),
            ("// as spec.propose.suffix does", "names `spec.propose.suffix`"),
            ("fn f() { if card.name == \"anything\" {} }", "compares with"),
            ("fn f() { match n { \"x\" => 1, _ => 2 } }", "compares with"),
            ("fn f() { n.starts_with(\"x\") }", "compares with"),
            ("const A: &str = \"suffix\";", "names the card or knob"),
            ("const A: &str = \"max\";", "names the card or knob"),
            ("fn f(k: &Knobs) { k.choice(WHICH) }", "asks the settings"),
        ] {
            let found = faults(fault);
            assert!(found.iter().any(|f| f.contains(says)), "{fault}: {found:?}");
        }
    }

    #[test]
    fn the_core_that_says_verbs_is_fine() {
        let fine = "use tamp_spec::propose::Proposer;\n// guess, then check\nfn step() { self.proposer.propose(&turn)\
            .expect_or(\"the pool is broken\"); let max = 3; suffix(max); }";
        assert_eq!(faults(fine), Vec::<String>::new());
        // Tests of the core may name whom they test with.
        assert!(faults("fn f() {}\n#[cfg(test)]\nmod tests {\n // spec.propose.suffix\n}").is_empty());
    }

    #[test]
    fn names_are_read_from_the_sources() {
        let tree = Tree::with(&[
            ("crates/spec/src/propose/suffix.rs", SUFFIX),
            ("crates/spec/src/propose.rs", TABLE),
        ]);
        let n = names(&tree);
        assert!(n.rooms.contains("spec.propose") && n.cards.contains("suffix") && n.knobs.contains("max"));
        assert_eq!(technique_files(&tree).count(), 1);
    }
}
