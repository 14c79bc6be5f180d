//! The engines file: how each engine is reached, and what it needs to be told.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::ForeignError;

/// `kind` of an engines file.
pub const KIND: &str = "tamp.lab.engines";

/// The value of an environment variable. The lab never looks itself; whoever may hands the values in.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One engine of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Engine {
    /// its key in the file
    pub key: String,
    /// what people call it
    pub name: String,
    /// how it is reached
    pub how: How,
    /// path of completions on its server
    pub path: String,
    /// name of the model in the requests
    pub model: String,
    /// key for its `Authorization` header
    pub api_key: Option<String>,
    /// takes token ids as `prompt`
    pub ids: bool,
    /// further fields of every request
    pub body: serde_json::Map<String, Value>,
    /// where its version comes from
    pub version: Version,
    /// variables its processes get, beside ours
    pub env: BTreeMap<String, String>,
    /// the longest silence of one request
    pub silence: Duration,
    /// the longest one request may take
    pub request: Duration,
}

/// How an engine is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// A server that runs already.
    Url {
        /// `http://host:port`, without a path
        base: String,
    },
    /// A server that is started for each sample.
    Start {
        /// program and arguments; `{model}`, `{port}`, `{threads}`, `{ctx}` and `{here}` are filled in
        argv: Vec<String>,
        /// path that answers 200 when it can be asked
        ready: String,
        /// the longest that may take
        within: Duration,
        /// how it is ended
        stop: Stop,
    },
    /// A program that prints one row and ends.
    Command {
        /// program and arguments; `{ask}` is the file with the [`Ask`](super::Ask)
        argv: Vec<String>,
        /// the longest that may take
        within: Duration,
    },
}

/// How a started server is ended; its whole process group always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At once.
    Kill,
    /// Asked first, killed after this long.
    Term(Duration),
}

/// Where an engine's version comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// Nothing says it.
    None,
    /// The first line that this command prints.
    Command(Vec<String>),
    /// This path of the server: the field `version` or `build_info`, or the first line.
    Path(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kind: String,
    v: u32,
    #[serde(default)]
    engine: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    url: Option<String>,
    start: Option<Vec<String>>,
    command: Option<Vec<String>>,
    ready: Option<String>,
    ready_s: Option<f64>,
    stop: Option<StopWord>,
    stop_s: Option<f64>,
    within_s: Option<f64>,
    path: Option<String>,
    model: Option<String>,
    api_key_env: Option<String>,
    #[serde(default)]
    ids: bool,
    #[serde(default)]
    body: serde_json::Map<String, Value>,
    version: Option<Vec<String>>,
    version_path: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    silence_s: Option<f64>,
    request_s: Option<f64>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum StopWord {
    Kill,
    Term,
}

/// The fields of a request that are the bracket's own: no entry may set them.
const OURS: [&str; 8] =
    ["prompt", "model", "max_tokens", "temperature", "seed", "stream", "stream_options", "n"];

/// Reads an engines file. `file` names it in errors, and its folder stands for `{here}`.
///
/// An unknown key, a missing one, two ways to reach one engine, or a key that the chosen way has no use for is refused
/// with the words that are known.
pub fn engines(text: &str, file: &Path, env: Env) -> Result<BTreeMap<String, Engine>, ForeignError> {
    let shown = file.display().to_string();
    let fault = |why: String| ForeignError::Config { place: shown.clone(), why };
    let read: File = toml::from_str(text).map_err(|e| fault(crate::spec::said(text, &e)))?;
    if read.kind != KIND || read.v != 1 {
        return Err(fault(format!(
            "is `{}` version {}; this lab reads `{KIND}` version 1",
            read.kind, read.v
        )));
    }
    let here = match file.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_string_lossy().into_owned(),
        _ => ".".to_string(),
    };
    read.engine
        .into_iter()
        .map(|(key, value)| {
            let place = || format!("{shown}, [engine.{key}]");
            let e: Entry = value.try_into().map_err(|e: toml::de::Error| ForeignError::Config {
                place: place(),
                // The second line of the whole error names the key; of an unknown one the message does.
                why: match crate::spec::shortened(e.message()) {
                    short if short != e.message() => short,
                    _ => e.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
                },
            })?;
            let engine =
                open(&key, e, &here, env).map_err(|why| ForeignError::Config { place: place(), why })?;
            Ok((key, engine))
        })
        .collect()
}

