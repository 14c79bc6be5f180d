//! Foreign engines: scripted servers and small programs in their place.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tamp_base::record::{SAMPLE, Sample};
use tamp_lab::foreign::{ASK, Ask, Engine, ForeignError, KIND, Prompt, engines, sample};

/// What a scripted server does with a connection.
#[derive(Clone)]
enum Do {
    Say(String),
    Wait(u64),
    /// keeps the connection open until the other side leaves
    Hang,
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

fn say(text: impl Into<String>) -> Do {
    Do::Say(text.into())
}

fn chunk(v: Value) -> Do {
    say(format!("data: {v}\n\n"))
}

fn text(t: &str) -> Do {
    chunk(json!({"choices": [{"index": 0, "text": t, "finish_reason": null}]}))
}

fn ids(t: &str, ids: &[u32]) -> Do {
    chunk(json!({"choices": [{"index": 0, "text": t, "token_ids": ids, "finish_reason": null}]}))
}

fn end(why: &str) -> Do {
    chunk(json!({"choices": [{"index": 0, "text": "", "finish_reason": why}]}))
}

fn usage(prompt: u64, new: u64) -> Do {
    chunk(json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": new,
        "prompt_tokens_details": {"cached_tokens": 1}}}))
}

fn done() -> Do {
    say("data: [DONE]\n\n")
}

/// Reads one request; its first line and body.
fn request(from: &TcpStream) -> (String, String) {
    let mut lines = BufReader::new(from);
    let (mut first, mut length) = (String::new(), 0);
    lines.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).unwrap();
    (first.trim().to_string(), String::from_utf8(body).unwrap())
}

/// Plays one script per connection; gives the requests back.
fn play(scripts: Vec<Vec<Do>>) -> (String, JoinHandle<Vec<(String, String)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut seen = Vec::new();
        for script in scripts {
            let (mut to, _) = listener.accept().unwrap();
            seen.push(request(&to));
            for step in script {
                match step {
                    // The other side may have heard enough.
                    Do::Say(s) => drop(to.write_all(s.as_bytes())),
                    Do::Wait(ms) => std::thread::sleep(Duration::from_millis(ms)),
                    Do::Hang => drop(to.read(&mut [0])),
                }
            }
        }
        seen
    });
    (base, thread)
}

fn prompt() -> Prompt {
    Prompt::new("short", vec![504, 9575, 282], "The capital of")
}

fn ask(n: usize) -> Ask {
    Ask {
        model: "model.gguf".into(),
        prompts: vec![prompt()],
        max_tokens: n,
        temperature: 0.0,
        seed: 7,
        threads: 2,
        ctx: 64,
        warmup: 0,
    }
}

fn engine(toml: &str) -> Engine {
    let text = format!("kind = \"{KIND}\"\nv = 1\n[engine.x]\n{toml}");
    engines(&text, Path::new("engines.toml"), &|_| None).unwrap().remove("x").unwrap()
}

fn by_url(base: &str, more: &str) -> Engine {
    engine(&format!("url = \"{base}\"\nids = true\n{more}"))
}

/// The answer to a script behind the usual head.
fn answer(n: usize, more: &str, script: Vec<Do>) -> Result<Sample, ForeignError> {
    let (base, thread) = play(vec![[vec![say(HEAD)], script].concat()]);
    let got = sample(&by_url(&base, more), &ask(n));
    thread.join().unwrap();
    got
}

fn refused(n: usize, more: &str, script: Vec<Do>) -> String {
    answer(n, more, script).unwrap_err().to_string()
}

#[test]
fn the_engine_is_given_our_ids_and_settings_and_its_own_fields() {
    let script = [vec![say(HEAD), text("a"), end("length"), usage(3, 1), done()]];
    let (base, thread) = play(script.to_vec());
    let s = sample(&by_url(&base, "model = \"m\"\nbody = { cache_prompt = false }"), &ask(1)).unwrap();
    let (line, body) = thread.join().unwrap().remove(0);
    assert_eq!(line, "POST /v1/completions HTTP/1.1");
    let want = json!({"model": "m", "prompt": [504, 9575, 282], "max_tokens": 1, "temperature": 0.0, "seed": 7,
        "stream": true, "stream_options": {"include_usage": true}, "cache_prompt": false});
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), want);
    assert_eq!((s.kind.as_str(), s.v, s.threads), (SAMPLE, 1, 2));
    assert_eq!((s.requests[0].cached_tokens, s.requests[0].finish.as_str()), (1, "length"));
    assert_eq!(s.observed["same_ids"], json!(true));
}

