//! Draft trees through the real loop: whatever a proposer offers, the answer is the one of plain decoding.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;

use common::*;
use tamp_base::count::Acts;
use tamp_base::ids::{SeqId, Token};
use tamp_sample::noise::Noise;
use tamp_spec::{Draft, Kept, Proposer, SeqView};

/// Knows the right answers, by prompt, and hides them among wrong branches.
struct Scripted {
    /// prompt ++ answer of every request
    truth: Vec<Vec<Token>>,
    /// right tokens per draft
    good: usize,
    /// wrong nodes per draft
    bad: usize,
    round: u64,
    acts: Acts,
    learnt: HashMap<SeqId, Vec<Token>>,
    forgotten: Vec<SeqId>,
}

impl Scripted {
    fn new(truth: Vec<Vec<Token>>, good: usize, bad: usize) -> Self {
        let (acts, learnt, forgotten) = (Acts::default(), HashMap::new(), vec![]);
        Scripted { truth, good, bad, round: 0, acts, learnt, forgotten }
    }
}

impl Proposer for Scripted {
    fn propose(&mut self, seqs: &[SeqView<'_>]) -> Vec<Draft> {
        self.round += 1;
        seqs.iter()
            .map(|s| {
                self.acts.asked += 1;
                let row = Noise::new(self.round, s.seq.0 as u32).at(s.tokens.len());
                let known =
                    self.truth.iter().find(|t| t.starts_with(s.tokens)).expect("the stream left the truth");
                let mut draft = Draft::default();
                let mut at = None;
                let mut good = known[s.tokens.len()..].iter().take(self.good);
                // wrong nodes anywhere before, between and after the right ones
                for i in 0..(self.bad + self.good) as u32 {
                    if (row.bits(i).is_multiple_of(2) || self.bad == 0)
                        && let Some(&t) = good.next()
                    {
                        at = draft.push(t, at);
                        continue;
                    }
                    let parent = (row.bits(1000 + i) % (draft.len() as u64 + 1)).checked_sub(1);
                    draft.push((row.bits(2000 + i) % 250) as Token, parent.map(|p| p as u32));
                }
                self.acts.acted += u64::from(!draft.is_empty());
                draft
            })
            .collect()
    }

    fn learn(&mut self, kept: &[Kept<'_>]) {
        for k in kept {
            assert!(k.accepted <= k.tested && k.accepted + 1 == k.tokens.len());
            self.learnt.entry(k.seq).or_default().extend(k.tokens);
        }
    }

    fn forget(&mut self, seq: SeqId) {
        assert!(!self.forgotten.contains(&seq));
        self.forgotten.push(seq);
        self.learnt.remove(&seq);
    }

    fn acts(&self) -> Acts {
        self.acts
    }
}

#[test]
fn a_draft_tree_changes_no_token() {
    for (good, bad) in [(4, 0), (0, 6), (4, 8), (1, 3)] {
        let requests: Vec<_> = (0..4)
            .map(|i| {
                let params = [greedy(), warm(i), penalised(i)][i as usize % 3].clone();
                // stems around page and key-block ends
                request(prompt(i, [14, 15, 16, 62][i as usize]), 40, params)
            })
            .collect();
        let want: Vec<_> = requests.iter().map(|r| alone(r.clone())).collect();
        let truth = want.iter().map(|a| [&a.prompt_tokens[..], &a.tokens].concat()).collect();
        let mut e = engine(options(110, 128, 4)).with_proposer(Box::new(Scripted::new(truth, good, bad)));
        let got = run_all(&mut e, requests);
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(got.tokens, want.tokens, "good {good}, bad {bad}");
            assert_eq!(got.text, want.text);
        }
        let stats = e.stats();
        if (good, bad) == (4, 0) {
            // five tokens per sequence and forward pass, from the prompt's own pass on
            assert_eq!((stats.work.target_forwards, stats.work.draft_accepted), (8, 4 * 4 * 8), "{stats:?}");
        }
        if good > 1 {
            assert!(stats.work.draft_accepted > 40, "{stats:?}");
            assert!(stats.accept.acted > 0);
            // plain decoding needs 40 forward passes
            assert!(stats.work.target_forwards < 40, "{stats:?}");
        }
        assert!(stats.work.draft_tested >= stats.work.draft_accepted);
    }
}

#[test]
fn drafts_give_way_when_pages_run_out() {
    let requests: Vec<_> = (0..3).map(|i| request(prompt(i, 20), 40, warm(i))).collect();
    let want: Vec<_> = requests.iter().map(|r| alone(r.clone())).collect();
    let truth = want.iter().map(|a| [&a.prompt_tokens[..], &a.tokens].concat()).collect();
    let mut e = engine(tamp_engine::EngineOptions { pages: 7, ..options(60, 64, 3) })
        .with_proposer(Box::new(Scripted::new(truth, 3, 20)));
    let got = run_all(&mut e, requests);
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got.tokens, want.tokens);
    }
    assert!(e.stats().work.draft_accepted > 0);
}