/// One checked entry; the error is the sentence.
fn open(key: &str, e: Entry, here: &str, env: Env) -> Result<Engine, String> {
    let how = match (e.url, e.start, e.command) {
        (Some(url), None, None) => {
            idle(
                key,
                "url",
                &[
                    ("ready", e.ready.is_some()),
                    ("ready_s", e.ready_s.is_some()),
                    ("stop", e.stop.is_some()),
                    ("stop_s", e.stop_s.is_some()),
                    ("within_s", e.within_s.is_some()),
                ],
            )?;
            How::Url { base: base(&url)? }
        }
        (None, Some(argv), None) => {
            idle(key, "start", &[("within_s", e.within_s.is_some())])?;
            let argv = words("start", argv, &["model", "port", "threads", "ctx", "here"], here)?;
            if !argv.iter().any(|a| a.contains("{port}")) {
                return Err("`start` has no {port}, so its server could not be found".into());
            }
            let stop = match (e.stop.unwrap_or(StopWord::Kill), e.stop_s) {
                (StopWord::Kill, Some(_)) => {
                    return Err("`stop_s` is of `stop = \"term\"`; `kill` waits for nothing".into());
                }
                (StopWord::Kill, None) => Stop::Kill,
                (StopWord::Term, s) => Stop::Term(seconds("stop_s", s, 5.0)?),
            };
            let ready = path("ready", e.ready.ok_or("`start` needs `ready`, the path that answers 200 once it can be asked, such as \"/health\"")?)?;
            How::Start { argv, ready, within: seconds("ready_s", e.ready_s, 120.0)?, stop }
        }
        (None, None, Some(argv)) => {
            let set = [
                ("ready", e.ready.is_some()),
                ("ready_s", e.ready_s.is_some()),
                ("stop", e.stop.is_some()),
                ("stop_s", e.stop_s.is_some()),
                ("path", e.path.is_some()),
                ("model", e.model.is_some()),
                ("api_key_env", e.api_key_env.is_some()),
                ("ids", e.ids),
                ("body", !e.body.is_empty()),
                ("version_path", e.version_path.is_some()),
                ("silence_s", e.silence_s.is_some()),
                ("request_s", e.request_s.is_some()),
            ];
            idle(key, "command", &set)?;
            let argv = words("command", argv, &["ask", "model", "threads", "ctx", "here"], here)?;
            if !argv.iter().any(|a| a.contains("{ask}")) {
                return Err("`command` has no {ask}, so it could not know the token ids".into());
            }
            How::Command { argv, within: seconds("within_s", e.within_s, 600.0)? }
        }
        _ => return Err("needs one of `url`, `start` and `command`, and no two of them".into()),
    };
    let version = match (e.version, e.version_path) {
        (Some(_), Some(_)) => return Err("has `version` and `version_path`; one of them is enough".into()),
        (Some(argv), None) => Version::Command(words("version", argv, &["here"], here)?),
        (None, Some(p)) => Version::Path(path("version_path", p)?),
        (None, None) => Version::None,
    };
    if let Some(k) = OURS.iter().find(|k| e.body.contains_key(**k)) {
        return Err(format!(
            "`body.{k}` would change the question; every arm of a bracket is asked the same"
        ));
    }
    let api_key = match e.api_key_env {
        None => None,
        Some(name) => Some(env(&name).ok_or(format!("`api_key_env` names {name}, which is not set"))?),
    };
    Ok(Engine {
        key: key.to_string(),
        name: e.name.unwrap_or_else(|| key.to_string()),
        how,
        path: path("path", e.path.unwrap_or_else(|| "/v1/completions".into()))?,
        model: e.model.unwrap_or_else(|| "default".into()),
        api_key,
        ids: e.ids,
        body: e.body,
        version,
        env: e.env,
        silence: seconds("silence_s", e.silence_s, 120.0)?,
        request: seconds("request_s", e.request_s, 600.0)?,
    })
}

