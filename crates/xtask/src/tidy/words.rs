//! Words that belong to few crates: `std::env` to cli and xtask, `unsafe` to kernels and os.

use super::{Tree, lex};

pub fn check(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for f in tree.files.iter().filter(|f| f.path.ends_with(".rs")) {
        let may_env = ["cli", "xtask"].contains(&f.crate_name()) || !tree.sources().any(|s| s.path == f.path);
        let may_unsafe = ["kernels", "os"].contains(&f.crate_name());
        let all = match lex::tokens(&f.text) {
            Ok(t) => t,
            Err(e) => {
                faults.push(format!("{}: {e}", f.path));
                continue;
            }
        };
        let tests_from = f.lines_before_tests();
        for (i, t) in all.iter().enumerate() {
            if !may_unsafe && t.text == "unsafe" {
                faults.push(format!("{}:{}: `unsafe` outside kernels and os", f.path, t.line));
            }
            if !may_env && t.line <= tests_from && t.text == "env" && from_std(&all[..i]) {
                faults.push(format!(
                    "{}:{}: `std::env` outside cli and xtask: hand the value in as a setting",
                    f.path, t.line
                ));
            }
        }
    }
    faults
}

/// Do these tokens end in `std::`, or in the open brace group of a `use std::{`?
fn from_std(before: &[lex::Tok]) -> bool {
    let text = |i: usize| before[i].text.as_str();
    let mut i = before.len();
    if i >= 2 && text(i - 1) == "::" {
        return text(i - 2) == "std";
    }
    let mut depth = 0;
    while i > 0 {
        i -= 1;
        match text(i) {
            ";" => return false,
            "}" => depth += 1,
            "{" if depth > 0 => depth -= 1,
            "{" => return i >= 2 && text(i - 1) == "::" && text(i - 2) == "std",
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> usize {
        check(&Tree::with(&[(path, text)])).len()
    }

    #[test]
    fn the_environment_is_read_in_cli_and_xtask_only() {
        for text in [
            "fn f() { std::env::var(\"X\"); }",
            "use std::{fs, env};",
            "use std::{io::{self, Read}, env::var};",
        ] {
            assert_eq!(faults("crates/kv/src/a.rs", text), 1, "{text}");
            assert_eq!(faults("crates/cli/src/a.rs", text), 0, "{text}");
            assert_eq!(faults("crates/kv/tests/a.rs", text), 0, "{text}");
        }
        for fine in [
            "// std::env\nconst A: &str = \"std::env\"; const B: &str = env!(\"CARGO_PKG_NAME\");",
            "use std::{fs, io}; fn f(env: u8) { g(env) }",
            "#[cfg(test)]\nmod tests {\n fn t() { std::env::var(\"X\"); }\n}",
        ] {
            assert_eq!(faults("crates/kv/src/a.rs", fine), 0, "{fine}");
        }
    }

    #[test]
    fn unsafe_lives_in_kernels_and_os_only() {
        let text = "fn f() { unsafe { g() } }";
        assert_eq!(faults("crates/kv/src/a.rs", text), 1);
        assert_eq!(faults("crates/kv/tests/a.rs", text), 1);
        assert_eq!(faults("crates/kernels/src/a.rs", text), 0);
        assert_eq!(faults("crates/kv/src/a.rs", "#![forbid(unsafe_code)] // unsafe\n"), 0);
    }
}
