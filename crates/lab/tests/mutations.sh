#!/bin/sh
# Takes one check of the lab away at a time and runs the test that must then fail. A mutation that no test notices is a
# check that nothing guards. Works on a copy; prints the table of docs/methodology.md; ends with 1 if any survived.
set -eu
cd "$(dirname "$0")/../../.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT INT TERM
git ls-files -z | tar --null -T - -cf - | tar -xf - -C "$copy"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/mutations"
cd "$copy"
lab=crates/lab/src
survived=0

# what is taken away | file | what stands there | what is put there | test binary | test
try() {
    file=$lab/$2
    cp "$file" "$copy/whole"
    python3 - "$file" "$3" "$4" <<'PY'
import sys
path, old, new = sys.argv[1:]
text = open(path).read()
if text.count(old) < 1:
    sys.exit(f"{path} no longer has {old!r}")
open(path, "w").write(text.replace(old, new, 1))
PY
    if cargo test -q -p tamp-lab --test "$5" "$6" >"$copy/log" 2>&1; then
        verdict="SURVIVED"
        survived=1
    elif grep -q "test result: FAILED" "$copy/log"; then
        verdict="caught"
    else
        verdict="does not compile"
        survived=1
    fi
    printf '| %s | `%s` | %s |\n' "$1" "$6" "$verdict"
    cp "$copy/whole" "$file"
}

echo '| check taken away | test | |'
echo '|---|---|---|'
try 'engaged proof: never acted' check.rs 'self.must_act && self.acts.acted == 0' 'false' verdicts a_lever_that_never_acts
try 'engaged proof: never asked' check.rs 'if self.acts.asked == 0 {' 'if false {' verdicts a_lever_that_never_acts
try 'identical plans' verdict.rs 'if check::identical(pair) {' 'if false {' verdicts a_lever_that_silently
try 'manipulation' verdict.rs '.find(|m| !m.pass)' '.find(|_| false)' verdicts a_manipulation_that_did_not
try 'invariants' verdict.rs 'if !shown.pass {' 'if false {' verdicts a_broken_invariant
try 'typed block of an invariant' verdict.rs 'Some(b) if d.verdict.is_none() => {' 'Some(b) if false => {' verdicts a_broken_invariant
try 'quality' verdict.rs 'if let Some(why) = &report.fails {' 'if let (Some(why), false) = (&report.fails, true) {' verdicts other_tokens_are_rejected
try 'drift' verdict.rs 'Some(Drift { state: State::Void, reason, .. })' 'Some(Drift { state: State::Stable, reason, .. })' verdicts an_effect_that_drifts
try 'refusal by the plan' verdict.rs 'r.exit == Some(REFUSED)' 'false' verdicts a_candidate_that_the_plan_refuses
try 'failed processes' verdict.rs 'r.failed.clone().filter(|_| r.arm == arm.name)?' 'r.failed.clone().filter(|_| false)?' verdicts a_candidate_that_crashes
try 'alone on the machine' record.rs 'self.locked && self.samples.len() < 2' 'true' verdicts figures_taken_beside
try 'undeclared differences' verdict.rs 'if !d.undeclared.is_empty() {' 'if false {' verdicts a_difference_nobody_declared
try 'same token ids' check.rs 'return Some("the arms were not given the same token ids".into());' 'return None;' verdicts other_token_ids
try 'ceiling' check.rs '*f > 1.0' 'false' verdicts a_sample_above
try 'disturbed blocks' run.rs 'void = void.or_else(|| self.bench.disturbed(spec, &record));' 'void = void.or(None);' runs a_disturbed_block
try 'answers of the ledger' run.rs '&& !ask.again' '&& false' runs the_ledger_answers
try 'expiry' why.rs 'hash_of(name) != ' 'false && hash_of(name) != ' runs the_ledger_answers
try 'hashes of records' record.rs '|| blake3::hash(&text).to_hex().as_str() != hash' '' runs a_record_that_is_another
try 'divergence above its bound' quality/bounds.rs 'seen.mean.is_nan() || seen.mean > most => Held::Outside' 'seen.mean.is_nan() => Held::Outside' verdicts a_divergence_above
try 'bound that was not shown' verdict.rs 'if let Some(why) = report.unresolved() {' 'if let (Some(why), false) = (report.unresolved(), true) {' verdicts a_divergence_above
try 'task loss above its bound' quality.rs 'r.fails = r.fails.or_else(|| r.bounds.as_ref()?.first(Held::Outside));' '' verdicts a_task_that_loses
try 'missing quality' verdict.rs 'if let Some(why) = report.missing() {' 'if let (Some(why), false) = (report.missing(), true) {' verdicts a_quality_that_could_not
try 'failed quality' quality/bounds.rs 'Some(why) => Err(format!("the {arm} could not measure its quality: {why}")),' 'Some(_) => Ok(q),' verdicts a_quality_that_could_not
try 'swapped reference' quality/bounds.rs 'if b.against != a.kept {' 'if false {' verdicts a_reference_that_is_not
try 'other scored text' quality/bounds.rs 'a.text != b.text || a.bytes != b.bytes' 'false' verdicts a_reference_that_is_not
try 'class without its bound' run.rs 'spec.spec.opening().map_err(|why| SpecError::Rule(ask.file.clone(), why))?;' '' verdicts a_class_without
exit $survived