/// Refuses keys that this way of reaching an engine never reads.
fn idle(key: &str, way: &str, set: &[(&str, bool)]) -> Result<(), String> {
    let named: Vec<String> = set.iter().filter(|(_, given)| *given).map(|(k, _)| format!("`{k}`")).collect();
    if named.is_empty() {
        return Ok(());
    }
    Err(format!("`{key}` is reached by `{way}`, which has no use for {}", named.join(", ")))
}

fn seconds(key: &str, given: Option<f64>, or: f64) -> Result<Duration, String> {
    match given.unwrap_or(or) {
        s if (0.001..=86_400.0).contains(&s) => Ok(Duration::from_secs_f64(s)),
        s => Err(format!("`{key}` is {s}; it takes 0.001 to 86400 seconds")),
    }
}

fn path(key: &str, p: String) -> Result<String, String> {
    match p.starts_with('/') && !p.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        true => Ok(p),
        false => Err(format!("`{key}` is \"{p}\"; it is a path such as \"/v1/completions\"")),
    }
}

fn base(url: &str) -> Result<String, String> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(format!(
            "`url` is \"{url}\"; it starts with http:// (the lab speaks no TLS: measure a local port)"
        ));
    };
    let host = rest.trim_end_matches('/');
    match host.is_empty()
        || host.contains(|c: char| c == '/' || c == '@' || c.is_whitespace() || c.is_control())
    {
        true => Err(format!(
            "`url` is \"{url}\"; it is a server such as \"http://127.0.0.1:8000\", paths go into `path`"
        )),
        false => Ok(format!("http://{host}")),
    }
}

/// Checks a command's placeholders and fills `{here}` in.
fn words(key: &str, argv: Vec<String>, known: &[&str], here: &str) -> Result<Vec<String>, String> {
    if argv.first().is_none_or(|p| p.is_empty()) {
        return Err(format!("`{key}` is empty; it is a program and its arguments"));
    }
    for a in &argv {
        if a.contains('\0') {
            return Err(format!("`{key}` holds a zero byte"));
        }
        for name in holes(a) {
            if !known.contains(&name) {
                let list: Vec<String> = known.iter().map(|k| format!("{{{k}}}")).collect();
                return Err(format!("`{key}` has {{{name}}}; it knows {}", list.join(" ")));
            }
        }
    }
    Ok(argv.into_iter().map(|a| a.replace("{here}", here)).collect())
}

