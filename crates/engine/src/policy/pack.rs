//! What every policy does alike, once it has said in which order: who takes part, rows, pages, and who gives pages up.
//!
//! * A sequence keeps its place while it holds pages. There are `batch` places; a newcomer that overtakes somebody may
//!   start beyond them where pages are free, and the last in order then skip passes with their pages kept: nothing is
//!   computed twice.
//! * Answers under way get their row first. While there are any, prompts get `share` rows together, which bounds the
//!   time between two tokens. Among equals the shorter rest of a prompt goes first, to a factor of two, so that a short
//!   prompt does not wait for a long one. The eldest prompt gets an eighth of a share whatever goes before it.
//! * In passes without answers under way, prompts that end in it fill the chunk, and one that does not gets a share: its
//!   pass is what somebody who comes meanwhile waits for. With one place nobody comes, and it gets the chunk.
//! * When pages run out, one sequence is sheltered: it goes first, may take pages from all and loses none until it ends.
//!   So somebody always ends, however the order moves. All others take only from those they outrank.

use std::collections::BTreeMap;
use std::time::Duration;

use tamp_base::ids::{SeqId, TenantId};
use tamp_kv::Book;

use super::{Charge, Desk, Line, Policy, PolicyCtx};
use crate::turn::{Part, Turn};

/// Rows that count as the same rest of a prompt.
const REST: usize = 64;

/// What tells one policy from another.
pub(super) trait Order: Send {
    /// Before every turn: all that live, and the time.
    fn begin(&mut self, _: &[Line], _: Duration) {}
    /// Smaller goes first; equals go by arrival.
    fn rank(&self, line: &Line, now: Duration) -> f64;
    /// May take the pages of another that holds some, which is then computed again.
    fn outranks(&self, line: &Line, other: &Line) -> bool;
    /// May start beyond the places and make another skip passes, which costs nothing.
    fn overtakes(&self, line: &Line, other: &Line) -> bool {
        self.outranks(line, other)
    }
    /// Learns what a step took.
    fn charge(&mut self, _: &[Charge]) {}
}

/// A policy made of an order.
pub(super) struct Pack<O> {
    ctx: PolicyCtx,
    order: O,
    /// goes first and loses no pages
    sheltered: Option<SeqId>,
}

/// A sequence that may run.
#[derive(Clone, Copy)]
struct Seat<'a> {
    line: &'a Line,
    rank: f64,
    /// holds pages
    holds: bool,
    /// known tokens that have not been through the model
    left: usize,
}

impl Seat<'_> {
    fn decodes(&self) -> bool {
        self.holds && self.left == 1
    }
}

impl<O: Order> Pack<O> {
    pub fn new(ctx: PolicyCtx, order: O) -> Pack<O> {
        Pack { ctx, order, sheltered: None }
    }

