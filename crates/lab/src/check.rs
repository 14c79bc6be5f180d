//! What must be true of the samples before their speed means anything. Each check is one function from records to what
//! was seen, so that a verdict can be worked out again from the records alone.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tamp_base::count::Acts;

use crate::observe::{Pred, at, differences, facts};
use crate::record::RunRecord;
use crate::spec::{Arm, Arms, Invariant, Manipulation, Spec};

/// A demand, what was seen, and whether it fits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// what was looked at
    pub name: String,
    /// what was demanded
    pub want: String,
    /// what was seen
    pub seen: String,
    /// it fits
    pub pass: bool,
}

/// The records of one comparison.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// every sample of the control
    pub control: &'a [&'a RunRecord],
    /// every sample of the candidate
    pub candidate: &'a [&'a RunRecord],
}

fn word(v: Option<&Value>) -> String {
    match v {
        None => "nothing".into(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
    }
}

/// The facts of every sample of `records`.
fn all_facts(records: &[&RunRecord]) -> Vec<Value> {
    records.iter().filter_map(|r| r.sample()).map(facts).collect()
}

/// The first fact that does not fit, or the first fact.
fn look(records: &[Value], path: &str, pred: &Pred, control: Option<&Value>) -> (bool, String) {
    let misfit = records.iter().find(|r| !pred.holds(at(r, path), control));
    let shown = misfit.or(records.first()).and_then(|r| at(r, path));
    (misfit.is_none() && !records.is_empty(), word(shown))
}

/// The manipulation check: what separates the arms.
pub fn manipulation(demands: &[Manipulation], pair: Pair<'_>) -> Vec<Shown> {
    let (control, candidate) = (all_facts(pair.control), all_facts(pair.candidate));
    let mut out = Vec::new();
    for m in demands {
        let reference = control.first().and_then(|c| at(c, &m.observable));
        for (arm, records, pred) in
            [("control", &control, &m.control), ("candidate", &candidate, &m.candidate)]
        {
            let Some(pred) = pred else { continue };
            let (pass, seen) = look(records, &m.observable, pred, reference);
            out.push(Shown {
                name: format!("{} of the {arm}", m.observable),
                want: pred.to_string(),
                seen,
                pass,
            });
        }
    }
    out
}

/// Paths of the plan, the settings and the build at which the arms differ though the spec did not say so.
pub fn undeclared(spec: &Spec, control: &Arm, candidate: &Arm, pair: Pair<'_>) -> Vec<String> {
    let first = |records: &[&RunRecord]| records.iter().find_map(|r| r.sample()).cloned();
    let (Some(a), Some(b)) = (first(pair.control), first(pair.candidate)) else { return Vec::new() };
    let declared = |path: &str| {
        let mut all = spec
            .manipulation
            .iter()
            .map(|m| m.observable.as_str())
            .chain(spec.differs.iter().map(String::as_str));
        all.any(|d| path == d || path.strip_prefix(d).is_some_and(|rest| rest.starts_with('.')))
    };
    let mut out = Vec::new();
    if let (Some(pa), Some(pb)) = (&a.plan, &b.plan) {
        out = differences(pa, pb, "plan").into_iter().filter(|p| runs(p) && !declared(p)).collect();
    }
    let code =
        [control, candidate].iter().any(|x| x.rev.is_some() || x.patch.is_some() || x.engine.is_some());
    let builds = |records: &[&RunRecord]| records.first().map(|r| r.binary.clone());
    if !code && builds(pair.control) != builds(pair.candidate) {
        out.push("binary".into());
    }
    if control.model == candidate.model
        && pair.control.first().map(|r| &r.model) != pair.candidate.first().map(|r| &r.model)
    {
        out.push("model".into());
    }
    if control.threads == candidate.threads && a.threads != b.threads && !declared("threads") {
        out.push("threads".into());
    }
    out
}

/// Whether a path of the plan is about what runs: the hash follows from the rest, the forecast of memory is not part of
/// the plan, and who chose a technique (a default, or the same name said aloud) changes nothing about it.
fn runs(path: &str) -> bool {
    let chosen_by = path.starts_with("plan.techniques.") && path.ends_with(".from");
    path != "plan.hash" && !path.starts_with("plan.memory") && !chosen_by
}

/// Nothing at all is different: the arms are one program, and a difference in speed is noise.
pub fn identical(pair: Pair<'_>) -> bool {
    let first =
        |records: &[&RunRecord]| records.first().and_then(|r| Some(((*r).clone(), r.sample()?.clone())));
    let (Some((ra, a)), Some((rb, b))) = (first(pair.control), first(pair.candidate)) else { return false };
    // Without a plan there is nothing to compare. Settings may be spelt differently for one plan.
    let (Some(pa), Some(pb)) = (&a.plan, &b.plan) else { return false };
    let plans = a.plan_hash == b.plan_hash || !differences(pa, pb, "plan").iter().any(|p| runs(p));
    let asked = a.requests.iter().map(|q| &q.prompt_hash).eq(b.requests.iter().map(|q| &q.prompt_hash));
    let (program, other) =
        ((a.threads, &a.engine, &ra.binary, &ra.model), (b.threads, &b.engine, &rb.binary, &rb.model));
    plans && asked && program == other
}

/// Invariants other than token identity. With each, whether it is typed to block.
pub fn invariants<'s>(list: &'s [Invariant], pair: Pair<'_>) -> Vec<(&'s Invariant, Shown)> {
    let (control, candidate) = (all_facts(pair.control), all_facts(pair.candidate));
    let mut out = Vec::new();
    for i in list {
        let Some(path) = &i.observable else { continue };
        let reference = control.first().and_then(|c| at(c, path));
        let sides = [("control", &control, Arms::Control), ("candidate", &candidate, Arms::Candidate)];
        for (arm, records, which) in sides {
            if i.arms != Arms::Both && i.arms != which {
                continue;
            }
            let (pass, seen) = look(records, path, &i.pred, reference);
            out.push((
                i,
                Shown { name: format!("{} ({arm})", i.name), want: format!("{path} {}", i.pred), seen, pass },
            ));
        }
    }
    out
}