#[test]
fn an_engine_that_takes_text_is_given_text_and_its_row_says_so() {
    let (base, thread) = play(vec![vec![say(HEAD), text("a"), end("length"), usage(3, 1), done()]]);
    let s = sample(&engine(&format!("url = \"{base}\"")), &ask(1)).unwrap();
    assert_eq!(s.observed["same_ids"], json!(false));
    assert!(thread.join().unwrap()[0].1.contains("\"prompt\":\"The capital of\""));
}

#[test]
fn times_are_those_of_the_stream_from_receipt() {
    // The server reads the question for a while before it says anything at all.
    let script = vec![
        Do::Wait(60),
        say(HEAD),
        ids("a", &[5]),
        Do::Wait(40),
        ids("b", &[6]),
        Do::Wait(80),
        ids("c", &[7]),
        end("length"),
        Do::Wait(30),
        usage(3, 3),
        done(),
    ];
    let (base, thread) = play(vec![script]);
    let s = sample(&by_url(&base, ""), &ask(3)).unwrap();
    thread.join().unwrap();
    let r = &s.requests[0];
    // What a busy machine adds is not ours to bound; what the script waits is there, and nothing is counted twice.
    assert!(r.first_token_ns >= 60_000_000 && r.total_ns >= 180_000_000, "{r:?}");
    assert_eq!(r.total_ns, r.first_token_ns + r.token_ns.iter().sum::<u64>());
    assert!(r.token_ns.len() == 2 && r.token_ns[1] >= 40_000_000, "{r:?}");
    assert_eq!((r.tokens.as_slice(), r.text.as_str()), (&[5, 6, 7][..], "abc"));
    assert_eq!((&s.observed["chunked"], &s.observed["token_times"]), (&json!(false), &json!("each")));
}

#[test]
fn two_tokens_in_one_chunk_are_two_tokens_and_the_row_says_that_their_times_are_not_their_own() {
    let s = answer(
        5,
        "",
        vec![
            text("ab"),
            Do::Wait(20),
            text("cd"),
            Do::Wait(20),
            text("e"),
            end("length"),
            usage(3, 5),
            done(),
        ],
    );
    let s = s.unwrap();
    let r = &s.requests[0];
    assert_eq!((r.token_ns.len(), &s.observed["token_times"]), (4, &json!("mean")));
    assert!(s.observed["chunked"] == json!(true) && s.observed["ids_told"] == json!(false));
    assert_eq!(r.token_ns.iter().sum::<u64>(), r.total_ns - r.first_token_ns);

    let s = answer(
        3,
        "",
        vec![ids("a", &[5]), Do::Wait(20), ids("bc", &[6, 7]), end("length"), usage(3, 3), done()],
    );
    let s = s.unwrap();
    let r = &s.requests[0];
    assert_eq!((r.tokens.as_slice(), &s.observed["token_times"]), (&[5, 6, 7][..], &json!("spread")));
    assert!(s.observed["chunked"] == json!(true) && r.token_ns[0].abs_diff(r.token_ns[1]) <= 1);
}

#[test]
fn chunks_that_nobody_confirms_are_flagged() {
    let s = answer(4, "", vec![text("a"), text("b"), end("length"), done()]).unwrap();
    assert_eq!((&s.observed["chunked"], &s.observed["token_times"]), (&json!(true), &json!("chunks")));
}

#[test]
fn ids_that_are_fewer_than_the_usage_counts_are_not_taken_for_all() {
    let s = answer(3, "", vec![ids("a", &[5]), ids("b", &[7]), end("length"), usage(3, 3), done()]).unwrap();
    assert_eq!((s.requests[0].tokens.len(), s.requests[0].token_ns.len()), (0, 2));
    assert_eq!(s.observed["ids_told"], json!(false));
}