    /// Everybody who may run, in order.
    fn seats<'a>(&self, lines: &'a [Line], book: &Book, now: Duration) -> Vec<Seat<'a>> {
        let seat = |line: &'a Line| {
            let len = book.len(line.seq);
            let sheltered = self.sheltered == Some(line.seq);
            let rank = if sheltered { f64::NEG_INFINITY } else { self.order.rank(line, now) };
            Seat { line, rank, holds: len > 0, left: line.tokens.saturating_sub(len) }
        };
        let mut seats: Vec<_> = lines.iter().filter(|l| l.ready).map(seat).collect();
        seats.sort_by(|a, b| a.rank.total_cmp(&b.rank).then(a.line.seq.cmp(&b.line.seq)));
        seats
    }

    /// Those that take part, in order, as many as fit into a pass.
    fn take_part<'a>(&self, lines: &[Line], seats: &[Seat<'a>], desk: &mut Desk<'_>) -> Vec<Seat<'a>> {
        let book = &*desk.book;
        let batch = self.ctx.batch;
        let running: Vec<&Line> = seats.iter().filter(|s| s.holds).map(|s| s.line).collect();
        let mut places = running.len();
        // What those who started were promised is not free: the rest of their prompts, and their next token.
        let promised: usize =
            seats.iter().filter(|s| s.holds).map(|s| book.need(s.line.seq, s.left + 1)).sum();
        let mut free = book.room().saturating_sub(promised);
        let mut of_tenant: BTreeMap<TenantId, usize> = BTreeMap::new();
        for l in lines.iter().filter(|l| book.len(l.seq) > 0) {
            *of_tenant.entry(l.tenant).or_default() += 1;
        }
        let (mut open, mut first) = (true, true);
        let mut parts = Vec::with_capacity(batch);
        for seat in seats {
            if parts.len() == batch {
                break;
            }
            let l = seat.line;
            if seat.holds {
                first = false;
                parts.push(*seat);
                continue;
            }
            let mine = of_tenant.entry(l.tenant).or_default();
            // Whoever waits for others' pages or for the tenant's own answers holds nobody up.
            if l.held || (l.most_running > 0 && *mine >= l.most_running) {
                continue;
            }
            let head = std::mem::take(&mut first);
            let overtakes = || running.iter().any(|r| self.order.overtakes(l, r));
            let place = places < batch || (places < 2 * batch && overtakes());
            open &= place;
            if !open {
                continue;
            }
            // What it finds in the cache is no longer to be had for others.
            let room = desk.book.room();
            let left = seat.left - desk.begin(l.seq);
            let book = &*desk.book;
            let found = room.saturating_sub(book.room());
            let need = book.need(l.seq, left + 1);
            // The first in order may push others out for its pages; the next ones wait until theirs are free.
            open = need + found <= free || (head && self.may_push(l, lines, book));
            if open {
                places += 1;
                *mine += 1;
                free = free.saturating_sub(need + found);
                parts.push(Seat { left, holds: left < seat.left, ..*seat });
            } else {
                desk.book.rewind(l.seq, 0);
            }
        }
        parts
    }

    /// Whether anybody would give pages up for a sequence.
    fn may_push(&self, l: &Line, lines: &[Line], book: &Book) -> bool {
        let alone = self.sheltered.is_none_or(|s| s == l.seq);
        let holds = |v: &&Line| v.seq != l.seq && holds_pages(book, v.seq);
        let others: Vec<&Line> = lines.iter().filter(holds).collect();
        others.is_empty()
            || others.iter().any(|v| {
                let safe = self.sheltered == Some(v.seq);
                !safe && (alone || !v.ready || self.order.outranks(l, v))
            })
    }

    /// Reserves rows; takes pages from others if it must and may. False: the sequence has to wait.
    fn make_room(
        &mut self,
        line: &Line,
        rows: usize,
        lines: &[Line],
        seats: &[Seat<'_>],
        book: &mut Book,
        turn: &mut Turn,
    ) -> bool {
        while book.reserve(line.seq, rows).is_err() {
            let runs = |s: &&Seat<'_>| s.holds || !s.line.held;
            self.sheltered = self.sheltered.or_else(|| seats.iter().find(runs).map(|s| s.line.seq));
            let Some(victim) = self.victim(line, lines, seats, book, &turn.preempted) else {
                if lines.iter().all(|l| l.seq == line.seq || !holds_pages(book, l.seq)) {
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

    /// Who gives way: the youngest among those nobody listens to, then the last in order that may be pushed out; each
    /// once per turn, since memory that cannot go back keeps its pages.
    fn victim(
        &self,
        line: &Line,
        lines: &[Line],
        seats: &[Seat<'_>],
        book: &Book,
        already: &[SeqId],
    ) -> Option<SeqId> {
        let can = |l: &Line| {
            l.seq != line.seq
                && self.sheltered != Some(l.seq)
                && holds_pages(book, l.seq)
                && !already.contains(&l.seq)
        };
        let may = |l: &Line| self.sheltered == Some(line.seq) || self.order.outranks(line, l);
        let paused = lines.iter().rev().find(|l| !l.ready && can(l));
        let last = seats.iter().rev().map(|s| s.line).find(|l| can(l) && may(l));
        paused.or(last).map(|l| l.seq)
    }

    /// Rows of prompts, after the answers under way have theirs.
    fn prompts(
        &mut self,
        parts: &[Seat<'_>],
        lines: &[Line],
        seats: &[Seat<'_>],
        book: &mut Book,
        turn: &mut Turn,
    ) {
        let PolicyCtx { chunk, batch, share } = self.ctx;
        let used = |turn: &Turn| turn.parts.iter().map(|p| p.rows).sum::<usize>();
        let answers = !turn.parts.is_empty();
        let mut prompts: Vec<&Seat<'_>> = parts.iter().filter(|s| !s.decodes()).collect();
        let mut eldest = prompts.iter().map(|s| s.line.seq).min();
        prompts.sort_by(|a, b| {
            let rest = |s: &Seat<'_>| s.left.div_ceil(REST).max(1).ilog2();
            a.rank.total_cmp(&b.rank).then(rest(a).cmp(&rest(b))).then(a.line.seq.cmp(&b.line.seq))
        });
        let mut given = 0;
        for seat in prompts {
            let seq = seat.line.seq;
            if turn.preempted.contains(&seq) || turn.starved.contains(&seq) {
                continue;
            }
            let free = chunk - used(turn);
            let floor = (share.min(free) / 8).max(1);
            let is_eldest = eldest == Some(seq);
            let mine = if eldest.is_none() || is_eldest { free } else { free.saturating_sub(floor) };
            let ends = !answers && seat.left <= mine;
            let most = if ends || (!answers && batch == 1) { mine } else { share.saturating_sub(given) };
            let mut rows = seat.left.min(most).min(mine);
            if is_eldest {
                rows = rows.max(floor.min(seat.left).min(free));
                eldest = None;
            }
            if rows > 0 && self.make_room(seat.line, rows, lines, seats, book, turn) {
                given += rows;
                turn.parts.push(Part { seq, rows, draft: 0 });
            }
        }
    }
}

fn holds_pages(book: &Book, seq: SeqId) -> bool {
    !book.table(seq, 0).is_empty()
}

impl<O: Order> Policy for Pack<O> {
    fn choose(&mut self, lines: &[Line], desk: &mut Desk<'_>, now: Duration) -> Turn {
        self.order.begin(lines, now);
        self.sheltered = self.sheltered.filter(|s| lines.iter().any(|l| l.seq == *s && l.ready));
        let mut turn = Turn::default();
        let seats = self.seats(lines, desk.book, now);
        let parts = self.take_part(lines, &seats, desk);
        let book = &mut *desk.book;
        for seat in parts.iter().filter(|s| s.decodes()) {
            if !turn.preempted.contains(&seat.line.seq)
                && self.make_room(seat.line, 1, lines, &seats, book, &mut turn)
            {
                turn.parts.push(Part { seq: seat.line.seq, rows: 1, draft: 0 });
            }
        }
        self.prompts(&parts, lines, &seats, book, &mut turn);
        let spare = self.ctx.chunk - turn.parts.iter().map(|p| p.rows).sum::<usize>();
        let choosing = turn.parts.len().max(1);
        turn.parts.iter_mut().for_each(|p| p.draft = spare / choosing);
        turn
    }

    fn charge(&mut self, charges: &[Charge]) {
        self.order.charge(charges);
    }

    fn forget(&mut self, seq: SeqId) {
        self.sheltered = self.sheltered.filter(|&s| s != seq);
    }
}