/// The engaged proof of techniques that the candidate chose: counters that only grow if they ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Engaged {
    /// `room.member`
    pub card: String,
    /// summed over the candidate's samples
    pub acts: Acts,
    /// the claim is a gain, so it must have acted
    pub must_act: bool,
}

impl Engaged {
    /// Why the proof is missing.
    pub fn missing(&self) -> Option<String> {
        if self.acts.asked == 0 {
            return Some(format!("{} was chosen and never asked", self.card));
        }
        (self.must_act && self.acts.acted == 0)
            .then(|| format!("{} was asked {} times and never acted", self.card, self.acts.asked))
    }
}

/// Engaged proofs of the cards the candidate chose and whose engine counts them.
pub fn engaged(candidate: &Arm, gain: bool, pair: Pair<'_>) -> Vec<Engaged> {
    let cards = candidate.uses.iter().map(|u| u.replace('=', "."));
    let counts = |card: &str| {
        let mut sum: Option<Acts> = None;
        for s in pair.candidate.iter().filter_map(|r| r.sample()) {
            if let Some(a) = s.counters.get(card) {
                let t = sum.get_or_insert_default();
                (t.asked, t.declined, t.acted) =
                    (t.asked + a.asked, t.declined + a.declined, t.acted + a.acted);
            }
        }
        sum
    };
    // A null technique of its room never acts, rightly: `none` is chosen to do nothing.
    cards
        .filter_map(|card| {
            let acts = counts(&card)?;
            let nothing = card.ends_with(".none");
            Some(Engaged { card, acts, must_act: gain && !nothing })
        })
        .collect()
}

/// Whether every sample was given the prompts the contract pins, and the arms the same.
pub fn prompts(spec: &Spec, pair: Pair<'_>) -> Option<String> {
    let ids = |r: &RunRecord| -> Vec<String> {
        r.sample().map(|s| s.requests.iter().map(|q| q.prompt_hash.clone()).collect()).unwrap_or_default()
    };
    let all: Vec<Vec<String>> = pair.control.iter().chain(pair.candidate).map(|r| ids(r)).collect();
    let first = all.first()?;
    // An experiment may be about the prompt itself, and says so.
    let declared = spec.differs.iter().any(|d| d == "prompts");
    if !declared && all.iter().any(|p| p != first) {
        return Some("the arms were not given the same token ids".into());
    }
    let pinned = &spec.contract.prompt_hashes;
    if let Some(missing) = first.iter().find(|h| !pinned.is_empty() && !pinned.contains(h)) {
        return Some(format!("a prompt with token-id hash {missing} ran, which the contract does not pin"));
    }
    None
}

