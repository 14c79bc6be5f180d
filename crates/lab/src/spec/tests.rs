use super::*;

pub const EXAMPLE: &str = r#"
kind = "tamp.lab.spec"
v = 1
title = "one thread or two"
lane = "probe"
hypothesis = "two threads decode faster than one"
mechanism = "two cores read memory faster than one"
tags = ["threads", "engine.core"]
change = "the number of worker threads"
confidence = 0.9
assumptions = 0
revert = "flag"
depends = ["machine", "model"]

[expected]
metric = "decode_tok_s"
direction = "up"
effect = 1.6
model = "read bandwidth of one core and of two"

[control]
threads = 1

[candidate]
threads = 2

[contract]
model = "smollm2"
prompts = ["short"]
max_tokens = 64

[[manipulation]]
observable = "threads"
candidate = "== 2"
control = "== 1"

[[invariant]]
name = "tokens identical"
pred = "token_identity"

[[success]]
metric = "decode_tok_s"
stat = "ci_low"
op = ">="
value = 1.1

[[kill]]
metric = "decode_tok_s"
stat = "ci_high"
op = "<"
value = 1.0
"#;

pub fn example() -> Spec {
    Frozen::parse(EXAMPLE, "example").unwrap().spec
}

fn refused(change: impl Fn(&str) -> String) -> String {
    let text = change(EXAMPLE);
    assert_ne!(text, EXAMPLE);
    Frozen::parse(&text, "x.toml").unwrap_err().to_string()
}

#[test]
fn the_id_is_of_the_fields_that_are_there_whatever_their_order_or_prose_around_them() {
    let id = |t: &str| Frozen::parse(t, "x").unwrap().id;
    let base = id(EXAMPLE);
    assert_eq!(base, id(&format!("# a remark\n{EXAMPLE}")));
    assert_eq!(
        base,
        id(&EXAMPLE.replace("v = 1\ntitle = \"one thread or two\"", "title = \"one thread or two\"\nv = 1"))
    );
    // A default that is written down is another question than one that is left out.
    assert_ne!(base, id(&EXAMPLE.replace("max_tokens = 64", "max_tokens = 64\nseed = 1")));
    assert_ne!(base, id(&EXAMPLE.replace("value = 1.1", "value = 1.2")));
    let back = Frozen::from_value(Frozen::parse(EXAMPLE, "x").unwrap().value, "ledger").unwrap();
    assert_eq!(back.id, base);
}

#[test]
fn an_experiment_that_cannot_fail_is_refused() {
    let without = |section: &str| {
        refused(|t| {
            let from = t.find(section).unwrap();
            let to = t[from + 2..].find("\n[").map_or(t.len(), |i| from + 2 + i);
            format!("{}{}", &t[..from], &t[to..])
        })
    };
    assert!(without("[[kill]]").contains("[[kill]]"));
    assert!(without("[[success]]").contains("[[success]]"));
    assert!(without("[[manipulation]]").contains("[[manipulation]]"));
    assert!(without("[[invariant]]").contains("[[invariant]]"));
    assert!(without("[candidate]").contains("no candidate"));
}

#[test]
fn a_wrong_word_is_named_with_its_line_and_the_known_ones() {
    let e = refused(|t| t.replace("threads = 2", "thread = 2"));
    assert!(
        e.contains("x.toml") && e.contains("line 2") && e.contains("thread") && e.contains("threads"),
        "{e}"
    );
    assert!(refused(|t| t.replace("\"probe\"", "\"party\"")).contains("shipping"));
    assert!(
        refused(|t| t.replace("pred = \"token_identity\"", "pred = \"token_identitty x\"")).contains("token")
    );
    assert!(refused(|t| t.replace("== 2", "about 2")).contains("contains"));
    assert!(refused(|t| t.replace("v = 1", "v = 2")).contains("v = 2"));
    assert!(refused(|t| format!("{t}\n[on]\nkeep = \"x\"")).contains("retain"));
    assert!(refused(|t| format!("{t}\n[design]\nkind = \"in-process\"")).contains("per request"));
    assert!(refused(|t| format!("{t}\n[design]\npairs = [9, 8]")).contains("pairs"));
}

#[test]
fn a_null_has_no_candidate_and_two_arms() {
    let from = EXAMPLE.find("[candidate]").unwrap();
    let to = EXAMPLE.find("[contract]").unwrap();
    let text = format!("{}{}\n[design]\nkind = \"aa\"\n", &EXAMPLE[..from], &EXAMPLE[to..]);
    let s = Frozen::parse(&text, "x").unwrap().spec;
    assert!(s.is_null());
    let arms = s.arms();
    assert_eq!((arms.len(), arms[0].threads), (2, arms[1].threads));
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_one_and_the_count_and_not_with_all() {
    let e = refused(|t| t.replace("[contract]\n", "[contract]\nmax_tokkens = 3\n"));
    assert!(
        e.contains("unknown field `max_tokkens`; did you mean `max_tokens`? (of ") && e.len() < 120,
        "{e}"
    );
    let e = refused(|t| t.replace("[contract]\n", "[contract]\nzzzzzzzz = 3\n"));
    assert!(e.contains("none is near it (of "), "{e}");
    // Another complaint is left as it is.
    let e = refused(|t| t.replace("[contract]\n", "[contract]\nprompt_tokens = \"`a` `b`\"\n"));
    assert!(!e.contains("did you mean"), "{e}");
}

#[test]
fn a_bound_is_a_number_from_nothing_up_and_rests_on_enough_tokens() {
    for (line, says) in [
        ("max_kl = -0.1", "max_kl is nats per token"),
        ("max_bits = inf", "max_bits is bits per byte"),
        ("max_task_loss = nan", "max_task_loss"),
        ("positions = 16", "positions is 64"),
    ] {
        let e = refused(|t| t.replace("[contract]\n", &format!("[quality]\n{line}\n[contract]\n")));
        assert!(e.contains(says), "{line}: {e}");
    }
}
