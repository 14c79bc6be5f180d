//! From a turn to a ragged batch and back: views for the proposer, rows, judgement, commit.

use tamp_base::ids::SeqId;
use tamp_kv::{Book, Device};
use tamp_model::batch::{Batch, Node, Outputs, Want};
use tamp_sample::FinishReason;
use tamp_spec::{Draft, Exam, Kept, SeqView, Verdict};

use crate::Engine;
use crate::error::{Cause, EngineError, Failure};
use crate::intake::coalesce::Prefix;
use crate::policy::Desk;
use crate::seq::{Goal, Pool, Seq};
use crate::turn::{Outcome, Part, Turn};

/// Pages fetched from a slower memory in a step that others take part in: some milliseconds of theirs.
const FETCH: usize = 16;

/// Draft nodes per turn. Each may bring all its logits home, half a megabyte for a large vocabulary.
const MOST_DRAFT: usize = 128;

/// A batch and whose rows it holds.
pub(crate) struct Rows {
    pub batch: Batch,
    pub parts: Vec<Laid>,
}

/// One sequence's rows.
pub(crate) struct Laid {
    pub seq: SeqId,
    /// batch row of `nodes[0]`
    pub first: usize,
    pub nodes: Vec<Node>,
    /// known tokens; the rest is draft
    pub rows: usize,
    /// the last known token is among them, so a new one is chosen
    pub chooses: bool,
}

impl<D: Device> Engine<D> {
    /// Asks the policy; ends the sequences that the pool can never hold.
    pub(crate) fn choose(&mut self) -> Turn {
        self.settle();
        self.give_way();
        let mut held = self.held();
        self.fetch(&mut held);
        let mut lines: Vec<_> =
            self.seqs.values().zip(held).map(|(s, held)| s.line(&self.forecast, held)).collect();
        let now = self.clock.now();
        let eased = self.ease(&mut lines, now);
        let (seqs, reuse) = (&mut self.seqs, &mut self.reuse);
        let mut begin = |book: &mut Book, id| seqs.get_mut(&id).map_or(0, |s| s.begin(book, &mut **reuse));
        let mut desk = Desk::new(self.kv.book_mut(), &mut begin);
        let mut turn = self.policy.choose(&lines, &mut desk, now);
        turn.preempted.extend(eased);
        for id in &turn.preempted {
            self.preemptions += 1;
            if let Some(seq) = self.seqs.get_mut(id) {
                seq.timings.preemptions += 1;
                // What was summed up is computed again.
                if let Some(pool) = seq.ask.goal.pool() {
                    *pool = Pool::default();
                }
            }
        }
        for &id in &turn.starved {
            let message =
                format!("the KV pool of {} positions is too small; use a larger --ctx", self.kv.capacity());
            self.finish(id, FinishReason::Error, Some(Failure { cause: Cause::Resource, message }));
        }
        self.gate(&mut turn);
        turn
    }

    /// What runs for nobody ends when somebody is there.
    fn give_way(&mut self) {
        let keeps = |s: &&Seq| matches!(s.ask.goal, Goal::Keep);
        if self.seqs.values().any(|s| !keeps(&s)) {
            let gone: Vec<SeqId> = self.seqs.values().filter(keeps).map(|s| s.id).collect();
            gone.into_iter().for_each(|id| self.finish(id, FinishReason::Cancelled, None));
        }
    }

    /// Brings pages of the first newcomer that has some in a slower memory back into the cache, a few per step while
    /// others run; it waits meanwhile.
    fn fetch(&mut self, held: &mut [bool]) {
        let busy = self.seqs.keys().any(|&id| self.kv.len(id) > 0);
        let most = if busy { FETCH } else { usize::MAX };
        for (seq, held) in self.seqs.values_mut().zip(held) {
            if seq.ask.fetched || *held || self.kv.len(seq.id) > 0 || seq.ask.goal.computes_all() {
                continue;
            }
            let cached = self.kv.matched(&seq.ask.root, &seq.tokens);
            let there = self.kv.lookup_disk(&seq.ask.root, &seq.tokens, cached);
            if there > 0 {
                let device = self.models[0].device().clone();
                self.kv.restore(&*device, &seq.ask.root, &seq.tokens, most);
                *held = there > most;
            }
            seq.ask.fetched = there <= most;
            if there > 0 {
                return;
            }
        }
    }

    /// Newcomers that wait for pages another sequence is about to fill.
    fn held(&mut self) -> Vec<bool> {
        let (kv, seqs) = (&self.kv, &self.seqs);
        let prefixes: Vec<Prefix<'_>> = seqs.values().map(|s| s.prefix(kv.len(s.id))).collect();
        self.coalesce.hold(&prefixes, &|p| kv.matched(&p.root, p.tokens))
    }