/// The `{name}`s of an argument; other braces, such as those of JSON, stand for themselves.
fn holes(a: &str) -> impl Iterator<Item = &str> {
    a.split('{').skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('}')?;
        (!name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entry: &str) -> Result<Engine, String> {
        let text = format!("kind = \"{KIND}\"\nv = 1\n[engine.e]\n{entry}");
        let env = |name: &str| (name == "SET").then(|| "secret".to_string());
        engines(&text, Path::new("some/engines.toml"), &env)
            .map(|mut all| all.remove("e").unwrap())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_file_that_ships_is_read_and_its_adapters_are_where_it_says() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../lab/engines.toml");
        let all = engines(&std::fs::read_to_string(&file).unwrap(), &file, &|_| None).unwrap();
        assert!(all.len() >= 8, "{:?}", all.keys());
        for e in all.values() {
            let (How::Start { argv, .. } | How::Command { argv, .. }) = &e.how else { continue };
            for script in argv.iter().filter(|a| a.ends_with(".py")) {
                assert!(Path::new(script).is_file(), "[engine.{}] names {script}", e.key);
            }
        }
        assert!(
            all["ollama"].how == How::Url { base: "http://127.0.0.1:11434".into() } && !all["ollama"].ids
        );
    }

    #[test]
    fn an_entry_is_read_as_written() {
        let e = read("start = [\"{here}/s\", \"{port}\", \"{model}\"]\nready = \"/health\"\nstop = \"term\"\nids = true
            body = { a = 1 }\napi_key_env = \"SET\"\nsilence_s = 2.5");
        let e = e.unwrap();
        let How::Start { argv, stop, ready, .. } = &e.how else { panic!("{e:?}") };
        assert_eq!((argv[0].as_str(), argv[1].as_str(), ready.as_str()), ("some/s", "{port}", "/health"));
        assert_eq!((*stop, e.silence), (Stop::Term(Duration::from_secs(5)), Duration::from_millis(2500)));
        assert_eq!(
            (e.api_key.as_deref(), &e.body["a"], e.name.as_str()),
            (Some("secret"), &Value::from(1), "e")
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_key_and_the_known_words() {
        let start = "start = [\"s\", \"{port}\"]\nready = \"/health\"\n";
        for (entry, said) in [
            ("", "one of `url`, `start` and `command`"),
            ("url = \"http://a\"\ncommand = [\"x\", \"{ask}\"]", "no two of them"),
            ("url = \"http://a\"\nreddy = \"/x\"", "unknown field `reddy`; did you mean `ready`? (of "),
            ("url = \"https://a\"", "http://"),
            ("url = \"http://a/v1\"", "paths go into `path`"),
            ("url = \"http://a\"\nstop = \"kill\"\nready = \"/x\"", "no use for `ready`, `stop`"),
            ("url = 5", "expected a string in `url`"),
            ("command = [\"x\"]", "no {ask}"),
            ("command = [\"x\", \"{ask}\"]\nids = true", "no use for `ids`"),
            ("command = []", "`command` is empty"),
            (
                "command = [\"x\", \"{ask}\", \"{prot}\"]",
                "has {prot}; it knows {ask} {model} {threads} {ctx} {here}",
            ),
            ("start = [\"x\"]\nready = \"/h\"", "no {port}"),
            ("start = [\"x\", \"{port}\"]", "needs `ready`"),
            (&format!("{start}stop = \"now\""), "expected `kill` or `term`"),
            (&format!("{start}stop_s = 3"), "`stop_s` is of"),
            (&format!("{start}ready_s = nan"), "`ready_s` is NaN"),
            (&format!("{start}ready_s = -1.0"), "0.001 to 86400"),
            (&format!("{start}path = \"v1\""), "`path` is \"v1\""),
            (&format!("{start}body = {{ seed = 1 }}"), "`body.seed` would change the question"),
            (&format!("{start}api_key_env = \"UNSET\""), "UNSET, which is not set"),
            (&format!("{start}version = [\"a\"]\nversion_path = \"/v\""), "one of them is enough"),
        ] {
            let e = read(entry).unwrap_err();
            assert!(e.contains(said) && e.contains("some/engines.toml, [engine.e]"), "{said}: {e}");
        }
    }

    #[test]
    fn another_kind_of_file_or_none_at_all_is_named() {
        for (text, said) in [
            ("kind = \"tamp.lab.spec\"\nv = 1", "is `tamp.lab.spec` version 1"),
            ("kind = \"tamp.lab.engines\"\nv = 2", "version 2; this lab reads"),
            ("kind = \"tamp.lab.engines\"\nv = 1\n[engines.x]", "line 3: unknown field `engines`"),
            ("kind = ", "line 1"),
        ] {
            let e = engines(text, Path::new("e.toml"), &|_| None).unwrap_err().to_string();
            assert!(e.contains(said), "{said}: {e}");
        }
    }
}
