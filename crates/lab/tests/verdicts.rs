//! Every way in which a candidate can be broken ends in its own verdict, each time, and for its own reason.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use common::{Fake, USUAL, decided, slow, spec};
use serde_json::json;
use tamp_base::scored::{Scored, nano};
use tamp_lab::bench::{At, REFUSED};
use tamp_lab::record::{RunRecord, Stage};
use tamp_lab::spec::{Arm, BlockerKind, Frozen};
use tamp_lab::verdict::Verdict;

const REPEATS: u64 = 20;

/// Runs one kind of candidate 20 times on machines with other noise; each time the verdict and the check are these.
fn always(
    spec: &Frozen,
    effect: f64,
    verdict: Verdict,
    check: &str,
    says: &str,
    twist: impl Fn(&mut RunRecord, &Arm, At, u64) + Copy,
) {
    for seed in 0..REPEATS {
        let d = decided(&mut Fake::twisted(effect, seed, twist), spec);
        assert_eq!((d.verdict, d.check.as_str()), (Some(verdict), check), "seed {seed}: {}", d.reason);
        assert!(d.reason.contains(says), "seed {seed}: {}", d.reason);
    }
}

fn candidate(arm: &Arm) -> bool {
    arm.name == "candidate"
}

#[test]
fn a_true_gain_is_retained_and_a_true_loss_rejected() {
    let s = spec(USUAL);
    always(&s, 1.10, Verdict::Retain, "", "", |_, _, _, _| ());
    always(&s, 0.90, Verdict::Reject, "", "", |_, _, _, _| ());
}

#[test]
fn a_lever_that_never_acts_is_void_and_not_no_effect() {
    always(&spec(USUAL), 1.0, Verdict::Void, "engaged", "never acted", |r, a, _, _| {
        if candidate(a) {
            let acts = r.samples[0].counters.get_mut("fake.lever.on").unwrap();
            (acts.declined, acts.acted) = (64, 0);
        }
    });
    always(&spec(USUAL), 1.2, Verdict::Void, "engaged", "never asked", |r, a, _, _| {
        if candidate(a) {
            *r.samples[0].counters.get_mut("fake.lever.on").unwrap() = tamp_base::count::Acts::default();
        }
    });
}

#[test]
fn a_lever_that_silently_does_nothing_is_void() {
    always(&spec(USUAL), 1.0, Verdict::Void, "identical", "nothing to compare", |r, _, _, _| {
        r.samples[0].plan = Some(json!({ "lever": "off", "hash": "off" }));
        r.samples[0].plan_hash = "off".into();
    });
}

#[test]
fn a_manipulation_that_did_not_take_is_void() {
    always(&spec(USUAL), 1.2, Verdict::Void, "manipulation", "plan.lever", |r, a, _, _| {
        if candidate(a) {
            r.samples[0].plan = Some(json!({ "lever": "half", "hash": "half" }));
        }
    });
}

#[test]
fn a_broken_invariant_is_void_and_a_typed_one_blocks() {
    let elsewhere = |r: &mut RunRecord, a: &Arm, _: At, _: u64| {
        if candidate(a) {
            r.samples[0].observed.insert("backend.head".into(), json!("slow"));
        }
    };
    always(&spec(USUAL), 1.2, Verdict::Void, "invariant", "slow was observed", elsewhere);
    let typed = USUAL.replace(
        "[design]",
        "[[invariant]]\nname = \"not routed elsewhere\"\nobservable = \"observed.backend.head\"\npred = \"!= slow\"\n\
         block = { kind = \"runtime\", needs = \"a fast head for the lever\" }\n[design]",
    );
    // The typed demand stands first in the file's order only if no other invariant speaks of the same fact.
    let s = spec(&typed);
    let value = serde_json::to_string(&s.value).unwrap();
    let mut alone: serde_json::Value = serde_json::from_str(&value).unwrap();
    alone["invariant"].as_array_mut().unwrap().remove(0);
    let s = Frozen::from_value(alone, "typed").unwrap();
    for seed in 0..REPEATS {
        let d = decided(&mut Fake::twisted(1.2, seed, elsewhere), &s);
        assert_eq!(d.verdict, Some(Verdict::Block), "{}", d.reason);
        let b = d.blocker.unwrap();
        assert_eq!((b.kind, b.needs.as_str()), (BlockerKind::Runtime, "a fast head for the lever"));
    }
}

