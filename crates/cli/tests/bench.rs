//! The workloads as a person starts them, on a small seeded model and with other engines that are scripts.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use common::{Ran, last_json, ran, tamp};
use tamp_base::record::{SAMPLE, Sample};
use tamp_base::wall::{StepCost, WidthTable};
use tamp_weights::testing::{Arch, tiny};

fn bench(home: &Path, args: &[&str]) -> Ran {
    ran(tamp(home).arg("bench").args(args).args(["--threads", "1"]))
}

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("m.gguf"), tiny(Arch::Qwen2, 7)).unwrap();
    home
}

#[test]
fn an_engine_that_is_not_there_is_one_sentence_and_the_code_of_a_missing_file() {
    let home = home();
    for (args, code, says) in [
        (&["vs", "llama-bench", "m.gguf", "--bin", "/no/such"][..], 3, "/no/such did not start"),
        (&["vs", "llama.cpp", "m.gguf", "--python", "/no/python"], 3, "/no/python did not start"),
        (&["vs", "llama.cpp", "m.gguf", "--bin", "x"], 2, "--bin and --peer-arg go with llama-bench"),
        (
            &["vs", "llama-bench", "m.gguf", "--work", "context", "--depth", "9000"],
            5,
            "made for 2048 positions",
        ),
        (&["width", "--formats", "q4k"], 2, "did you mean q4_k?"),
    ] {
        let r = bench(home.path(), args);
        assert_eq!(r.code, code, "{args:?}: {}", r.err);
        assert!(r.err.contains(says) && r.out.is_empty(), "{args:?}: {}\n{}", r.err, r.out);
        assert_eq!(r.err.lines().filter(|l| l.starts_with("tamp: ")).count(), 1, "{args:?}: {}", r.err);
    }
}

#[cfg(unix)]
#[test]
fn a_run_beside_another_engine_is_a_row_that_the_performance_page_takes() {
    use std::os::unix::fs::PermissionsExt;
    let home = home();
    let bin = home.path().join("fork-bench");
    std::fs::write(&bin, "#!/bin/sh\necho '[{\"build_commit\": \"abc\", \"avg_ts\": 0.5}]'\n").unwrap();
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let line = ["vs", "llama-bench", "m.gguf", "--bin", "./fork-bench", "--name", "fork"];
    let sizes = ["--pairs", "3", "--tokens", "4", "--prompt", "64", "--json"];
    let r = bench(home.path(), &[&line[..], &sizes].concat());
    assert_eq!(r.code, 0, "{}", r.err);
    let rows: Vec<serde_json::Value> = r.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), 2, "decode and prefill: {}", r.out);
    for (row, work) in rows.iter().zip(["decode", "prefill"]) {
        assert_eq!(
            (&row["kind"], &row["v"], &row["work"]),
            (&"tamp.bench.vs".into(), &1.into(), &work.into())
        );
        assert_eq!((&row["engine"], &row["engine_version"]), (&"fork".into(), &"abc".into()));
        assert_eq!((&row["model"], &row["pairs"], &row["same_ids"]), (&"m".into(), &3.into(), &false.into()));
        assert_eq!(row["theirs"], serde_json::json!([0.5, 0.5, 0.5]));
        assert!(row["ratio"].as_f64() > Some(1.0) && row["ceiling_gb_s"].as_f64() > Some(0.0), "{row}");
        assert_eq!(row["ceiling_fraction"].is_null(), work == "prefill");
    }
}

