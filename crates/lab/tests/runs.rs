//! A run can be disturbed, stopped and killed, and its answers are found again.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use std::cell::Cell;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Fake, USUAL, run, slow, spec};
use tamp_lab::ledger::{Body, Ledger};
use tamp_lab::record::{Stage, Store};
use tamp_lab::replay::replay;
use tamp_lab::run::{Ask, Lab, LabError, Outcome};
use tamp_lab::verdict::Verdict;

fn measured(dir: &std::path::Path) -> Vec<(String, bool)> {
    let rows = Ledger::at(dir).rows().unwrap();
    rows.into_iter()
        .filter_map(|r| match r.body {
            Body::Measured { what, void, .. } => Some((what, void.is_some())),
            _ => None,
        })
        .collect()
}

#[test]
fn a_disturbed_block_is_void_and_measured_again_and_the_run_ends_right() {
    let dir = tempfile::tempdir().unwrap();
    // A foreign program takes a core from the 40th to the 44th process and halves what runs beside it.
    let mut fake = Fake::twisted(1.1, 3, |r, _, at, n| {
        if (40..45).contains(&n) && at.stage == Stage::Block {
            r.quiet.foreign_cpu = Some(0.97);
            slow(r, 2.0);
        }
    });
    let Outcome::Decided(all) = run(dir.path(), &mut fake, &spec(USUAL), false).unwrap() else { panic!() };
    assert_eq!(all[0].verdict, Some(Verdict::Retain), "{}", all[0].reason);
    let voided = measured(dir.path()).iter().filter(|m| m.1).count();
    assert!((1..=2).contains(&voided) && all[0].voided == voided, "{voided} {}", all[0].voided);
    let e = &all[0].estimates["decode_tok_s"];
    assert!((1.07..1.13).contains(&e.ratio), "{}", e.ratio);
}

#[test]
fn a_machine_that_is_never_quiet_ends_the_run_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut fake = Fake::twisted(1.1, 3, |r, _, at, _| {
        if at.stage == Stage::Block {
            r.quiet.foreign_cpu = Some(0.97);
        }
    });
    match run(dir.path(), &mut fake, &spec(USUAL), false) {
        Err(LabError::Busy(why)) => assert!(why.contains("0.97"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// Runs until `blocks` blocks are measured, as a file called `q.toml`; what was said, and whether it ended.
fn heard(dir: &std::path::Path, text: &str, blocks: usize) -> (Vec<String>, bool) {
    let (mut fake, mut said) = (Fake::new(1.1, 5), Vec::new());
    let stop = || measured(dir).iter().filter(|m| m.0.starts_with("block")).count() >= blocks;
    let mut watch = |e: tamp_lab::run::Event<'_>| {
        if let tamp_lab::run::Event::Note(what) = e {
            said.push(what.to_string());
        }
    };
    let mut lab = Lab {
        ledger: Ledger::at(dir),
        store: Store::new(dir),
        bench: &mut fake,
        watch: &mut watch,
        stop: &stop,
    };
    let ask = Ask { file: "q.toml".into(), ..Ask::default() };
    let ended = lab.run(&spec(text), &ask).is_ok();
    (said, ended)
}

#[test]
fn a_spec_that_was_edited_after_its_run_was_stopped_begins_anew_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(heard(dir.path(), USUAL, 2), (vec![], false));
    assert_eq!(heard(dir.path(), USUAL, 3), (vec![], false), "the same question goes on in silence");
    let (said, ended) = heard(dir.path(), &USUAL.replace("[8, 16]", "[8, 20]"), usize::MAX);
    assert!(ended && said.len() == 1, "{said:?}");
    for word in ["q.toml was changed", "design.pairs", "3 blocks", "begins anew"] {
        assert!(said[0].contains(word), "{word}: {said:?}");
    }
    // What was decided is not stopped: another question of the same file is nothing to speak of.
    assert_eq!(heard(dir.path(), &USUAL.replace("[8, 16]", "[8, 24]"), usize::MAX), (vec![], true));
}

#[test]
fn a_torn_last_line_is_said_and_then_replaced() {
    let dir = tempfile::tempdir().unwrap();
    heard(dir.path(), USUAL, 2);
    let ledger = Ledger::at(dir.path());
    let rows = ledger.rows().unwrap().len();
    let mut bytes = std::fs::read(ledger.path()).unwrap();
    assert_eq!(ledger.torn().unwrap(), 0);
    let torn = b"{\"kind\":\"tamp.lab.row\",\"n\":9";
    bytes.extend_from_slice(torn);
    std::fs::write(ledger.path(), &bytes).unwrap();
    assert_eq!((ledger.torn().unwrap(), ledger.rows().unwrap().len()), (torn.len() as u64, rows));
    let (said, ended) = heard(dir.path(), USUAL, usize::MAX);
    assert!(ended && said.len() == 1 && said[0].contains("28 bytes"), "{said:?}");
    assert_eq!(ledger.torn().unwrap(), 0);
}

#[test]
fn a_stopped_run_goes_on_where_it_was_and_ends_as_if_it_had_not_been_stopped() {
    let whole = tempfile::tempdir().unwrap();
    let s = spec(USUAL);
    let count = |dir: &std::path::Path| measured(dir).len();
    let Outcome::Decided(want) = run(whole.path(), &mut Fake::new(1.05, 5), &s, false).unwrap() else {
        panic!()
    };
    let dir = tempfile::tempdir().unwrap();
    let mut stops = 0;
    let got = loop {
        let asked = Cell::new(0);
        let mut fake = Fake::new(1.05, 5 + stops);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > 30
        };
        let mut lab = Lab {
            ledger: Ledger::at(dir.path()),
            store: Store::new(dir.path()),
            bench: &mut fake,
            watch: &mut |_| (),
            stop: &stop,
        };
        let before = count(dir.path());
        match lab.run(&s, &Ask::default()) {
            Ok(Outcome::Decided(all)) => break all,
            Err(LabError::Stopped(..)) => stops += 1,
            other => panic!("{other:?}"),
        }
        assert!(count(dir.path()) >= before && stops < 50);
    };
    assert!(stops >= 1, "it was never stopped");
    assert_eq!((got[0].verdict, got[0].pairs), (want[0].verdict, want[0].pairs));
    assert_eq!(count(dir.path()), count(whole.path()));
}