#[test]
fn other_tokens_are_rejected_however_fast() {
    always(&spec(USUAL), 1.5, Verdict::Reject, "quality", "token 9", |r, a, _, _| {
        if candidate(a) {
            r.samples[0].requests[0].tokens[9] ^= 1;
        }
    });
}

/// What the scouts of a control and of a candidate that is `kl` nats per token away say of their quality; the candidate
/// needs `more` nats per token and lost `lost` of 160 items.
fn qualities(kl: f64, more: f64, lost: usize) -> (Scored, Scored) {
    let control = Scored {
        text: "text".into(),
        bytes: 1600,
        nll: (0..384).map(|i| nano(3.0 + 0.1 * f64::from(i % 7))).collect(),
        best: vec![7; 384],
        kept: "what the control wrote".into(),
        task: "items".into(),
        margins: vec![nano(0.5); 160],
        ..Scored::default()
    };
    let candidate = Scored {
        kept: String::new(),
        against: control.kept.clone(),
        kl: (0..384).map(|i| nano(kl * (0.9 + 0.2 * f64::from(i % 2)))).collect(),
        nll: control.nll.iter().map(|n| n + nano(more)).collect(),
        margins: (0..160).map(|i| nano(if i < lost { -0.1 } else { 0.5 })).collect(),
        ..control.clone()
    };
    (control, candidate)
}

/// Gives the scouts their quality, the candidate's after `twist`.
fn told(
    r: &mut RunRecord,
    a: &Arm,
    at: At,
    both: &(Scored, Scored),
    twist: impl Fn(&mut Scored, &mut Scored),
) {
    if at.stage == Stage::Scout {
        let (mut control, mut tried) = both.clone();
        twist(&mut control, &mut tried);
        r.samples[0].quality = Some(if candidate(a) { tried } else { control });
    }
}

const NEAR: &str = "[quality]\nclass = \"near-exact\"\nmax_flips = 0.5\nmax_kl = 0.001\n";
const LOSSY: &str = "[quality]\nclass = \"approximate\"\nmax_bits = 0.02\nmax_task_loss = 0.05\n";

#[test]
fn a_divergence_above_its_bound_is_rejected_however_fast_and_one_below_is_not() {
    let s = spec(&format!("{USUAL}{NEAR}"));
    let (near, far) = (qualities(0.0005, 0.0, 0), qualities(0.0011, 0.0, 0));
    always(&s, 1.10, Verdict::Retain, "", "", |r, a, at, _| told(r, a, at, &near, |_, _| ()));
    always(&s, 1.50, Verdict::Reject, "quality", "max_kl", |r, a, at, _| told(r, a, at, &far, |_, _| ()));
    // The mean is allowed; over so few passages it may as well not be.
    always(&s, 1.50, Verdict::NotMeasurable, "quality", "too few to tell", |r, a, at, _| {
        told(r, a, at, &near, |_, b| {
            b.kl = (0..384).map(|i| nano(if i / 16 == 5 { 0.02 } else { 1e-6 })).collect();
        });
    });
}

#[test]
fn a_task_that_loses_more_than_its_bound_is_rejected_however_fast() {
    let s = spec(&format!("{USUAL}{LOSSY}"));
    let (good, words, items, few) =
        (qualities(0.5, 0.01, 1), qualities(0.5, 0.1, 0), qualities(0.5, 0.0, 12), qualities(0.5, 0.0, 6));
    always(&s, 1.10, Verdict::Retain, "", "", |r, a, at, _| told(r, a, at, &good, |_, _| ()));
    always(&s, 1.50, Verdict::Reject, "quality", "max_bits", |r, a, at, _| told(r, a, at, &words, |_, _| ()));
    always(&s, 1.50, Verdict::Reject, "quality", "max_task_loss", |r, a, at, _| {
        told(r, a, at, &items, |_, _| ());
    });
    always(&s, 1.50, Verdict::NotMeasurable, "quality", "too few to tell", |r, a, at, _| {
        told(r, a, at, &few, |_, _| ());
    });
}