#[test]
fn batch_says_total_per_stream_cost_and_bytes_per_token_and_width_every_width() {
    let home = home();
    let r = bench(home.path(), &["batch", "m.gguf", "--tokens", "4", "--batch", "1,4"]);
    assert_eq!(r.code, 0, "{}", r.err);
    let head: Vec<&str> = r.out.lines().next().unwrap().split("  ").filter(|w| !w.is_empty()).collect();
    let words: Vec<&str> = head.iter().map(|w| w.trim()).collect();
    assert_eq!(words, ["batch", "tokens/s", "per stream", "step ms", "cost", "MB/token"]);
    let r = last_json(&bench(home.path(), &["batch", "m.gguf", "--tokens", "4", "--batch", "1,4", "--json"]));
    let bytes = |i: usize| r["points"][i]["bytes_per_token"].as_f64().unwrap();
    assert_eq!((bytes(0), bytes(1) * 4.0), (r["weight_bytes"].as_f64().unwrap(), bytes(0)));

    let r = last_json(&bench(home.path(), &["width", "m.gguf", "--rounds", "1", "--json"]));
    let rows: Vec<u64> =
        r["points"].as_array().unwrap().iter().map(|p| p["rows"].as_u64().unwrap()).collect();
    assert_eq!(rows, [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32]);
    let one = ["width", "--formats", "q8_0", "--bytes", "1", "--rounds", "1", "--json"];
    let r = last_json(&bench(home.path(), &one));
    assert_eq!((r["formats"].as_array().unwrap().len(), &r["threads"]), (1, &1.into()));
    assert_eq!(r["formats"][0]["points"].as_array().unwrap().len(), 11);
}

#[test]
fn decode_takes_a_depth_and_refuses_one_that_its_text_cannot_fill() {
    let home = home();
    let args = ["decode", "m.gguf", "--depth", "300", "--tokens", "4", "--repeats", "1", "--json"];
    let r = last_json(&bench(home.path(), &args));
    assert_eq!(r["prompt_tokens"], 300);
    assert!(r["kv_bytes_per_token"].as_f64() > Some(0.0));
    std::fs::write(home.path().join("short.txt"), "too short").unwrap();
    let r = bench(home.path(), &["decode", "m.gguf", "--depth", "300", "--prompt-file", "short.txt"]);
    assert!(r.code == 2 && r.err.contains("--prompt-file"), "{}", r.err);
}

#[test]
fn a_sample_is_one_record_of_what_was_seen_and_pins_its_prompts_by_their_ids() {
    let home = home();
    let args = ["sample", "m.gguf", "--prompts", "short,code-edit", "--repeats", "2", "-n", "5", "--json"];
    let r = bench(home.path(), &args);
    assert_eq!((r.code, r.out.lines().count()), (0, 1), "{}", r.err);
    let s: Sample = serde_json::from_str(&r.out).unwrap();
    assert_eq!((s.kind.as_str(), s.v, s.engine.name.as_str(), s.threads), (SAMPLE, 1, "tamp", 1));
    assert!(s.decision_grade, "nobody else holds the lock: {}", r.err);
    assert!(s.more.is_empty(), "fields that the record does not know: {:?}", s.more);
    let names: Vec<&str> = s.requests.iter().map(|r| r.prompt.as_str()).collect();
    assert_eq!(names, ["short", "code-edit", "short", "code-edit"]);
    // The same prompt gives the same tokens again; two prompts have two hashes.
    assert_eq!(s.requests[0].tokens, s.requests[2].tokens);
    assert_eq!(s.requests[0].prompt_hash, s.requests[2].prompt_hash);
    assert_ne!(s.requests[0].prompt_hash, s.requests[1].prompt_hash);
    for q in &s.requests {
        assert_eq!((q.tokens.len(), q.token_ns.len(), q.finish.as_str()), (5, 4, "length"));
        assert!(q.prefill_ns > 0 && q.first_token_ns >= q.prefill_ns && q.cached_tokens == 0);
        assert_eq!(q.total_ns, q.first_token_ns + q.token_ns.iter().sum::<u64>());
    }
    // Work is that of the measured requests alone: the prompt in chunks of 256, then four tokens one by one.
    let rows: usize = s.requests.iter().map(|q| q.prompt_tokens + 4).sum();
    let forwards: usize = s.requests.iter().map(|q| q.prompt_tokens.div_ceil(256) + 4).sum();
    assert_eq!((s.work.target_forwards as usize, s.work.target_positions as usize), (forwards, rows));
    let seen = |name: &str| s.observed.get(name).unwrap_or_else(|| panic!("{name} in {:?}", s.observed));
    for (name, value) in [("fallbacks", 0), ("target_trunks", 1), ("plans_rebuilt", 0), ("steps", forwards)] {
        assert_eq!(seen(name), value, "{name}");
    }
    assert_eq!((seen("weights_from"), seen("cached_bindings_enabled")), (&"repacked".into(), &true.into()));
    assert_eq!(seen("backend.head"), seen("head_backend"));
    assert!(s.counters.contains_key("spec.propose.none"), "{:?}", s.counters);
    let ceiling = s.ceiling.as_ref().unwrap();
    assert!(ceiling.before_gb_s > 0.0 && ceiling.after_gb_s > 0.0 && ceiling.weight_bytes > 0);
    assert!(s.memory_peak.is_none_or(|b| b > 1 << 20) && s.metrics()["decode_tok_s"] > 0.0);
    assert_eq!(s.plan_hash, s.plan.as_ref().unwrap()["hash"].as_str().unwrap());
    assert!(s.phases_ms["start_to_ready"] > 0.0 && s.phases_ms["total"] > s.phases_ms["start_to_ready"]);
}