#[test]
fn the_ledger_answers_a_repeated_question_and_a_changed_dependency_expires_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let s = spec(USUAL);
    let first = run(dir.path(), &mut Fake::new(1.1, 1), &s, false).unwrap();
    assert!(matches!(first, Outcome::Decided(_)));
    let mut fake = Fake::new(1.1, 2);
    match run(dir.path(), &mut fake, &s, false).unwrap() {
        Outcome::Answered(row, why) => {
            assert!(why.contains("retain") && matches!(row.body, Body::Decided { .. }), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fake.ran, 0, "an answered question must not be measured");
    // The same question in other words.
    let other = tamp_lab::spec::Frozen::from_value(
        {
            let mut v = s.value.clone();
            v["title"] = "the lever again, under another title".into();
            v
        },
        "other",
    )
    .unwrap();
    assert_ne!(other.id, s.id);
    assert!(matches!(run(dir.path(), &mut fake, &other, false).unwrap(), Outcome::Answered(..)));
    // Another contract is another question.
    let mut v = s.value.clone();
    v["contract"]["max_tokens"] = 32.into();
    let short = tamp_lab::spec::Frozen::from_value(v, "short").unwrap();
    assert!(matches!(run(dir.path(), &mut fake, &short, false).unwrap(), Outcome::Decided(_)));
    assert!(
        matches!(run(dir.path(), &mut Fake::new(1.1, 2), &s, true).unwrap(), Outcome::Decided(_)),
        "--again"
    );
    let mut moved = Fake::new(1.1, 3);
    moved.depends = "another machine".into();
    assert!(matches!(run(dir.path(), &mut moved, &s, false).unwrap(), Outcome::Decided(_)), "expired");
}

#[test]
fn a_void_verdict_answers_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let s = spec(USUAL);
    let void =
        |r: &mut tamp_lab::record::RunRecord, _: &tamp_lab::spec::Arm, _: tamp_lab::bench::At, _: u64| {
            r.locked = false;
        };
    run(dir.path(), &mut Fake::twisted(1.1, 1, void), &s, false).unwrap();
    let Outcome::Decided(all) = run(dir.path(), &mut Fake::new(1.1, 1), &s, false).unwrap() else { panic!() };
    assert_eq!(all[0].verdict, Some(Verdict::Retain));
}