#[test]
fn a_token_that_ends_the_text_is_counted_at_the_chunk_with_the_reason() {
    let s = answer(9, "", vec![text("a"), Do::Wait(20), end("stop"), usage(3, 2), done()]).unwrap();
    let r = &s.requests[0];
    assert_eq!(
        (r.token_ns.len(), &s.observed["token_times"], r.finish.as_str()),
        (1, &json!("each"), "stop")
    );
    assert_eq!(r.total_ns, r.first_token_ns + r.token_ns[0]);
}

#[test]
fn a_prompt_that_the_engine_counts_otherwise_is_not_the_same() {
    let s = answer(1, "", vec![text("a"), end("length"), usage(4, 1), done()]).unwrap();
    assert_eq!(s.observed["same_ids"], json!(false));
    let other = json!({"choices": [{"index": 0, "text": "a", "finish_reason": "length", "prompt_token_ids": [1, 2, 3]}]});
    let s = answer(1, "", vec![chunk(other), usage(3, 1), done()]).unwrap();
    assert_eq!(s.observed["same_ids"], json!(false));
}

#[test]
fn the_native_stream_of_llama_cpp_tells_ids_cached_tokens_and_its_prefill() {
    let s = answer(
        2,
        "",
        vec![
            chunk(
                json!({"content": "a", "tokens": [5], "stop": false, "tokens_predicted": 1, "tokens_evaluated": 3}),
            ),
            chunk(
                json!({"content": "b", "tokens": [6], "stop": false, "tokens_predicted": 2, "tokens_evaluated": 3}),
            ),
            chunk(
                json!({"content": "", "tokens": [], "stop": true, "stop_type": "limit", "tokens_predicted": 2,
            "tokens_evaluated": 3, "timings": {"cache_n": 2, "prompt_ms": 1.5, "predicted_n": 2}}),
            ),
            Do::Hang,
        ],
    );
    let s = s.unwrap();
    let r = &s.requests[0];
    assert_eq!((r.tokens.as_slice(), r.cached_tokens, r.prefill_ns), (&[5, 6][..], 2, 1_500_000));
    assert_eq!((r.finish.as_str(), &s.observed["same_ids"]), ("length", &json!(true)));
}

#[test]
fn warm_up_requests_are_sent_and_not_counted() {
    let one = vec![say(HEAD), text("a"), end("length"), usage(3, 1), done()];
    let (base, thread) = play(vec![one; 3]);
    let s = sample(&by_url(&base, ""), &Ask { warmup: 2, ..ask(1) }).unwrap();
    assert_eq!((s.requests.len(), thread.join().unwrap().len()), (1, 3));
}

#[test]
fn what_is_no_whole_answer_is_an_error_that_says_why() {
    let error = json!({"error": {"message": "out of memory", "code": 500}});
    for (script, said) in [
        (vec![text("a")], "ended after 1 chunks without a reason"),
        (vec![text("a"), done()], "without a reason"),
        (vec![end("stop"), done()], "without a token"),
        (vec![say("data: {nonsense}\n\n")], "no JSON"),
        (vec![say("data: \u{fffd}\n\n")], "no JSON"),
        (vec![text("a"), chunk(error)], "out of memory"),
        (vec![say("event: error\ndata: {\"message\": \"no slot\"}\n\n")], "no slot"),
        (vec![text("a"), end("error"), done()], "error"),
        (vec![text("a"), end("length"), usage(3, 1 << 60), done()], "1152921504606846976 tokens"),
        (vec![chunk(json!({"choices": [{"index": 1, "text": "b"}]}))], "more than one choice"),
        (vec![text("a"); 40], "more than the 2 tokens"),
        (vec![say("x".repeat(3 << 20)), Do::Hang], "longer than"),
    ] {
        let e = refused(2, "", script);
        assert!(e.contains(said) && e.contains('x'), "{said}: {e}");
    }
}

#[test]
fn an_engine_that_refuses_or_does_not_stream_is_quoted() {
    for (head, said) in [
        ("HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nbroke", "answered 500: broke"),
        ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "answered 302"),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
            "no event stream",
        ),
        ("garbage\r\n\r\n", "/v1/completions: "),
        ("", "/v1/completions: "),
    ] {
        let (base, thread) = play(vec![vec![say(head)]]);
        let e = sample(&by_url(&base, ""), &ask(2)).unwrap_err().to_string();
        thread.join().unwrap();
        assert!(e.contains(said), "{said}: {e}");
    }
}

