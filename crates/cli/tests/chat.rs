//! `tamp chat` in a real terminal, scripted.
#![allow(clippy::unwrap_used)] // a helper of a test is a test
#![cfg(unix)]

mod common;

use std::path::Path;

use rexpect::session::{Options, PtySession, spawn_with_options};
use tamp_base::meta::Value;
use tamp_weights::testing::{Arch, Tiny};

const TEMPLATE: &str =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new(Arch::Qwen2, 7);
    tiny.extra.set("tokenizer.chat_template", Value::Str(TEMPLATE.into()));
    std::fs::write(home.path().join("m.gguf"), tiny.build()).unwrap();
    home
}

fn chat(home: &Path, args: &[&str]) -> PtySession {
    let mut c = common::tamp(home);
    c.env("TERM", "xterm").args(["chat", "m.gguf", "--seed", "1", "--ignore-eos"]).args(args);
    let options = Options::new().timeout_ms(Some(30_000)).strip_ansi_escape_codes(true);
    let mut p = spawn_with_options(c, options).unwrap();
    p.exp_string("/help for help").unwrap();
    p
}

/// Ctrl-D at a prompt: keys that come between two prompts meet a terminal that is not the editor's yet.
fn leave(p: &mut PtySession) {
    p.exp_string("> ").unwrap();
    p.send_control('d').unwrap();
}

fn up(p: &mut PtySession) {
    p.send("\x1b[A").unwrap();
    p.flush().unwrap();
}

#[test]
fn a_conversation_can_be_led_saved_and_left() {
    let home = home();
    let mut p = chat(home.path(), &["--max-tokens", "6"]);
    p.send_line("/help").unwrap();
    p.exp_string("/save FILE").unwrap();
    p.send_line("/sytem").unwrap();
    p.exp_string("no command /sytem; did you mean /system? /help lists them").unwrap();
    p.send_line("/system be brief").unwrap();
    p.exp_string("starts over").unwrap();
    p.send_line("first \\").unwrap();
    p.send_line("second").unwrap();
    p.exp_string("6 tokens").unwrap();
    p.send_line("/save talk.json").unwrap();
    p.exp_string("saved to talk.json").unwrap();
    p.send_line("/reset").unwrap();
    p.exp_string("forgotten").unwrap();
    leave(&mut p);
    p.exp_eof().unwrap();
    let saved: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(home.path().join("talk.json")).unwrap()).unwrap();
    let said = |i: usize| (saved["messages"][i]["role"].clone(), saved["messages"][i]["content"].clone());
    assert_eq!(said(0), ("system".into(), "be brief".into()));
    assert_eq!(said(1), ("user".into(), "first \nsecond".into()));
    assert_eq!(saved["messages"][2]["role"], "assistant");
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let home = home();
    // The tiny model fills its whole context; no answer is over before Ctrl-C comes.
    let mut p = chat(home.path(), &["--threads", "1"]);
    p.send_line("go on for long").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    p.send_control('c').unwrap();
    let before = p.exp_string("tokens/s").unwrap();
    assert!(before.contains("stopped") || before.contains("length reached"), "{before}");
    p.send_line("/system").unwrap();
    p.exp_string("system message: You are a helpful assistant.").unwrap();
    p.exp_string("> ").unwrap();
    // At the prompt it clears the line and says how to leave.
    p.send("half a line").unwrap();
    p.send_control('c').unwrap();
    p.exp_string("/quit leaves").unwrap();
    p.send_line("/quit").unwrap();
    p.exp_eof().unwrap();
}

#[test]
fn what_was_written_comes_back_in_the_next_conversation() {
    let home = home();
    let mut p = chat(home.path(), &["--max-tokens", "2"]);
    p.send_line("a memorable line").unwrap();
    p.exp_string("2 tokens").unwrap();
    p.send_line("/quit").unwrap();
    p.exp_eof().unwrap();
    let mut p = chat(home.path(), &["--max-tokens", "2"]);
    p.exp_string("> ").unwrap();
    up(&mut p); // up: /quit
    p.exp_string("/quit").unwrap();
    up(&mut p);
    p.exp_string("a memorable line").unwrap();
    p.send_control('c').unwrap();
    p.exp_string("/quit leaves").unwrap();
    leave(&mut p);
    p.exp_eof().unwrap();
}

#[test]
fn ctrl_c_ends_run_with_its_own_exit_code_and_what_was_said() {
    use std::io::Read;
    let home = home();
    let mut c = common::tamp(home.path());
    c.args(["run", "m.gguf", "go on", "--raw", "--ignore-eos", "--threads", "1", "--seed", "1"]);
    let mut child =
        c.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let done = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(130), "{err}");
    assert!(err.contains("tamp: interrupted") && !rest.is_empty(), "{err}");
}