#[test]
fn a_quality_that_could_not_be_measured_is_void_and_not_no_effect() {
    let both = qualities(0.0, 0.0, 0);
    for (bound, says) in [(NEAR, "says nothing"), (LOSSY, "says nothing")] {
        let s = spec(&format!("{USUAL}{bound}"));
        always(&s, 1.5, Verdict::Void, "quality", says, |_, _, _, _| ());
        always(&s, 1.5, Verdict::Void, "quality", "no room", |r, a, at, _| {
            told(r, a, at, &both, |_, b| *b = Scored { failed: Some("no room".into()), ..Scored::default() });
        });
        always(&s, 1.5, Verdict::Void, "quality", "no text was scored", |r, a, at, _| {
            told(r, a, at, &both, |_, b| b.nll.clear());
        });
    }
}

#[test]
fn a_reference_that_is_not_the_controls_is_void() {
    let (s, both) = (spec(&format!("{USUAL}{NEAR}")), qualities(0.0, 0.0, 0));
    always(&s, 1.5, Verdict::Void, "quality", "compared with reference", |r, a, at, _| {
        told(r, a, at, &both, |_, b| b.against = "what another run wrote".into());
    });
    always(&s, 1.5, Verdict::Void, "quality", "same token ids", |r, a, at, _| {
        told(r, a, at, &both, |_, b| b.text = "another text".into());
    });
}

#[test]
fn a_class_without_its_bound_is_not_opened() {
    for (class, wants) in [("near-exact", "max_kl"), ("approximate", "max_bits")] {
        let s = spec(&format!("{USUAL}[quality]\nclass = \"{class}\"\n"));
        let dir = tempfile::tempdir().unwrap();
        let mut fake = Fake::new(1.1, 1);
        let e = common::run(dir.path(), &mut fake, &s, false).unwrap_err().to_string();
        assert!(e.contains(wants) && fake.ran == 0, "{e}");
    }
}

#[test]
fn an_effect_that_drifts_is_void() {
    // The candidate alone loses a third over the run: no one ratio describes it. One look, at the end.
    let s = spec(&USUAL.replace("[8, 16]", "[16, 16]"));
    always(&s, 1.3, Verdict::Void, "drift", "", |r, a, at, n| {
        if candidate(a) && at.stage == Stage::Block {
            slow(r, 1.0 + 0.012 * n as f64);
        }
    });
}

#[test]
fn a_candidate_that_the_plan_refuses_is_not_applicable() {
    always(&spec(USUAL), 1.0, Verdict::NotApplicable, "contract", "68 positions", |r, a, _, _| {
        if candidate(a) {
            r.samples.clear();
            r.exit = Some(REFUSED);
            r.failed = Some("4 + 64 tokens need 68 positions, there are 64".into());
        }
    });
}

#[test]
fn a_candidate_that_crashes_is_rejected_and_a_control_that_crashes_voids() {
    let crash = |name: &'static str| {
        move |r: &mut RunRecord, a: &Arm, _: At, _: u64| {
            if a.name == name {
                r.samples.clear();
                r.exit = None;
                r.failed = Some("killed by a signal".into());
            }
        }
    };
    always(&spec(USUAL), 1.0, Verdict::Reject, "failure", "signal", crash("candidate"));
    always(&spec(USUAL), 1.0, Verdict::Void, "control", "signal", crash("control"));
}