#[test]
fn ids_that_bench_prompts_printed_are_the_prompt_that_the_name_stands_for() {
    let home = home();
    let of = |r: &Ran| -> Sample { serde_json::from_str(r.out.lines().last().unwrap()).unwrap() };
    let printed =
        ran(tamp(home.path()).args(["bench", "prompts", "m.gguf", "--prompt-tokens", "7", "--json"]));
    let ids = home.path().join("ids.json");
    std::fs::write(&ids, &printed.out).unwrap();
    let quick = ["-n", "2", "--warmup", "0", "--no-ceiling", "--json"];
    let file = ["sample", "m.gguf", "--ids", "ids.json", "--prompts", "prose"];
    let by_ids = of(&bench(home.path(), &[&file[..], &quick].concat()));
    let name = ["sample", "m.gguf", "--prompts", "prose", "--prompt-tokens", "7"];
    let by_name = of(&bench(home.path(), &[&name[..], &quick].concat()));
    assert_eq!(by_ids.requests[0].prompt_hash, by_name.requests[0].prompt_hash);
    assert_eq!((by_ids.requests[0].prompt_tokens, by_ids.ceiling.is_none()), (7, true));
    let record = last_json(&printed);
    assert_eq!(record["hashes"]["prose"], by_ids.requests[0].prompt_hash);
    std::fs::write(&ids, record["prompts"]["prose"].to_string()).unwrap();
    let bare = of(&bench(home.path(), &[&["sample", "m.gguf", "--ids", "ids.json"][..], &quick].concat()));
    assert_eq!(bare.requests[0].prompt_hash, by_name.requests[0].prompt_hash);
}

