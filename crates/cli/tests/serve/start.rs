//! `tamp serve` as a process: it says where it listens, asks for the key, and ends with 0 when it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tamp_weights::testing::{Arch, Tiny};

use crate::common::{ran, tamp};

fn model(home: &Path) -> String {
    let path = home.join("tiny.gguf");
    std::fs::write(&path, Tiny { context: 2048, ..Tiny::new(Arch::Qwen2, 7) }.build()).unwrap();
    path.display().to_string()
}

/// Starts it and reads where it listens.
fn serve(home: &Path, more: &[&str]) -> (Child, String) {
    let model = model(home);
    let args = [&["serve", &model, "--port", "0", "--threads", "1"], more].concat();
    let mut child = tamp(home).args(args).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.find(|l| l.as_ref().unwrap().starts_with("listening on ")).unwrap().unwrap();
    // Later lines must find a reader.
    std::thread::spawn(move || lines.for_each(drop));
    (child, line.strip_prefix("listening on http://").unwrap().to_string())
}

fn begin(addr: &str, head: &str, body: &str) -> TcpStream {
    let mut s = TcpStream::connect(addr).unwrap();
    let n = body.len();
    write!(s, "{head} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {n}\r\n\r\n{body}").unwrap();
    s
}

fn end(mut s: TcpStream) -> String {
    let mut out = String::new();
    s.read_to_string(&mut out).unwrap();
    out
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_signal_lets_work_finish_and_the_exit_code_is_0() {
    let home = tempfile::tempdir().unwrap();
    let (mut child, addr) = serve(home.path(), &["--batch", "4"]);
    let body = r#"{"prompt": "a", "max_tokens": 1500, "ignore_eos": true, "stream": true}"#;
    let mut stream = begin(&addr, "POST /v1/completions", body);
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    signal(&child, "-TERM");
    let rest = end(stream);
    assert!(rest.contains("data: [DONE]"), "cut off: {}", &rest[rest.len().saturating_sub(300)..]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn with_keys_a_key_is_asked_for_and_the_file_holds_none() {
    let home = tempfile::tempdir().unwrap();
    let add = |name: &str| ran(tamp(home.path()).args(["keys", "add", name, "--keys", "keys.toml"]));
    let (a, b) = (add("alice"), add("bob"));
    assert_eq!((a.code, b.code, add("alice").code), (0, 0, 3), "a name is given once");
    let (a, b) = (a.out.trim(), b.out.trim());
    let file = std::fs::read_to_string(home.path().join("keys.toml")).unwrap();
    assert!(a != b && a.starts_with("tamp-") && !file.contains(&a[5..]) && !file.contains(&b[5..]));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &home.path().join("keys.toml").metadata().unwrap().permissions(),
    );
    assert_eq!(mode & 0o77, 0, "others may read the file");
    let (mut child, addr) = serve(home.path(), &["--keys", "keys.toml"]);
    assert!(end(begin(&addr, "GET /v1/models", "")).starts_with("HTTP/1.1 401"));
    let mut s = TcpStream::connect(&addr).unwrap();
    write!(
        s,
        "GET /v1/models HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\nauthorization: Bearer {b}\r\n\r\n"
    )
    .unwrap();
    let answer = end(s);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"id\":\"tiny\""), "{answer}");
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_would_be_open_to_others_without_a_key_is_refused_before_a_model_is_loaded() {
    let home = tempfile::tempdir().unwrap();
    let r = ran(tamp(home.path()).args(["serve", "no-such-model", "--host", "0.0.0.0"]));
    assert_eq!(r.code, 5, "{}", r.err);
    assert!(r.err.contains("no keys are given") && r.err.contains("tamp keys add"), "{}", r.err);
    let r = ran(tamp(home.path()).args(["serve", "--keys", "nix.toml"]));
    assert!(r.code == 3 && r.err.contains("nix.toml"), "{}", r.err);
    let wrong = ["serve", "--use", "server.stream=nix"];
    let r = ran(tamp(home.path()).args(wrong));
    assert!(r.code == 2 && r.err.contains("each, chunked"), "{}", r.err);
}