#[test]
fn silence_and_endless_answers_run_into_the_limit_that_is_named() {
    let e = refused(2, "silence_s = 0.2", vec![text("a"), Do::Hang]);
    assert!(e.contains("silence_s") && e.contains("0.2 s"), "{e}");
    let pings = vec![vec![say(": alive\n\n"), Do::Wait(30)]; 60].concat();
    let e = refused(2, "request_s = 0.4", pings);
    assert!(e.contains("request_s"), "{e}");
    let (base, thread) = play(vec![vec![Do::Hang]]);
    let e = sample(&by_url(&base, "silence_s = 0.2"), &ask(2)).unwrap_err().to_string();
    thread.join().unwrap();
    assert!(e.contains("silence_s"), "{e}");
}

#[test]
fn a_server_that_is_not_there_and_a_question_that_cannot_be_asked_are_told_apart() {
    let e = sample(&by_url("http://127.0.0.1:1", ""), &ask(2)).unwrap_err();
    assert!(matches!(e, ForeignError::Http { .. }), "{e}");
    let x = by_url("http://127.0.0.1:1", "");
    for (bad, said) in [
        (Ask { prompts: vec![], ..ask(1) }, "at least 1"),
        (Ask { ctx: 4, ..ask(2) }, "5 positions of 4"),
        (Ask { temperature: f64::NAN, ..ask(1) }, "temperature"),
        (Ask { prompts: vec![Prompt::new("p", vec![], "x")], ..ask(1) }, "no tokens"),
        (Ask { max_tokens: usize::MAX, ..ask(1) }, "positions"),
    ] {
        let e = sample(&x, &bad).unwrap_err().to_string();
        assert!(e.contains(said), "{e}");
    }
}

#[test]
fn the_version_comes_from_where_the_entry_says() {
    let one = vec![say(HEAD), text("a"), end("length"), usage(3, 1), done()];
    let told = "{\"version\": \"0.12.3\"}";
    let about = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{told}", told.len());
    let (base, thread) = play(vec![vec![say(about)], one]);
    let s = sample(&by_url(&base, "version_path = \"/api/version\"\nname = \"Y\""), &ask(1)).unwrap();
    thread.join().unwrap();
    assert_eq!((s.engine.name.as_str(), s.engine.version.as_str()), ("Y", "0.12.3"));
}

/// Not a test: the server that the tests below start as another process. It has a child of its own.
#[test]
#[ignore = "a program for other tests"]
#[expect(clippy::zombie_processes, reason = "it is there to be killed with its parent")]
fn serve_for_another_test() {
    let port = std::env::args().find_map(|a| a.strip_prefix("port=")?.parse::<u16>().ok()).unwrap();
    let sleeper = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for n in 0.. {
        let (mut to, _) = listener.accept().unwrap();
        let (line, _) = request(&to);
        let plain = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        let reply = match line.split(' ').nth(1).unwrap() {
            "/health" if n < 2 => plain("503 Loading", "{}"),
            "/health" => plain("200 OK", "{}"),
            "/die" => {
                eprintln!("out of cheese");
                std::process::exit(4)
            }
            _ => {
                let steps = [ids(&sleeper.id().to_string(), &[5]), end("length"), usage(3, 1), done()];
                steps.into_iter().fold(HEAD.to_string(), |s, d| match d {
                    Do::Say(t) => s + &t,
                    _ => s,
                })
            }
        };
        to.write_all(reply.as_bytes()).unwrap();
    }
}

fn me() -> String {
    std::env::current_exe().unwrap().display().to_string()
}