#[test]
fn figures_taken_beside_others_are_void_with_the_loss_shown() {
    let s = spec(&USUAL.replace("[[manipulation]]", "parallel = 2\n[[manipulation]]"));
    always(&s, 0.6, Verdict::Void, "lock", "2 processes ran at once", |r, a, _, _| {
        if candidate(a) {
            let twin = r.samples[0].clone();
            r.samples.push(twin);
        }
    });
    let d = decided(
        &mut Fake::twisted(0.6, 1, |r, a, _, _| {
            if candidate(a) {
                let twin = r.samples[0].clone();
                r.samples.push(twin);
            }
        }),
        &s,
    );
    let e = &d.estimates["decode_tok_s"];
    assert!(e.high < 0.7, "the loss must be shown: {e:?}");
    always(&spec(USUAL), 1.2, Verdict::Void, "lock", "lock was not held", |r, _, _, _| r.locked = false);
}

#[test]
fn a_difference_nobody_declared_is_void() {
    always(&spec(USUAL), 1.2, Verdict::Void, "undeclared", "plan.also", |r, a, _, _| {
        if candidate(a) {
            r.samples[0].plan = Some(json!({ "lever": "on", "also": 1, "hash": "on" }));
        }
    });
    always(&spec(USUAL), 1.2, Verdict::Void, "undeclared", "binary", |r, a, _, _| {
        if candidate(a) {
            r.binary = "another build".into();
        }
    });
}

#[test]
fn other_token_ids_are_void() {
    always(&spec(USUAL), 1.2, Verdict::Void, "prompts", "same token ids", |r, a, _, _| {
        if candidate(a) {
            r.samples[0].requests[0].prompt_hash = "q".into();
        }
    });
}

#[test]
fn a_sample_above_its_ceiling_is_void() {
    always(&spec(USUAL), 1.2, Verdict::Void, "ceiling", "cannot be", |r, a, _, _| {
        if candidate(a) {
            let c = tamp_base::record::Ceiling { before_gb_s: 1.0, after_gb_s: 1.0, weight_bytes: 1 << 30 };
            r.samples[0].ceiling = Some(c);
        }
    });
}

#[test]
fn an_arm_that_cannot_be_made_ready_is_blocked_with_its_reason() {
    let mut fake = Fake::new(1.0, 1);
    fake.unready = Some(("candidate".into(), "revision abc does not build".into()));
    let d = decided(&mut fake, &spec(USUAL));
    assert_eq!(d.verdict, Some(Verdict::Block));
    assert!(d.blocker.unwrap().needs.contains("abc"));
}

#[test]
fn a_spec_that_names_its_blocker_is_blocked_without_a_process() {
    let text = format!("{USUAL}\n[[blocked]]\nkind = \"contract\"\nneeds = \"a horizon beyond two\"\n");
    let mut fake = Fake::new(1.0, 1);
    let d = decided(&mut fake, &spec(&text));
    assert_eq!((d.verdict, fake.ran), (Some(Verdict::Block), 0));
}

#[test]
fn a_null_of_a_fair_machine_is_retained_and_of_a_biased_one_found_out() {
    let null = spec("[design]\nkind = \"aa\"\npairs = [8, 12]\n");
    let mut wrong = 0;
    for seed in 0..REPEATS {
        wrong += u64::from(decided(&mut Fake::new(1.0, seed), &null).verdict != Some(Verdict::Retain));
    }
    // One in twenty is what 95 % means; more than four of twenty has odds of 1 in 400.
    assert!(wrong <= 4, "{wrong} of {REPEATS} nulls called different");
    always(&null, 1.0, Verdict::Reject, "", "biased", |r, a, _, _| {
        if a.name.ends_with("again") {
            slow(r, 1.1);
        }
    });
}

#[test]
fn a_small_effect_on_a_noisy_machine_is_not_measurable_and_never_a_win() {
    let s = spec(&USUAL.replace("[design]", "[design]\nmde = 0.01"));
    for seed in 0..REPEATS {
        let mut fake = Fake::new(1.0, seed);
        fake.noise = 0.08;
        let d = decided(&mut fake, &s);
        assert!(
            matches!(d.verdict, Some(Verdict::NotMeasurable | Verdict::Inconclusive | Verdict::Reject)),
            "seed {seed}: {:?} {}",
            d.verdict,
            d.reason
        );
    }
}
