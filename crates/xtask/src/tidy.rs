//! The invariants that a program can check (ARCHITECTURE.md, "Invariants"). Each check is a function from a
//! [`Tree`] to faults, so that a test can plant the fault it must find.

mod edges;
mod lex;
mod rooms;
mod sizes;
mod words;

use std::path::Path;

use anyhow::{Context, Result, bail};

/// A Rust file of the workspace: its path from the root with `/`, and its text.
pub struct File {
    path: String,
    text: String,
}

/// What the checks look at.
#[derive(Default)]
pub struct Tree {
    files: Vec<File>,
}

impl Tree {
    /// Reads the README and every `.rs` file under `crates/`.
    fn read(root: &Path) -> Result<Self> {
        let mut tree = Tree::default();
        tree.walk(root, &root.join("crates"))?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        let readme = root.join("README.md");
        let text = std::fs::read_to_string(&readme).with_context(|| format!("{}", readme.display()))?;
        tree.files.push(File { path: "README.md".into(), text });
        Ok(tree)
    }

    fn walk(&mut self, root: &Path, dir: &Path) -> Result<()> {
        for entry in std::fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                if path.file_name().is_none_or(|n| n != "target") {
                    self.walk(root, &path)?;
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
                let text = std::fs::read_to_string(&path).with_context(|| name.clone())?;
                self.files.push(File { path: name, text });
            }
        }
        Ok(())
    }

    fn find(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|f| f.path == path)
    }

    /// Rust sources of the crates, without their `tests/`, `benches/`, `examples/` and build scripts.
    fn sources(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|f| f.path.split('/').nth(2) == Some("src"))
    }

    #[cfg(test)]
    fn with(files: &[(&str, &str)]) -> Self {
        Tree { files: files.iter().map(|(p, t)| File { path: (*p).into(), text: (*t).into() }).collect() }
    }
}

impl File {
    /// The crate's folder name.
    fn crate_name(&self) -> &str {
        self.path.strip_prefix("crates/").and_then(|p| p.split('/').next()).unwrap_or("")
    }

    /// Lines before the file's test module.
    fn lines_before_tests(&self) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_tests = |i: usize| {
            lines[i].trim() == "#[cfg(test)]"
                && lines[i + 1..].iter().find(|l| !l.trim_start().starts_with("#[")).is_some_and(|l| {
                    let l = l.trim_start();
                    l.starts_with("mod ") && l.ends_with('{')
                })
        };
        (0..lines.len()).find(|&i| is_tests(i)).unwrap_or(lines.len())
    }

    /// The text before the file's test module.
    fn before_tests(&self) -> String {
        self.text.lines().take(self.lines_before_tests()).flat_map(|l| [l, "\n"]).collect()
    }
}

/// Runs every check; each fault is one line on stderr.
pub fn run(root: &Path) -> Result<()> {
    let tree = Tree::read(root)?;
    let mut faults = edges::check(&edges::metadata(root)?);
    faults.extend(rooms::check(&tree));
    faults.extend(sizes::check(&tree));
    faults.extend(words::check(&tree));
    faults.extend(stale_docs(root)?);
    for f in &faults {
        eprintln!("tidy: {f}");
    }
    if !faults.is_empty() {
        bail!("tidy found {} fault(s)", faults.len());
    }
    println!("tidy: {} files, all good", tree.files.len());
    Ok(())
}

fn stale_docs(root: &Path) -> Result<Vec<String>> {
    let stale = |(name, text): &(&str, String)| {
        let page = std::fs::read_to_string(root.join(name)).unwrap_or_default();
        is_stale(name, &page, text)
    };
    Ok(crate::docs::rendered(root)?.iter().filter_map(stale).collect())
}

fn is_stale(name: &str, page: &str, rendered: &str) -> Option<String> {
    (page != rendered).then(|| format!("{name} is not what its source says; run `cargo xtask docs`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_differs_from_its_source_is_a_fault() {
        assert!(is_stale("p.md", "| a |\n", "| b |\n").is_some());
        assert!(is_stale("p.md", "| a |\n", "| a |\n").is_none());
    }

    #[test]
    fn only_a_test_module_ends_the_counted_part() {
        let tree = Tree::with(&[(
            "crates/kv/src/a.rs",
            "#[cfg(test)]\nuse x;\nfn a() {}\n#[cfg(test)]\n#[allow(dead_code)]\nmod tests {\n}\n",
        )]);
        assert_eq!(tree.files[0].lines_before_tests(), 3);
        assert_eq!(tree.files[0].before_tests(), "#[cfg(test)]\nuse x;\nfn a() {}\n");
    }
}
