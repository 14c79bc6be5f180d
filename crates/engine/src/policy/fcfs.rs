//! First come, first served: answers under way first, one row each; what is left of the row budget goes to prompts in
//! order of arrival, in chunks. When pages run out, those give theirs up that nobody listens to, then the youngest.

use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry};
use tamp_base::ids::SeqId;
use tamp_kv::Book;

use super::{Line, Policy, PolicyCtx};
use crate::turn::{Part, Turn};

pub(super) static ENTRY: Entry<dyn Policy, PolicyCtx> = Entry {
    card: Card {
        name: "fcfs",
        aka: "chunked prefill with continuous batching",
        about: "decode rows first, then prompt chunks in order of arrival; preempts the youngest when pages run out",
        paper: "arXiv 2403.02310",
        claim: "",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[],
    },
    open: |&ctx, _| Ok(Box::new(Fcfs { ctx })),
};

struct Fcfs {
    ctx: PolicyCtx,
}

impl Policy for Fcfs {
    fn choose(&mut self, lines: &[Line], book: &mut Book, _: Duration) -> Turn {
        let mut turn = Turn::default();
        let mut budget = self.ctx.chunk;
        let pending = |book: &Book, l: &Line| l.tokens.saturating_sub(book.len(l.seq));
        let decodes = |book: &Book, l: &Line| book.len(l.seq) > 0 && pending(book, l) == 1;

        for l in lines.iter().filter(|l| l.ready) {
            let fits = budget > 0 && turn.parts.len() < self.ctx.batch;
            if fits && decodes(book, l) && make_room(lines, l, 1, book, &mut turn) {
                turn.parts.push(Part { seq: l.seq, rows: 1, draft: 0 });
                budget -= 1;
            }
        }
        let mut running = lines.iter().filter(|l| l.ready && book.len(l.seq) > 0).count();
        let oldest = lines.iter().find(|l| l.ready).map(|l| l.seq);
        for l in lines.iter().filter(|l| l.ready) {
            if budget == 0 || turn.parts.len() >= self.ctx.batch {
                break;
            }
            if decodes(book, l)
                || (l.held && book.len(l.seq) == 0)
                || turn.parts.iter().any(|p| p.seq == l.seq)
                || turn.preempted.contains(&l.seq)
            {
                continue;
            }
            let (fresh, rows) = (book.len(l.seq) == 0, pending(book, l).min(budget));
            // A newcomer that would push others out, or be pushed out itself, waits; those behind it too.
            let crowded = running >= self.ctx.batch || book.room() < book.need(l.seq, pending(book, l) + 1);
            if fresh && oldest != Some(l.seq) && crowded {
                break;
            }
            if !make_room(lines, l, rows, book, &mut turn) {
                break;
            }
            turn.parts.push(Part { seq: l.seq, rows, draft: 0 });
            running += usize::from(fresh);
            budget = self.ctx.chunk - turn.parts.iter().map(|p| p.rows).sum::<usize>();
        }
        let choosing = turn.parts.len().max(1);
        turn.parts.iter_mut().for_each(|p| p.draft = budget / choosing);
        turn
    }
}

/// Reserves rows for a sequence; takes pages from others if it must. False: it has to wait.
fn make_room(lines: &[Line], line: &Line, rows: usize, book: &mut Book, turn: &mut Turn) -> bool {
    while book.reserve(line.seq, rows).is_err() {
        let Some(victim) = victim(lines, line, book, &turn.preempted) else {
            if lines.iter().all(|l| l.seq == line.seq || book.table(l.seq, 0).is_empty()) {
                turn.starved.push(line.seq);
            }
            return false;
        };
        book.rewind(victim, 0);
        turn.parts.retain(|p| p.seq != victim);
        turn.preempted.push(victim);
    }
    true
}

/// Who gives way: the youngest among those nobody listens to, then the youngest of those that came later; each once
/// per turn, since memory that cannot go back keeps its pages.
fn victim(lines: &[Line], line: &Line, book: &Book, already: &[SeqId]) -> Option<SeqId> {
    let holds =
        |l: &&Line| l.seq != line.seq && !book.table(l.seq, 0).is_empty() && !already.contains(&l.seq);
    let paused = lines.iter().rev().filter(holds).find(|l| !l.ready);
    let younger = lines.iter().rev().take_while(|l| l.seq != line.seq).find(holds);
    paused.or(younger).map(|l| l.seq)
}