fn by_start(more: &str) -> Engine {
    let exe = me();
    engine(&format!(
        "start = ['{exe}', \"serve_for_another_test\", \"--exact\", \"--ignored\", \"--nocapture\", \"port={{port}}\"]
ready = \"/health\"\nids = true\n{more}"
    ))
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, s)| !s.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_started_server_is_asked_when_ready_measured_and_gone_with_its_children_afterwards() {
    let s = sample(&by_start("version = [\"echo\", \"server version 1.2\"]"), &ask(1)).unwrap();
    let child: u32 = s.requests[0].text.parse().unwrap();
    assert!(!lives(child), "the server's child {child} outlived the sample");
    assert_eq!(
        (s.requests[0].tokens.as_slice(), s.engine.version.as_str()),
        (&[5][..], "server version 1.2")
    );
    assert!(s.phases_ms["start_to_ready"] > 0.0);
    if Path::new("/proc/self/exe").exists() {
        assert!(s.memory_peak.unwrap() > 1 << 20);
        let own = blake3::hash(&std::fs::read(me()).unwrap()).to_hex().to_string();
        assert_eq!(s.observed["engine_program_blake3"], json!(own));
        assert!(s.observed["engine_code_blake3"].as_str().unwrap().len() == 64);
    }
}

#[test]
fn a_server_that_dies_during_a_request_is_quoted() {
    let e = sample(&by_start("path = \"/die\""), &ask(1)).unwrap_err();
    assert!(matches!(&e, ForeignError::Ended { said, .. } if said.contains("out of cheese")), "{e}");
}

#[test]
fn a_server_that_does_not_start_end_or_get_ready_is_told_apart_and_leaves_nothing() {
    let none = engine("start = [\"/no/such/server\", \"{port}\"]\nready = \"/health\"");
    let e = sample(&none, &ask(1)).unwrap_err();
    assert!(
        matches!(&e, ForeignError::Start { why, .. } if why.contains("/no/such/server")) || cfg!(not(unix)),
        "{e}"
    );
    let ends = engine(
        "start = [\"sh\", \"-c\", \"echo bad flag >&2; exit 2 # {port}\"]\nready = \"/health\"\nids = true",
    );
    let e = sample(&ends, &ask(1)).unwrap_err();
    assert!(matches!(&e, ForeignError::Ended { said, .. } if said == "bad flag"), "{e}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let never = format!(
        "start = [\"sh\", \"-c\", \"echo $$ > '{}'; exec sleep 1000 # {{port}}\"]\nready = \"/health\"\nids = true\nready_s = 0.5",
        file.display()
    );
    let e = sample(&engine(&never), &ask(1)).unwrap_err();
    assert!(matches!(&e, ForeignError::Late { hint, .. } if hint.contains("ready_s")), "{e}");
    assert!(!lives(std::fs::read_to_string(file).unwrap().trim().parse().unwrap()));
}

/// A command that prints `row` after some noise.
fn by_command(row: &Value, more: &str) -> Result<Sample, ForeignError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("loading…\n{row}\n")).unwrap();
    let x =
        engine(&format!("command = [\"sh\", \"-c\", \"cat '{}'; {more} # {{ask}}\"]", file.path().display()));
    sample(&x, &ask(2))
}

fn good_row() -> Value {
    let p = prompt();
    json!({"kind": "tamp.bench.sample", "v": 1, "engine": {"name": "y", "version": "1"}, "threads": 2,
        "requests": [{"prompt": "short", "prompt_hash": p.hash, "prompt_tokens": 3, "tokens": [5, 6], "first_token_ns": 100,
            "token_ns": [10], "total_ns": 110, "finish": "length"}], "observed": {"same_ids": true}, "extra": 1})
}

#[test]
fn a_command_prints_the_row_of_what_it_was_asked() {
    let s = by_command(&good_row(), "true").unwrap();
    assert_eq!((s.engine.name.as_str(), s.requests[0].tokens.as_slice()), ("x", &[5, 6][..]));
    assert_eq!((&s.observed["same_ids"], s.more["extra"].as_i64()), (&json!(true), Some(1)));
}

#[test]
fn the_question_of_a_command_is_the_whole_ask() {
    let kept = tempfile::NamedTempFile::new().unwrap();
    let x = engine(&format!("command = [\"sh\", \"-c\", \"cat {{ask}} > '{}'\"]", kept.path().display()));
    let e = sample(&x, &ask(2)).unwrap_err().to_string();
    assert!(e.contains("printed none"), "{e}");
    let told: Value = serde_json::from_slice(&std::fs::read(kept.path()).unwrap()).unwrap();
    assert_eq!((&told["kind"], &told["v"]), (&json!(ASK), &json!(1)));
    assert_eq!(serde_json::from_value::<Ask>(told).unwrap(), ask(2));
}

