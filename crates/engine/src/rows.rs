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
use crate::seq::Pool;
use crate::turn::{Outcome, Part, Turn};

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
        let held = self.held();
        let lines: Vec<_> =
            self.seqs.values().zip(held).map(|(s, held)| s.line(&self.forecast, held)).collect();
        let (seqs, reuse) = (&mut self.seqs, &mut self.reuse);
        let mut begin = |book: &mut Book, id| seqs.get_mut(&id).map_or(0, |s| s.begin(book, &mut **reuse));
        let mut desk = Desk::new(self.kv.book_mut(), &mut begin);
        let mut turn = self.policy.choose(&lines, &mut desk, self.clock.now());
        for id in &turn.preempted {
            self.preemptions += 1;
            if let Some(seq) = self.seqs.get_mut(id) {
                seq.timings.preemptions += 1;
                // What was summed up is computed again.
                seq.ask.pool = seq.ask.pool.take().map(|_| Pool::default());
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
            let pools = seq.ask.pool.is_some();
            let chooses = !pools && committed + part.rows == seq.tokens.len();
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
            if pools {
                let last = self.models[turn.model].shape.layers - 1;
                self.run.taps.extend((first..first + part.rows).map(|row| (last, row)));
            }
            rows.parts.push(Laid { seq: part.seq, first, nodes, rows: part.rows, chooses });
        }
        rows
    }

    pub(crate) fn chooses(&self, part: &Part) -> bool {
        let seq = self.seqs.get(&part.seq).filter(|s| s.ask.pool.is_none());
        seq.is_some_and(|s| self.kv.len(part.seq) + part.rows == s.tokens.len())
    }

    /// Drafts for the sequences that choose a token in this turn, clipped to what fits.
    fn propose(&mut self, turn: &Turn) -> Vec<Draft> {
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
            spare -= draft.len();
        }
        drafts
    }

    /// What stays of a sequence's rows.
    pub(crate) fn judge(&mut self, part: &Laid, out: &mut Outputs) -> Outcome {
        let mut seq = self.seqs.get_mut(&part.seq);
        if let Some(pool) = seq.as_deref_mut().and_then(|s| s.ask.pool.as_mut()) {
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
