//! A guess stays exactly when it is the token the target would have drawn with the same noise. At temperature 0 this
//! is greedy verification; above, the stream is the one plain decoding gives, token for token.

use tamp_base::card::{Card, Effect, Entry, Need};
use tamp_base::count::Acts;
use tamp_model::batch::Outputs;

use super::{Acceptor, Exam, Verdict, target_choice};
use crate::SpecError;

pub(super) static ENTRY: Entry<dyn Acceptor, ()> = Entry {
    card: Card {
        name: "coupling",
        aka: "drafter-invariant speculative decoding",
        about: "keeps a draft token exactly when the target draws it too, with the noise they share",
        paper: "arXiv 2408.07978",
        claim: "",
        effect: Effect::Identical,
        needs: &[Need::Tree, Need::Rewind],
        knobs: &[],
    },
    open: |_, _| Ok(Box::new(Coupling::default())),
};

#[derive(Default)]
struct Coupling {
    acts: Acts,
}

impl Acceptor for Coupling {
    fn judge(&mut self, exam: Exam<'_>, out: &mut Outputs) -> Result<Verdict, SpecError> {
        let Exam { nodes, first, root, position, chain } = exam;
        let mut kept: Vec<u32> = (0..=root as u32).collect();
        let (mut choices, mut path) = (Vec::new(), Vec::new());
        let mut at = root;
        loop {
            let choice = target_choice(chain, &path, first + at, position + path.len(), out)?;
            let token = choice.token;
            choices.push(choice);
            path.push(token);
            let child = (at + 1..nodes.len())
                .find(|&i| i > root && nodes[i].parent == Some(at as u32) && nodes[i].token == token);
            let Some(child) = child else { break };
            kept.push(child as u32);
            at = child;
        }
        path.iter().for_each(|&t| chain.advance(t));
        let verdict = Verdict { kept, choices, tested: nodes.len() - root - 1 };
        if verdict.tested > 0 {
            self.acts.asked += 1;
            let (acted, declined) = (&mut self.acts.acted, &mut self.acts.declined);
            *(if verdict.accepted() > 0 { acted } else { declined }) += 1;
        }
        Ok(verdict)
    }

    fn acts(&self) -> Acts {
        self.acts
    }
}
