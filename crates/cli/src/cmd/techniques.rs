//! `tamp techniques [NAME]`: everything here is printed from the cards.

use std::fmt::Write;

use serde_json::{Value, json};
use tamp_base::card::{Card, Effect, KnobKind, Room};

use crate::args::TechniquesArgs;
use crate::cmd::Ctx;
use crate::fail::{Done, Fail, nearest};
use crate::out::raw;

/// Lists all, shows one, or prints the page of the docs.
pub fn run(ctx: &Ctx, a: &TechniquesArgs) -> Done {
    let rooms = crate::cmd::rooms();
    if a.markdown {
        raw(&markdown(&rooms));
        return Ok(());
    }
    let chosen = choose(&rooms, a.name.as_deref())?;
    if ctx.json {
        let all: Vec<Value> = chosen.iter().map(|(room, card)| as_json(room.name, card)).collect();
        return if a.name.is_some() && all.len() == 1 { ctx.json(&all[0]) } else { ctx.json(&all) };
    }
    let mut out = String::new();
    for (room, card) in &chosen {
        if a.name.is_some() {
            full(&mut out, room, card);
        } else {
            let _ = writeln!(
                out,
                "{:24} {:17} {}",
                format!("{}.{}", room.name, card.name),
                effect(card.effect),
                card.about
            );
        }
    }
    raw(&out);
    Ok(())
}

/// The card called `name`, as `tamp techniques NAME --json` prints it; nothing when it is not exactly one.
pub fn one(name: &str) -> Option<Value> {
    let rooms = crate::cmd::rooms();
    let chosen = choose(&rooms, Some(name)).ok()?;
    let [(room, card)] = chosen[..] else { return None };
    Some(as_json(room.name, card))
}

type Pick<'a> = (&'a Room, &'static Card);

/// All cards, or those called `name` or `room.name`, or those of the room `name`.
fn choose<'a>(rooms: &'a [Room], name: Option<&str>) -> Done<Vec<Pick<'a>>> {
    let all: Vec<Pick> = rooms.iter().flat_map(|r| r.cards.iter().map(move |c| (r, *c))).collect();
    let Some(name) = name else { return Ok(all) };
    let id = |p: &Pick| format!("{}.{}", p.0.name, p.1.name);
    let chosen: Vec<Pick> =
        all.iter().copied().filter(|p| p.1.name == name || p.0.name == name || id(p) == name).collect();
    if chosen.is_empty() {
        let ids: Vec<String> = all.iter().map(id).collect();
        let words = ids.iter().map(String::as_str).chain(all.iter().map(|p| p.1.name));
        let near = nearest(name, words).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
        return Err(Fail::usage(format!("there is no technique `{name}`; known: {}{near}", ids.join(", "))));
    }
    Ok(chosen)
}

fn effect(e: Effect) -> &'static str {
    match e {
        Effect::Identical => "identical",
        Effect::SameDistribution => "same distribution",
        Effect::Lossy => "lossy",
        Effect::Service => "service",
    }
}

/// A card as the lab reads it.
pub fn as_json(room: &str, c: &Card) -> Value {
    let knobs: Vec<Value> = c
        .knobs
        .iter()
        .map(|k| {
            json!({ "name": k.name, "about": k.about, "default": k.default, "accepts": k.kind.want(),
                "values": values(&k.kind) })
        })
        .collect();
    json!({ "room": room, "name": c.name, "aka": c.aka, "about": c.about, "paper": c.paper, "claim": c.claim,
        "effect": c.effect, "needs": c.needs, "knobs": knobs })
}

/// What a knob accepts, for a program.
fn values(kind: &KnobKind) -> Value {
    match *kind {
        KnobKind::Int(min, max) => json!({ "type": "int", "min": min, "max": max }),
        KnobKind::Float(min, max) => json!({ "type": "float", "min": min, "max": max }),
        KnobKind::Bool => json!({ "type": "bool" }),
        KnobKind::Choice(of) => json!({ "type": "choice", "of": of }),
    }
}

fn full(out: &mut String, room: &Room, c: &Card) {
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {name:8} {value}");
        }
    };
    line("name", &format!("{}.{}", room.name, c.name));
    line("about", c.about);
    line("aka", c.aka);
    line("paper", c.paper);
    line("claim", c.claim);
    line("effect", effect(c.effect));
    line("needs", &c.needs.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", "));
    line("choose", &format!("--use {}={}", room.name, c.name));
    for k in c.knobs {
        let key = format!("--set {}.{}.{}={}", room.name, c.name, k.name, k.default);
        line("knob", &format!("{key}  {} ({})", k.about, k.kind.want()));
    }
    out.push('\n');
}

/// `docs/techniques.md`. A room's first member is its null technique or its default.
fn markdown(rooms: &[Room]) -> String {
    let mut out = String::from(
        "<!-- Written by `cargo xtask docs` from the cards; edit those. -->\n# Techniques\n\n\
         `--use room=name` chooses, `--set room.name.knob=value` sets. The first of each room is used when nothing is \
         chosen.\n",
    );
    for room in rooms {
        let _ = write!(
            out,
            "\n## {}\n\n| name | effect | what it does | source | published claim | knobs |\n",
            room.name
        );
        out.push_str("|---|---|---|---|---|---|\n");
        for c in &room.cards {
            let knobs: Vec<String> = c
                .knobs
                .iter()
                .map(|k| format!("`{}` {} ({}; {})", k.name, k.about, k.kind.want(), k.default))
                .collect();
            let source =
                [c.aka, c.paper].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join(", ");
            let cells = [c.name, effect(c.effect), c.about, &source, c.claim, &knobs.join("; ")];
            let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|").replace('\n', " ")).collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_is_listed_and_found_by_each_of_its_names() {
        let rooms = crate::cmd::rooms();
        let page = markdown(&rooms);
        for (room, card) in choose(&rooms, None).unwrap() {
            assert!(page.contains(&format!("| {} |", card.name)), "{}", card.name);
            assert!(!choose(&rooms, Some(card.name)).unwrap().is_empty());
            assert_eq!(choose(&rooms, Some(&format!("{}.{}", room.name, card.name))).unwrap().len(), 1);
        }
        let e = choose(&rooms, Some("spec.propose.nine")).unwrap_err().what;
        assert!(e.contains("known: ") && e.contains("did you mean `spec.propose.none`?"), "{e}");
    }
}