/// Samples whose speed cannot be right.
pub fn above_ceiling(records: &[&RunRecord]) -> Option<f64> {
    records.iter().filter_map(|r| r.metric("ceiling_fraction")).find(|f| *f > 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;
    use serde_json::json;

    fn with(arm: &str, f: impl Fn(&mut RunRecord)) -> RunRecord {
        let mut r = record(arm, 0, 0, 1.0);
        r.samples[0].plan =
            Some(json!({"ctx": 128, "kv": {"pages": 8}, "hash": "a", "memory": {"at_full": 1}}));
        r.samples[0].plan_hash = "a".into();
        f(&mut r);
        r
    }

    fn demand(observable: &str, candidate: &str, control: &str) -> Manipulation {
        let pred = |s: &str| Some(Pred::try_from(s.to_string()).unwrap());
        Manipulation { observable: observable.into(), candidate: pred(candidate), control: pred(control) }
    }

    #[test]
    fn a_manipulation_must_be_seen_in_every_sample_of_both_arms() {
        let a = with("control", |_| ());
        let b = with("candidate", |r| r.samples[0].plan = Some(json!({"ctx": 256})));
        let odd = with("candidate", |_| ());
        let m = [demand("plan.ctx", "== 256", "== 128")];
        let pass = |pair: Pair<'_>| manipulation(&m, pair).iter().all(|s| s.pass);
        assert!(pass(Pair { control: &[&a], candidate: &[&b] }));
        assert!(!pass(Pair { control: &[&a], candidate: &[&b, &odd] }));
        assert!(!pass(Pair { control: &[&b], candidate: &[&b] }));
        assert!(!pass(Pair { control: &[&a], candidate: &[] }));
        let shown = manipulation(&m, Pair { control: &[&a], candidate: &[&b, &odd] });
        assert_eq!((shown[1].seen.as_str(), shown[1].want.as_str()), ("128", "== 256"));
    }

    #[test]
    fn arms_with_the_same_plan_build_and_threads_are_identical() {
        let a = with("control", |_| ());
        let b = with("candidate", |r| r.samples[0].settings = vec!["--ctx=256".into()]);
        let same = |b: &RunRecord| identical(Pair { control: &[&a], candidate: &[b] });
        assert!(same(&b));
        let plan = |p: serde_json::Value| {
            with("candidate", move |r| {
                r.samples[0].plan_hash = "b".into();
                r.samples[0].plan = Some(p.clone());
            })
        };
        assert!(!same(&plan(json!({"ctx": 128, "kv": {"pages": 9}}))));
        // An experiment about the prompt runs one program twice, on purpose.
        assert!(!same(&with("candidate", |r| r.samples[0].requests[0].prompt_hash = "cd".into())));
        // A default that is said aloud is the same plan under another hash.
        let chosen = json!({"ctx": 128, "kv": {"pages": 8}, "techniques": [{"name": "x", "from": "flag"}]});
        assert!(!same(&plan(chosen.clone())));
        let b = plan(chosen);
        let a = with("control", |r| {
            r.samples[0].plan = Some(
                json!({"ctx": 128, "kv": {"pages": 8}, "techniques": [{"name": "x", "from": "default"}]}),
            );
        });
        let pair = Pair { control: &[&a], candidate: &[&b] };
        assert!(identical(pair));
        let (spec, arm) = (crate::spec::tests::example(), Arm::default());
        assert!(undeclared(&spec, &arm, &arm, pair).is_empty());
        assert!(!same(&with("candidate", |r| r.samples[0].threads = 1)));
        assert!(!same(&with("candidate", |r| r.binary = "other".into())));
        assert!(!same(&with("candidate", |r| r.model = "other".into())));
    }

    #[test]
    fn a_difference_the_spec_does_not_name_is_found() {
        let spec = crate::spec::tests::example();
        let a = with("control", |_| ());
        let b = with("candidate", |r| {
            r.samples[0].plan =
                Some(json!({"ctx": 256, "kv": {"pages": 16}, "hash": "b", "memory": {"at_full": 2}}));
            r.binary = "other".into();
        });
        let arms = (Arm::default(), Arm::default());
        let pair = Pair { control: &[&a], candidate: &[&b] };
        let mut s = spec.clone();
        s.manipulation = vec![demand("plan.ctx", "== 256", "== 128")];
        s.differs = vec![];
        assert_eq!(undeclared(&s, &arms.0, &arms.1, pair), ["plan.kv.pages", "binary"]);
        s.differs = vec!["plan.kv".into()];
        let rev = Arm { rev: Some("abc".into()), ..Arm::default() };
        assert!(undeclared(&s, &arms.0, &rev, pair).is_empty());
        s.differs = vec!["plan.k".into()];
        assert_eq!(undeclared(&s, &arms.0, &rev, pair), ["plan.kv.pages"]);
    }

    #[test]
    fn a_chosen_card_must_be_asked_and_for_a_gain_must_act() {
        let arm = Arm { uses: vec!["spec.propose=suffix".into()], ..Arm::default() };
        let acts = |asked, acted| {
            let r = with("candidate", |r| {
                let a = Acts { asked, declined: asked - acted, acted };
                r.samples[0].counters.insert("spec.propose.suffix".into(), a);
            });
            let found = |gain| engaged(&arm, gain, Pair { control: &[], candidate: &[&r] })[0].missing();
            (found(true), found(false))
        };
        assert_eq!(acts(5, 2), (None, None));
        let (gain, floor) = acts(5, 0);
        assert!(gain.unwrap().contains("never acted") && floor.is_none());
        let (gain, floor) = acts(0, 0);
        assert!(gain.unwrap().contains("never asked") && floor.is_some());
    }

    #[test]
    fn other_token_ids_are_noticed() {
        let spec = crate::spec::tests::example();
        let a = with("control", |_| ());
        let b = with("candidate", |r| r.samples[0].requests[0].prompt_hash = "cd".into());
        assert!(prompts(&spec, Pair { control: &[&a], candidate: &[&a] }).is_none());
        let about = Spec { differs: vec!["prompts".into()], ..spec.clone() };
        assert!(prompts(&about, Pair { control: &[&a], candidate: &[&b] }).is_none());
        assert!(
            prompts(&spec, Pair { control: &[&a], candidate: &[&b] }).unwrap().contains("same token ids")
        );
        let mut pinned = spec.clone();
        pinned.contract.prompt_hashes = vec!["zz".into()];
        assert!(
            prompts(&pinned, Pair { control: &[&a], candidate: &[&a] }).unwrap().contains("does not pin")
        );
    }
}
