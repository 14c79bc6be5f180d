//! What the ledger says of each technique: the verdicts of experiments whose candidate chose it.

use std::collections::BTreeMap;

use serde_json::Value;
use tamp_base::card::Room;
use tamp_lab::ledger::{Body, Row};
use tamp_server::board::Finding;

use crate::cmd::lab::Home;
use crate::cmd::{Ctx, rooms};

/// `room.card` → what was found, newest first. Nothing without a ledger, or with one that does not hold: a server
/// starts without it.
pub fn all(ctx: &Ctx) -> BTreeMap<String, Vec<Finding>> {
    let rows = Home::new(ctx, None).ledger.rows().unwrap_or_default();
    of(&rows, &rooms())
}

fn of(rows: &[Row], rooms: &[Room]) -> BTreeMap<String, Vec<Finding>> {
    let mut asked: BTreeMap<&str, &Value> = BTreeMap::new();
    let void: Vec<&str> = rows
        .iter()
        .filter_map(|r| match &r.body {
            Body::Superseded { of, .. } => Some(of.as_str()),
            _ => None,
        })
        .collect();
    let mut found: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
    for row in rows {
        match &row.body {
            Body::Opened { spec, value, .. } => {
                asked.insert(spec, value);
            }
            Body::Decided { spec, decision, .. } if !void.contains(&row.hash.as_str()) => {
                let (Some(verdict), Some(value)) = (decision.verdict, asked.get(spec.as_str())) else {
                    continue;
                };
                // The metric of the question; an experiment without figures says nothing of a lever's worth.
                let metric = value["success"][0]["metric"].as_str().unwrap_or_default();
                let Some(estimate) = decision.estimates.get(metric) else { continue };
                let finding = Finding {
                    title: value["title"].as_str().unwrap_or_default().into(),
                    verdict: verdict.word().into(),
                    reason: decision.reason.clone(),
                    metric: metric.into(),
                    ratio: estimate.ratio,
                    interval: (estimate.low, estimate.high),
                    pairs: estimate.ratios.clone(),
                    row: row.hash.clone(),
                };
                for id in chosen(value, &decision.candidate, rooms) {
                    found.entry(id).or_default().insert(0, finding.clone());
                }
            }
            _ => {}
        }
    }
    found
}

/// Techniques that the candidate chose and the control did not.
fn chosen(spec: &Value, candidate: &str, rooms: &[Room]) -> Vec<String> {
    let many = spec["candidates"].as_array().into_iter().flatten();
    let arms: Vec<&Value> = many.chain(spec.get("candidate")).collect();
    let Some(arm) = arms.iter().find(|a| a["name"] == candidate).or(arms.first()) else { return vec![] };
    let uses =
        |arm: &Value, choice: &str| arm["use"].as_array().is_some_and(|u| u.iter().any(|x| x == choice));
    let ids = rooms.iter().flat_map(|r| r.cards.iter().map(move |c| (r.name, c.name)));
    ids.filter(|(room, name)| {
        let choice = format!("{room}={name}");
        uses(arm, &choice) && !uses(&spec["control"], &choice)
    })
    .map(|(room, name)| format!("{room}.{name}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_verdict_counts_for_what_only_the_candidate_chose() {
        let spec = json!({
            "control": {"use": ["kv.codec=f32", "engine.policy=fcfs"]},
            "candidates": [
                {"name": "a", "use": ["kv.codec=f16", "engine.policy=fcfs"]},
                {"name": "b", "use": ["engine.policy=tenant", "no.room=here"]},
            ],
        });
        assert_eq!(chosen(&spec, "a", &rooms()), ["kv.codec.f16"]);
        assert_eq!(chosen(&spec, "b", &rooms()), ["engine.policy.tenant"]);
        assert!(chosen(&json!({}), "a", &rooms()).is_empty());
    }

    #[test]
    fn what_was_measured_is_shown_until_a_row_says_that_it_no_longer_counts() {
        let text =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../lab/ledger.jsonl")).unwrap();
        let mut rows: Vec<Row> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let found = of(&rows, &rooms());
        let f16 = &found["kv.codec.f16"];
        let (ratio, (low, high)) = (f16[0].ratio, f16[0].interval);
        assert!(low <= ratio && ratio <= high && f16[0].pairs.len() > 1, "{f16:?}");
        let (of_it, n) = (f16[0].row.clone(), f16.len());
        let mut last = rows.last().unwrap().clone();
        last.body = Body::Superseded { of: of_it, reason: "a test".into() };
        rows.push(last);
        assert_eq!(of(&rows, &rooms()).get("kv.codec.f16").map_or(0, Vec::len), n - 1);
    }
}