#[test]
fn a_sample_that_cannot_be_is_refused_in_a_sentence_before_anything_is_measured() {
    let home = home();
    std::fs::write(home.path().join("list.json"), "[1, 2, -3]").unwrap();
    std::fs::write(home.path().join("other.json"), r#"{"kind":"x","v":1,"prompts":{}}"#).unwrap();
    std::fs::write(home.path().join("far.json"), "[4000000000]").unwrap();
    for (args, code, says) in [
        (
            &["--ctx", "64", "--prompts", "prose", "--prompt-tokens", "4"][..],
            5,
            "4 prompt tokens and 64 new tokens need 68 positions, more than the context of 64",
        ),
        (&["--prompts", "shrt"], 2, "no prompt `shrt`; known: short, prose, long, code-edit, chat"),
        (&["--prompts", "short", "--prompt-tokens", "900"], 2, "900 are asked for"),
        (&["--ids", "list.json"], 2, "a list of token ids"),
        (&["--ids", "other.json"], 2, "neither a list"),
        (&["--ids", "far.json"], 5, "4000000000"),
        (&["--ids", "none.json"], 3, "none.json"),
        (&["--temperature", "-1"], 2, "temperature"),
    ] {
        let r = bench(home.path(), &[&["sample", "m.gguf"][..], args].concat());
        assert_eq!(r.code, code, "{args:?}: {}", r.err);
        assert!(r.err.contains(says) && r.out.is_empty(), "{args:?}: {}\n{}", r.err, r.out);
    }
}

#[test]
fn a_figure_taken_beside_another_measurement_is_not_decision_grade_unless_that_one_is_the_lab_above_it() {
    let home = home();
    let lock = home.path().join("lock");
    let quick = ["sample", "m.gguf", "-n", "2", "--warmup", "0", "--no-ceiling", "--json", "--threads", "1"];
    let graded = |c: &mut std::process::Command| {
        let r = ran(c.arg("bench").args(quick));
        assert_eq!(r.code, 0, "{}", r.err);
        (last_json(&r)["decision_grade"].as_bool().unwrap(), r.err)
    };
    assert!(graded(&mut tamp(home.path())).0, "the machine is free");
    // This process is the lab: it holds the lock, and says so to its children.
    let held = match tamp_lab::lock::try_take(&lock, "a test").unwrap() {
        tamp_lab::lock::Tried::Taken(held) => held,
        other => panic!("{other:?}"),
    };
    let (grade, said) = graded(&mut tamp(home.path()));
    let me = std::process::id();
    assert!(!grade && said.contains(&format!("process {me} (`a test`)")), "{said}");
    let (grade, said) = graded(tamp(home.path()).env("TAMP_LAB_HOLDER", me.to_string()));
    assert!(grade && said.is_empty(), "{said}");
    let (grade, said) = graded(tamp(home.path()).env("TAMP_LAB_HOLDER", (me + 1).to_string()));
    assert!(!grade && said.contains("and it does not"), "{said}");
    // Every workload grades its figures.
    let r = last_json(&ran(
        tamp(home.path()).args(["bench", "batch", "m.gguf", "--tokens", "2", "--batch", "1", "--json"])
    ));
    assert_eq!(r["decision_grade"], false);
    // Who waits starts when the holder lets go.
    let mut waiting = tamp(home.path());
    waiting.arg("bench").args(quick).arg("--wait").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut waiting = waiting.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(waiting.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("waiting: ") && waiting.try_wait().unwrap().is_none(), "{said}");
    drop(held);
    let out = waiting.wait_with_output().unwrap();
    let row: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(out.status.success() && row["decision_grade"] == true);
    // A lab that is gone holds nothing, whatever the environment still says.
    let (grade, _) = graded(tamp(home.path()).env("TAMP_LAB_HOLDER", me.to_string()));
    assert!(!grade);
}

#[test]
fn a_width_table_that_is_kept_tells_explain_what_a_draft_must_be_worth() {
    let home = home();
    let explain = |more: &[&str]| {
        let r = ran(tamp(home.path()).args(["explain", "m.gguf", "--threads", "1"]).args(more));
        assert_eq!(r.code, 0, "{}", r.err);
        r
    };
    let before = explain(&[]).out;
    assert!(
        before.contains("verify wall: not measured") && before.contains("bench width m.gguf --save"),
        "{before}"
    );
    assert!(last_json(&explain(&["--json"]))["wall"].is_null());

    let r = bench(home.path(), &["width", "m.gguf", "--rounds", "1", "--save", "--json"]);
    let printed: WidthTable = serde_json::from_str(r.out.lines().last().unwrap()).unwrap();
    let widths = printed.widths().unwrap();
    assert_eq!((printed.model.as_str(), printed.threads, printed.decision_grade), ("m.gguf", 1, true));
    assert!(r.err.contains("kept for `tamp explain` in "), "{}", r.err);

    let after = explain(&[]).out;
    assert!(after.contains("verify wall: measured 0 min ago, with another plan"), "{after}");
    let wall = &last_json(&explain(&["--json"]))["wall"];
    assert_eq!(wall["plan_hash"], printed.plan_hash);
    let points = wall["widths"].as_array().unwrap();
    assert_eq!(points.len(), 11);
    for p in points {
        let rows = p["rows"].as_u64().unwrap() as usize;
        assert_eq!(p["cost"].as_f64().unwrap(), widths.at(rows));
        assert_eq!(p["break_even"].as_f64(), widths.break_even(rows, 1, 0.0));
    }
    // Another number of threads, or another file of the same name, has its own costs.
    let two = ran(tamp(home.path()).args(["explain", "m.gguf", "--threads", "2"])).out;
    assert!(two.contains("not measured for this model, processor and 2 threads"), "{two}");
    std::fs::write(home.path().join("m.gguf"), tiny(Arch::Llama, 8)).unwrap();
    assert!(explain(&[]).out.contains("verify wall: not measured"));
}

#[test]
fn explain_tells_a_program_every_card_whether_it_could_act_and_if_not_why() {
    let home = home();
    let r = last_json(&ran(tamp(home.path()).args(["explain", "m.gguf", "--threads", "1", "--json"])));
    assert_eq!((&r["kind"], &r["v"]), (&"tamp.explain".into(), &1.into()));
    assert_eq!(r["plan"]["hash"].as_str().unwrap().len(), 16);
    let cards = r["cards"].as_array().unwrap();
    let known = ran(tamp(home.path()).args(["techniques", "--json"]));
    let known = last_json(&known);
    let engines = |c: &&serde_json::Value| !c["room"].as_str().unwrap().starts_with("server.");
    assert_eq!(cards.len(), known.as_array().unwrap().iter().filter(engines).count());
    for c in cards {
        assert!(c["effect"].is_string() && c["needs"].is_array() && c["knobs"].is_array(), "{c}");
        assert_eq!(c["applicable"].as_bool().unwrap(), c["why"].is_null(), "{c}");
    }
    let card =
        |room: &str, name: &str| cards.iter().find(|c| c["room"] == room && c["name"] == name).unwrap();
    // Exactly one of each room is chosen, and what is chosen applies.
    for room in cards.iter().map(|c| c["room"].as_str().unwrap()) {
        let chosen: Vec<_> = cards.iter().filter(|c| c["room"] == room && c["chosen"] == true).collect();
        assert!(chosen.len() == 1 && chosen[0]["applicable"] == true, "{room}: {chosen:?}");
    }
    assert_eq!(card("kv.codec", "f32")["applicable"], true);
    let read = card("weights.residency", "read");
    assert!(read["why"].as_str().unwrap().contains("not a bundle"), "{read}");
    let neon = card("kernels.isa", "neon");
    assert_eq!(neon["applicable"].as_bool().unwrap(), cfg!(target_arch = "aarch64"), "{neon}");
    let core = card("engine", "core");
    let chunk = core["knobs"].as_array().unwrap().iter().find(|k| k["name"] == "chunk").unwrap();
    assert_eq!(chunk["values"], serde_json::json!({ "type": "int", "min": 1, "max": 8192 }));
}

#[test]
fn the_plans_hash_tells_contexts_and_codecs_apart_and_the_same_settings_not() {
    let home = home();
    let hash = |more: &[&str]| -> String {
        let r = ran(tamp(home.path()).args(["explain", "m.gguf", "--threads", "1", "--json"]).args(more));
        last_json(&r)["plan"]["hash"].as_str().unwrap().into()
    };
    let plain = hash(&["--ctx", "128"]);
    assert_eq!(plain, hash(&["--set", "engine.core.ctx=128"]), "two ways to say the same");
    for other in [
        &["--ctx", "192"][..],
        &["--ctx", "128", "--use", "kv.codec=f32"],
        &["--ctx", "128", "--set", "engine.core.chunk=64"],
    ] {
        assert_ne!(plain, hash(other), "{other:?}");
    }
}

#[test]
fn the_reuse_curve_has_every_share_and_says_what_was_not_computed() {
    let home = home();
    let line = ["prefix", "m.gguf", "--tokens", "64", "--repeats", "1", "--json"];
    let r = last_json(&bench(home.path(), &line));
    assert_eq!((&r["kind"], &r["decision_grade"]), (&"tamp.bench.prefix".into(), &true.into()));
    let points = r["points"].as_array().unwrap();
    let of = |name: &str| points.iter().map(|p| p[name].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        (of("share"), of("shared_tokens")),
        (vec![0, 25, 50, 75, 90, 95], vec![0, 16, 32, 48, 57, 60])
    );
    assert!(points.iter().all(|p| p["cached_tokens"].as_f64() <= p["shared_tokens"].as_f64()));
    let r = bench(home.path(), &["prefix", "m.gguf", "--shares", "101"]);
    assert_eq!(r.code, 2, "{}", r.err);
}
