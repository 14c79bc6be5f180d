//! `tamp.toml` and `--use/--set` become one [`Settings`], each choice with its source.
//!
//! ```toml
//! [use]
//! spec.propose = "none"
//! [set]
//! spec.propose.suffix.max = 8
//! ```

use std::path::{Path, PathBuf};

use tamp_base::settings::Settings;
use toml::{Table, Value};

use crate::env::Env;
use crate::fail::{At, Done, Fail};

/// Later sources win: the user's file, the current folder's file (or `--config` instead of both), the flags.
pub fn settings(env: &Env, config: Option<&Path>, uses: &[String], sets: &[String]) -> Done<Settings> {
    let mut s = Settings::default();
    let rooms = crate::cmd::rooms();
    for path in files(env, config) {
        read(&path, &mut s)?;
        s.settle(&rooms);
    }
    for u in uses {
        s.add_use(u, "--use")?;
    }
    for v in sets {
        s.add_set(v, "--set")?;
    }
    s.settle(&rooms);
    Ok(s)
}

fn files(env: &Env, config: Option<&Path>) -> Vec<PathBuf> {
    match config {
        Some(p) => vec![p.to_path_buf()],
        None => {
            let user = env.config_dir.as_ref().map(|d| d.join("tamp.toml"));
            user.into_iter().chain([PathBuf::from("tamp.toml")]).filter(|p| p.is_file()).collect()
        }
    }
}

fn read(path: &Path, s: &mut Settings) -> Done {
    let text = std::fs::read_to_string(path).at("read", path)?;
    parse(&text, &path.display().to_string(), s)
}

fn parse(text: &str, from: &str, s: &mut Settings) -> Done {
    let table: Table =
        text.parse().map_err(|e: toml::de::Error| Fail::usage(format!("{from}: {}", e.message())))?;
    for (key, value) in &table {
        let Value::Table(inner) = value else {
            return Err(unknown(from, key));
        };
        let mut flat = Vec::new();
        flatten("", inner, from, &mut flat)?;
        for (k, v) in flat {
            match key.as_str() {
                "use" => s.add_use(&format!("{k}={v}"), from)?,
                "set" => s.add_set(&format!("{k}={v}"), from)?,
                _ => return Err(unknown(from, key)),
            }
        }
    }
    Ok(())
}

fn unknown(from: &str, key: &str) -> Fail {
    Fail::usage(format!("{from}: there is no `{key}` here; known tables: [use], [set]"))
}

/// `a.b = 1` and `"a.b" = 1` mean the same.
fn flatten(prefix: &str, table: &Table, from: &str, out: &mut Vec<(String, String)>) -> Done {
    for (k, v) in table {
        let key = if prefix.is_empty() { k.clone() } else { format!("{prefix}.{k}") };
        match v {
            Value::Table(t) => flatten(&key, t, from, out)?,
            Value::String(v) => out.push((key, v.clone())),
            Value::Integer(v) => out.push((key, v.to_string())),
            Value::Float(v) => out.push((key, v.to_string())),
            Value::Boolean(v) => out.push((key, v.to_string())),
            _ => return Err(Fail::usage(format!("{from}: `{key}` must be text, a number, true or false"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Done<Settings> {
        let mut s = Settings::default();
        parse(text, "tamp.toml", &mut s)?;
        Ok(s)
    }

    #[test]
    fn dotted_and_quoted_keys_are_the_words_of_the_flags() {
        let s = parsed(
            "[use]\nspec.propose = \"suffix\"\n[set]\n\"spec.propose.suffix.max\" = 8\na.b.on = true\n",
        )
        .unwrap();
        assert_eq!(s.used("spec.propose"), Some("suffix"));
        assert_eq!(s.knob("spec.propose.suffix.max"), Some("8"));
        assert_eq!(s.knob("a.b.on"), Some("true"));
        assert!(s.all().all(|(_, _, from)| from == "tamp.toml"));
    }

    #[test]
    fn a_word_that_is_not_understood_is_refused_by_name() {
        for (text, says) in [
            ("[used]\nx = 1", "no `used`"),
            ("threads = 4", "no `threads`"),
            ("[set]\nx = [1]", "`x` must be text"),
            ("[set\n", "tamp.toml: "),
        ] {
            let e = parsed(text).unwrap_err();
            assert!(e.what.contains(says) && e.code == crate::fail::Code::Usage, "{text}: {}", e.what);
        }
    }

    #[test]
    fn a_room_that_is_set_is_used_and_the_later_source_still_wins() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tamp.toml");
        std::fs::write(&file, "[set]\nkernels.isa = \"avx2\"\n").unwrap();
        let of =
            |uses: &[String], sets: &[String]| settings(&Env::default(), Some(&file), uses, sets).unwrap();
        assert_eq!(of(&[], &[]).used("kernels.isa"), Some("avx2"));
        assert_eq!(of(&["kernels.isa=auto".into()], &[]).used("kernels.isa"), Some("auto"));
        let both = of(&[], &["kernels.isa=portable".into(), "engine.core.ctx=64".into()]);
        assert_eq!(both.used("kernels.isa"), Some("portable"));
        assert_eq!((both.knob("kernels.isa"), both.knob("engine.core.ctx")), (None, Some("64")));
        assert!(both.check(&tamp_engine::rooms()).is_ok());
        let e = of(&[], &["kernels.isa=avx9".into()]).check(&tamp_engine::rooms()).unwrap_err().to_string();
        assert!(e.contains("`kernels.isa` has no `avx9`; known: auto"), "{e}");
    }

    #[test]
    fn flags_override_the_folder_which_overrides_the_user() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tamp.toml"), "[use]\na = \"user\"\nb = \"user\"\n").unwrap();
        let env = Env { config_dir: Some(dir.path().into()), ..Env::default() };
        let s = settings(&env, None, &["a=flag".into()], &[]).unwrap();
        assert_eq!((s.used("a"), s.used("b")), (Some("flag"), Some("user")));
        let named = dir.path().join("other.toml");
        std::fs::write(&named, "[use]\nb = \"named\"\n").unwrap();
        let s = settings(&env, Some(&named), &[], &[]).unwrap();
        assert_eq!((s.used("a"), s.used("b")), (None, Some("named")));
        assert!(settings(&env, Some(&dir.path().join("none.toml")), &[], &[]).is_err());
    }
}