#[test]
fn every_decision_is_worked_out_again_bit_by_bit_and_a_changed_record_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let broken =
        |r: &mut tamp_lab::record::RunRecord, a: &tamp_lab::spec::Arm, _: tamp_lab::bench::At, _: u64| {
            if a.name == "candidate" {
                r.samples[0].requests[0].tokens[3] ^= 1;
            }
        };
    for (i, effect) in [1.1, 0.9, 1.0].into_iter().enumerate() {
        run(dir.path(), &mut Fake::new(effect, i as u64), &spec(USUAL), true).unwrap();
    }
    run(dir.path(), &mut Fake::twisted(1.2, 9, broken), &spec(USUAL), true).unwrap();
    let blocked = format!("{USUAL}\n[[blocked]]\nkind = \"data\"\nneeds = \"a file\"\n");
    run(dir.path(), &mut Fake::new(1.0, 1), &spec(&blocked), true).unwrap();
    let (ledger, store) = (Ledger::at(dir.path()), Store::new(dir.path()));
    let rows = ledger.rows().unwrap();
    let all: Vec<_> = rows.iter().filter_map(|r| replay(&rows, &store, r).unwrap()).collect();
    assert_eq!(all.len(), 5);
    for r in &all {
        assert!(r.identical, "row {}: {:?}", r.n, r.differences);
    }
    let record = std::fs::read_dir(dir.path().join("records")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&record).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&record, bytes).unwrap();
    let errors: Vec<String> =
        rows.iter().filter_map(|r| replay(&rows, &store, r).err()).map(|e| e.to_string()).collect();
    assert!(
        errors
            .iter()
            .any(|e| e.contains(record.file_stem().unwrap().to_str().unwrap().trim_end_matches(".json")))
    );
}

#[test]
fn a_record_that_is_another_whole_record_is_named() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &mut Fake::new(1.1, 1), &spec(USUAL), false).unwrap();
    let (ledger, store) = (Ledger::at(dir.path()), Store::new(dir.path()));
    let rows = ledger.rows().unwrap();
    let file = |wanted: &str| {
        let found = rows.iter().find_map(|r| match &r.body {
            Body::Measured { what, records, .. } if what == wanted => Some(records.clone()),
            _ => None,
        });
        dir.path().join("records").join(format!("{}.json.gz", found.unwrap()))
    };
    std::fs::copy(file("block 1"), file("block 0")).unwrap();
    let error = rows.iter().find_map(|r| replay(&rows, &store, r).err()).unwrap().to_string();
    assert!(error.contains("does not hold what its name says"), "{error}");
}

const CHILD: &str = "TAMP_TEST_LAB_CHILD";

/// Not a test of its own: the process that the next test kills.
#[test]
fn a_child_runs_experiments_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let dir = std::path::PathBuf::from(dir);
    for n in 0.. {
        // Another lever each time, so that no question answers the next.
        let s =
            spec(&USUAL.replace("[[manipulation]]", &format!("set = [\"fake.n={n}\"]\n[[manipulation]]")));
        run(&dir, &mut Fake::new(1.1, n), &s, false).unwrap();
    }
}

#[test]
fn kill_9_at_any_moment_leaves_a_ledger_that_loads_and_a_run_that_resumes() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let (mut rng, mut seen) = (tamp_lab::stats::rng::Rng::keyed(7, 7), 0);
    for round in 0..100 {
        let mut child = Command::new(&exe)
            .args(["--exact", "a_child_runs_experiments_until_it_is_killed", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(5_000 + rng.bits() % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let rows = Ledger::at(dir.path()).rows().unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert!(rows.len() >= seen, "round {round}: rows were lost");
        seen = rows.len();
    }
    assert!(seen > 50, "the child got nowhere: {seen} rows");
    // The experiment that the last kill cut through is finished by the next run, without measuring what is there.
    let (ledger, store) = (Ledger::at(dir.path()), Store::new(dir.path()));
    let rows = ledger.rows().unwrap();
    let opened = rows.iter().rev().find_map(|r| match &r.body {
        Body::Opened { value, .. } => Some(value.clone()),
        _ => None,
    });
    let s = tamp_lab::spec::Frozen::from_value(opened.unwrap(), "ledger").unwrap();
    run(dir.path(), &mut Fake::new(1.1, 1), &s, false).unwrap();
    let rows = ledger.rows().unwrap();
    let decided: Vec<_> = rows.iter().filter_map(|r| replay(&rows, &store, r).unwrap()).collect();
    assert!(!decided.is_empty() && decided.iter().all(|r| r.identical));
    let blocks = |what: &str| {
        let of = |r: &&tamp_lab::ledger::Row| matches!(&r.body, Body::Measured { spec, what: w, .. } if *spec == s.id && w == what);
        rows.iter().filter(of).count()
    };
    assert_eq!((blocks("scout"), blocks("block 0")), (1, 1));
}
