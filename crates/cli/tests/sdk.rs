//! The official SDKs drive every route of `tamp serve`. They are installed once, under `target/sdk`; where the registry is
//! out of reach a line says that the test was skipped.
#![allow(clippy::unwrap_used)] // a test
#![cfg(unix)] // the signal that ends the server

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{last_json, ran, tamp};
use tamp_base::meta::Value;
use tamp_weights::testing::{Arch, Tiny};

/// Speaks Hermes' tags and shows every role, so that all dialects have their say.
const TEMPLATE: &str = "{% if tools %}<tool_call>{{ tools | tojson }}</tool_call>{% endif %}\
    {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";

/// Writes a small model with random weights; every answer follows from its seed.
fn model(home: &Path) -> PathBuf {
    let mut tiny = Tiny { context: 4096, ..Tiny::new(Arch::Qwen2, 7) };
    tiny.extra.set("tokenizer.chat_template", Value::Str(TEMPLATE.into()));
    let path = home.join("tiny.gguf");
    std::fs::write(&path, tiny.build()).unwrap();
    path
}

/// A server that ends with the test.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(home: &Path) -> Self {
        let mut child = tamp(home)
            .arg("serve")
            .arg(model(home))
            .args(["--port", "0", "--threads", "1", "--batch", "4"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.find_map(|l| Some(l.split_once("listening on ")?.1.trim().to_string()));
        // Nobody else reads what it says, and a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, url: url.unwrap_or_default() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where SDKs are kept between runs.
fn kept(name: &str) -> PathBuf {
    let dir = root().join("target/sdk").join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Installs once; whether it is there. What cannot be fetched is said in a line.
fn installed(dir: &Path, wanted: &str, steps: &mut [Command]) -> bool {
    let stamp = dir.join("installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return true;
    }
    for step in steps {
        match step.current_dir(dir).output() {
            Ok(o) if o.status.success() => {}
            Ok(o) => {
                let why = String::from_utf8_lossy(&o.stderr);
                println!("skipped: {wanted} cannot be installed here ({})", why.lines().last().unwrap_or(""));
                return false;
            }
            Err(e) => {
                println!("skipped: {} is not here ({e})", step.get_program().to_string_lossy());
                return false;
            }
        }
    }
    std::fs::write(stamp, wanted).unwrap();
    true
}

fn drive(c: &mut Command, server: &Server) -> String {
    let r = c.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&r.stdout), String::from_utf8_lossy(&r.stderr));
    assert!(r.status.success(), "{}\n{out}\n{err}", server.url);
    out.into_owned()
}

#[test]
fn the_python_sdks_drive_every_route_and_forms_are_always_kept() {
    let dir = kept("python");
    let python = dir.join("venv/bin/python");
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "venv"]);
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "-q", "openai", "anthropic", "jsonschema"]);
    if !installed(&dir, "openai, anthropic and jsonschema", &mut [venv, pip]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path());
    let forms = if std::env::var_os("TAMP_FULL").is_some_and(|v| v == "1") { "200" } else { "10" };
    let script = root().join("tests/sdk/drive.py");
    let out = drive(Command::new(python).arg(script).args([&*server.url, "tiny", forms]), &server);
    assert!(out.ends_with("constrained: ok\n"), "{out}");
}

#[test]
fn the_node_sdk_drives_every_route() {
    let dir = kept("node");
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--prefix", ".", "openai"]);
    if !installed(&dir, "the openai package", &mut [npm]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path());
    // Modules are looked for beside the script.
    let script = dir.join("drive.mjs");
    std::fs::copy(root().join("tests/sdk/drive.mjs"), &script).unwrap();
    let out = drive(Command::new("node").arg(script).args([&*server.url, "tiny"]), &server);
    assert!(out.ends_with("node: ok\n"), "{out}");
}

#[test]
fn several_answers_of_run_compute_their_prompt_once_and_are_what_each_would_be_alone() {
    let home = tempfile::tempdir().unwrap();
    let model = model(home.path());
    let prompt = "the cat sat on the mat and looked at the moon ".repeat(6);
    let run = |more: &[&str]| {
        let mut c = tamp(home.path());
        c.arg("run").arg(&model).args([
            &*prompt,
            "--threads",
            "1",
            "--max-tokens",
            "8",
            "--seed",
            "3",
            "--temperature",
            "1",
        ]);
        let r = ran(c.args(more));
        assert_eq!(r.code, 0, "{}", r.err);
        r
    };
    let one = last_json(&run(&["--json"]));
    let all = last_json(&run(&["--json", "--n", "4"]));
    let answers = all["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[0]["text"], one["text"]);
    assert!(answers.iter().any(|a| a["text"] != one["text"]), "the answers differ");
    let tokens = all["prompt_tokens"].as_u64().unwrap();
    // All but the last, unfinished page of each further prompt comes from the first.
    assert_eq!(
        all["prompt_rows"].as_u64().unwrap(),
        4 * tokens - 3 * ((tokens - 1) / 16 * 16),
        "{tokens} tokens"
    );
    let printed = run(&["--n", "4"]).out;
    assert!((1..=4).all(|i| printed.contains(&format!("[{i}] "))), "{printed}");
}