#[test]
fn a_row_that_does_not_answer_the_question_is_refused() {
    let mut edits = Vec::new();
    let mut edit = |f: fn(&mut Value), said| edits.push((f, said));
    edit(|r| r["kind"] = json!("other"), "is `other`");
    edit(|r| r["v"] = json!(2), "version 2");
    edit(|r| r["threads"] = json!(4), "4 threads instead of 2");
    edit(|r| r["requests"] = json!([]), "0 requests");
    edit(|r| r["requests"][0]["prompt_hash"] = json!("00"), "hash `00`");
    edit(|r| r["requests"][0]["prompt_tokens"] = json!(4), "4 prompt tokens");
    edit(|r| r["requests"][0]["tokens"] = json!([1, 2, 3]), "3 tokens with 1 gaps");
    edit(|r| r["requests"][0]["token_ns"] = json!([10, 10]), "2 tokens with 2 gaps");
    edit(|r| r["requests"][0]["total_ns"] = json!(9_000_000), "add up");
    edit(|r| r["requests"][0]["token_ns"] = json!([u64::MAX]), "add up");
    edit(|r| *r = json!({"missing": "pip install y"}), "pip install y");
    edit(|r| *r = json!({"failed": "no such model"}), "no such model");
    edit(|r| *r = json!([1]), "printed none");
    for (f, said) in edits {
        let mut row = good_row();
        f(&mut row);
        let e = by_command(&row, "true").unwrap_err().to_string();
        assert!(e.contains(said), "{said}: {e}");
    }
    let e = by_command(&json!("noise"), "echo oh no >&2; exit 3").unwrap_err().to_string();
    assert!(e.contains("oh no"), "{e}");
    let x = engine("command = [\"sh\", \"-c\", \"exec sleep 1000 # {ask}\"]\nwithin_s = 0.3");
    let e = sample(&x, &ask(2)).unwrap_err().to_string();
    assert!(e.contains("within_s"), "{e}");
}

#[test]
fn the_python_adapters_answer_the_question_of_the_lab() {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/peers");
    if Command::new("python3").arg("--version").output().is_err() {
        return eprintln!("there is no python3 here; nothing was tested");
    }
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, steps: &str| {
        let text = format!(
            "import sys; sys.path.insert(0, '{}')
from tamp_rows import main
class Peer:
    version = '9'
    def __init__(self, model, threads, ctx, streams): assert (model, threads, ctx) == ('model.gguf', 2, 64)
    def settings(self, work): return ['fast']
    def use(self, setting): print('libraries print here')
    def request(self, ids, text, n):
        assert ids == [504, 9575, 282] and text == 'The capital of' and n == 2
        {steps}
main('y', 'y', Peer)",
            peers.display()
        );
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        engine(&format!(
            "command = [\"python3\", '{}', \"{{model}}\", \"--sample\", \"{{ask}}\"]",
            path.display()
        ))
    };
    let told = write("told.py", "self.tokens = [5, 6]; return True, 0.5, [0.25], None");
    let s = sample(&told, &Ask { warmup: 1, ..ask(2) }).unwrap();
    let r = &s.requests[0];
    assert_eq!(
        (r.tokens.as_slice(), r.first_token_ns, r.token_ns.as_slice()),
        (&[5, 6][..], 500_000_000, &[250_000_000][..])
    );
    assert_eq!((&s.observed["same_ids"], &s.observed["chunked"]), (&json!(true), &json!(false)));
    assert!(s.settings.contains(&"setting=fast".to_string()) && s.engine.version == "9");
    let s = sample(&write("mean.py", "return False, 0.5, 1, 0.25"), &ask(2)).unwrap();
    assert_eq!((&s.observed["same_ids"], &s.observed["token_times"]), (&json!(false), &json!("mean")));
    let e = sample(&write("raises.py", "raise RuntimeError('no room')"), &ask(2)).unwrap_err().to_string();
    assert!(e.contains("no room"), "{e}");
    let e = sample(&told, &Ask { temperature: 1.0, ..ask(2) }).unwrap_err().to_string();
    assert!(e.contains("greedily only"), "{e}");
}
