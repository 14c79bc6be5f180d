//! Crate edges equal the table; this table is the law.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Crate → the crates it may and must depend on. `cli` and `xtask` may use any.
const LAW: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("os", &["base"]),
    ("formats", &["base"]),
    ("text", &["base"]),
    ("kernels", &["formats", "os", "base"]),
    ("weights", &["formats", "os", "base"]),
    ("kv", &["kernels", "formats", "os", "base"]),
    ("model", &["kv", "kernels", "weights", "formats", "base"]),
    ("sample", &["text", "base"]),
    ("spec", &["sample", "model", "kv", "text", "base"]),
    ("engine", &["spec", "sample", "model", "kv", "weights", "text", "os", "base"]),
    ("server", &["engine", "text", "base"]),
    ("bench", &["engine", "model", "kernels", "formats", "text", "base"]),
    ("lab", &["base"]),
];
const ANY: &[&str] = &["cli", "xtask"];

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Edges between the workspace's crates, by short name.
#[derive(Default)]
pub struct Graph {
    normal: Edges,
    dev: Edges,
}

/// Asks cargo.
pub fn metadata(root: &Path) -> Result<Graph> {
    let out = crate::chores::cargo()
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .context("cargo metadata did not start")?;
    if !out.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    }
    parse(&serde_json::from_slice(&out.stdout)?)
}

fn parse(meta: &Value) -> Result<Graph> {
    let short = |v: &Value| v.as_str().and_then(|n| n.strip_prefix("tamp-")).map(str::to_string);
    let mut graph = Graph::default();
    for package in meta["packages"].as_array().context("cargo metadata has no packages")? {
        let Some(name) = short(&package["name"]) else { continue };
        graph.normal.entry(name.clone()).or_default();
        for dep in package["dependencies"].as_array().into_iter().flatten() {
            let Some(to) = short(&dep["name"]) else { continue };
            let edges = if dep["kind"] == "dev" { &mut graph.dev } else { &mut graph.normal };
            edges.entry(name.clone()).or_default().insert(to);
        }
    }
    Ok(graph)
}

pub fn check(graph: &Graph) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, have) in &graph.normal {
        if ANY.contains(&name.as_str()) {
            continue;
        }
        let Some((_, want)) = LAW.iter().find(|(n, _)| n == name) else {
            faults.push(format!(
                "crate `{name}` is not in the table of edges (crates/xtask/src/tidy/edges.rs)"
            ));
            continue;
        };
        let want: BTreeSet<String> = want.iter().map(|s| (*s).into()).collect();
        for extra in have.difference(&want) {
            faults.push(format!(
                "crate `{name}` depends on `{extra}`, which the table of edges does not allow"
            ));
        }
        for missing in want.difference(have) {
            faults.push(format!(
                "crate `{name}` does not depend on `{missing}`, which the table of edges says"
            ));
        }
    }
    faults.extend(cycle(graph));
    faults
}

/// A cycle over normal and dev edges together, as `a → b → a`.
fn cycle(graph: &Graph) -> Option<String> {
    fn visit(at: &str, graph: &Graph, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<String> {
        if let Some(i) = path.iter().position(|p| p == at) {
            return Some(format!("crates form a cycle: {} → {at}", path[i..].join(" → ")));
        }
        if !done.insert(at.into()) {
            return None;
        }
        path.push(at.into());
        let next = graph.normal.get(at).into_iter().chain(graph.dev.get(at)).flatten();
        // A crate's tests may name the crate itself.
        let found = next.filter(|n| *n != at).find_map(|n| visit(n, graph, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.normal.keys().find_map(|k| visit(k, graph, &mut Vec::new(), &mut done))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lawful() -> Graph {
        let mut g = Graph::default();
        for (name, deps) in LAW {
            g.normal.insert((*name).into(), deps.iter().map(|d| (*d).into()).collect());
        }
        g
    }

    #[test]
    fn the_table_itself_is_free_of_cycles_and_faults() {
        assert_eq!(check(&lawful()), Vec::<String>::new());
    }

    #[test]
    fn an_extra_a_missing_and_an_unknown_edge_are_faults() {
        let mut g = lawful();
        g.normal.get_mut("sample").unwrap().insert("model".into());
        g.normal.get_mut("kv").unwrap().remove("os");
        g.normal.insert("attic".into(), BTreeSet::new());
        let faults = check(&g).join("\n");
        assert!(faults.contains("`sample` depends on `model`"), "{faults}");
        assert!(faults.contains("`kv` does not depend on `os`"), "{faults}");
        assert!(faults.contains("`attic` is not in the table"), "{faults}");
    }

    #[test]
    fn a_dev_dependency_is_free_until_it_closes_a_cycle() {
        let mut g = lawful();
        g.dev.insert("engine".into(), ["kernels".to_string()].into());
        assert_eq!(check(&g), Vec::<String>::new());
        g.dev.insert("kv".into(), ["model".to_string()].into());
        assert!(check(&g)[0].contains("cycle"), "{:?}", check(&g));
    }

    #[test]
    fn edges_are_read_from_cargo_metadata() {
        let meta = json!({"packages": [{"name": "tamp-kv", "dependencies": [
            {"name": "tamp-os", "kind": null}, {"name": "tamp-model", "kind": "dev"}, {"name": "half", "kind": null}]}]});
        let g = parse(&meta).unwrap();
        assert_eq!(g.normal["kv"], ["os".to_string()].into());
        assert_eq!(g.dev["kv"], ["model".to_string()].into());
    }
}