    /// Lays the turn's rows out. Cannot fail: a draft that finds no room is dropped.
    pub(crate) fn build(&mut self, turn: &Turn) -> Rows {
        let mut drafts = self.propose(turn).into_iter();
        self.run.taps.clear();
        self.run.caught.clear();
        let mut rows =
            Rows { batch: Batch::new(self.kv.groups()), parts: Vec::with_capacity(turn.parts.len()) };
        let now = self.now_ns();
        for part in &turn.parts {
            let draft = if self.chooses(part) { drafts.next().unwrap_or_default() } else { Draft::default() };
            let Some(seq) = self.seqs.get_mut(&part.seq) else { continue };
            let committed = self.kv.len(part.seq);
            let t = &mut seq.timings;
            if t.prompt_rows == 0 {
                t.queue_ns = now.saturating_sub(t.received_ns);
            }
            t.prompt_rows += seq.prompt.saturating_sub(committed).min(part.rows) as u64;
            let draft = match draft.is_empty() || self.kv.reserve(part.seq, part.rows + draft.len()).is_ok() {
                true => draft,
                false => Draft::default(),
            };
            let chooses = seq.ask.goal.answers() && committed + part.rows == seq.tokens.len();
            let want = if seq.chain.needs_full() { Want::Full } else { Want::Choose };
            let known = &seq.tokens[committed..committed + part.rows];
            let nodes: Vec<Node> = known
                .iter()
                .enumerate()
                .map(|(i, &token)| {
                    let want = if chooses && i + 1 == part.rows { want } else { Want::Nothing };
                    Node { token, parent: i.checked_sub(1).map(|p| p as u32), want }
                })
                .chain(draft.nodes().iter().map(|n| {
                    let parent = n.parent.map_or(part.rows - 1, |p| part.rows + p as usize);
                    Node { token: n.token, parent: Some(parent as u32), want }
                }))
                .collect();
            let first = rows.batch.push(part.seq, committed, self.kv.tables(part.seq), &nodes).start;
            if seq.ask.goal.computes_all() {
                let last = self.models[turn.model].shape.layers - 1;
                self.run.taps.extend((first..first + part.rows).map(|row| (last, row)));
            }
            rows.parts.push(Laid { seq: part.seq, first, nodes, rows: part.rows, chooses });
        }
        self.aside.pick.pick(&mut rows.batch.maps);
        self.tell_laid(&rows);
        rows
    }

    pub(crate) fn chooses(&self, part: &Part) -> bool {
        let seq = self.seqs.get(&part.seq).filter(|s| s.ask.goal.answers());
        seq.is_some_and(|s| self.kv.len(part.seq) + part.rows == s.tokens.len())
    }

    /// Drafts for the sequences that choose a token in this turn, clipped to what fits.
    fn propose(&mut self, turn: &Turn) -> Vec<Draft> {
        if self.aside.eased.no_draft {
            return Vec::new();
        }
        let choosing: Vec<&Part> = turn.parts.iter().filter(|p| self.chooses(p)).collect();
        let mut spare = MOST_DRAFT;
        let vocab = self.models[turn.model].shape.vocab;
        let views: Vec<SeqView<'_>> = choosing
            .iter()
            .filter_map(|p| {
                let s = self.seqs.get(&p.seq)?;
                let depth = s.limit.saturating_sub(s.tokens.len() + 1).min(self.gates.depth(s.id));
                Some(SeqView { seq: s.id, tokens: &s.tokens, chain: &s.chain, rows: p.draft, depth })
            })
            .collect();
        let mut drafts = self.proposer.propose(&views);
        drafts.resize(views.len(), Draft::default());
        for (draft, view) in drafts.iter_mut().zip(&views) {
            draft.clip(view.rows.min(spare), view.depth, vocab);
            self.gates.clip(view.seq, draft, vocab);
            spare -= draft.len();
        }
        drafts
    }

    /// What stays of a sequence's rows.
    pub(crate) fn judge(&mut self, part: &Laid, out: &mut Outputs) -> Outcome {
        let mut seq = self.seqs.get_mut(&part.seq);
        if let Some(pool) = seq.as_deref_mut().and_then(|s| s.ask.goal.pool()) {
            let own = part.first..part.first + part.rows;
            self.run.caught.iter().filter(|c| own.contains(&c.1)).for_each(|c| pool.add(&c.2));
        }
        let Some(seq) = seq.filter(|_| part.chooses) else {
            let kept = (0..part.rows as u32).collect();
            return Outcome { seq: part.seq, verdict: Ok(Verdict { kept, ..Verdict::default() }) };
        };
        let exam = Exam {
            nodes: &part.nodes,
            first: part.first,
            root: part.rows - 1,
            position: seq.tokens.len(),
            chain: &mut seq.chain,
        };
        Outcome { seq: part.seq, verdict: self.accept.judge(exam, out) }
    }

    /// Makes the kept rows memory and gives the others' pages back. A failed sequence forgets its batch.
    pub(crate) fn commit(&mut self, kept: &[Outcome]) -> Result<(), EngineError> {
        for o in kept {
            let rows = o.verdict.as_ref().map_or(&[][..], |v| &v.kept);
            self.kv.commit(o.seq, rows)?;
            if let Some(seq) = self.seqs.get(&o.seq) {
                self.reuse.keep(self.kv.book_mut(), seq.id, seq.ask.root, &seq.tokens);
            }
        }
        Ok(())
    }

    /// Tells the proposer what became of its drafts, and counts.
    pub(crate) fn learn(&mut self, kept: &[Outcome]) {
        for o in kept {
            let Ok(v) = &o.verdict else { continue };
            let (tested, accepted) = (v.tested, v.accepted());
            self.run.work.draft_tested += tested as u64;
            self.run.work.draft_accepted += accepted as u64;
            if !v.choices.is_empty() {
                let tokens: Vec<_> = v.choices.iter().map(|c| c.token).collect();
                self.proposer.learn(&[Kept { seq: o.seq, tokens: &tokens, tested, accepted }]);
            }
        }
    }
}
