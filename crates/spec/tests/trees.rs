//! Draft trees against plain decoding, on a model that is one hash of the path.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use tamp_base::ids::Token;
use tamp_base::settings::Settings;
use tamp_kernels::device::Best;
use tamp_model::batch::{Node, Outputs, Want};
use tamp_sample::noise::Noise;
use tamp_sample::{Chain, Params};
use tamp_spec::{Acceptor, Draft, Exam, accept};

const VOCAB: usize = 8;

/// Logits after a path of tokens.
fn model(path: &[Token]) -> Vec<f32> {
    let key = path.iter().fold(17u64, |k, &t| Noise::new(k, t).at(1).bits(3));
    let row = Noise::new(key, 0).at(0);
    (0..VOCAB).map(|t| row.gumbel(t as Token) as f32).collect()
}

fn acceptor() -> Box<dyn Acceptor> {
    accept::TABLE.open(&(), &Settings::default()).unwrap().0
}

/// One forward and judgement: the known tokens `tokens[from..]`, then the draft.
fn turn(
    a: &mut dyn Acceptor,
    chain: &mut Chain,
    tokens: &mut Vec<Token>,
    from: usize,
    draft: &Draft,
) -> Vec<u32> {
    let want = if chain.needs_full() { Want::Full } else { Want::Choose };
    let stem = tokens.len() - from;
    let mut nodes: Vec<Node> = (0..stem)
        .map(|i| Node { token: tokens[from + i], parent: i.checked_sub(1).map(|p| p as u32), want })
        .collect();
    nodes.extend(draft.nodes().iter().map(|n| Node {
        token: n.token,
        parent: Some(n.parent.map_or(stem as u32 - 1, |p| p + stem as u32)),
        want,
    }));
    let first = 5;
    let mut out = Outputs::new(first + nodes.len());
    let mut paths: Vec<Vec<Token>> = vec![];
    for (i, n) in nodes.iter().enumerate() {
        let mut path = n.parent.map_or(tokens[..from].to_vec(), |p| paths[p as usize].clone());
        path.push(n.token);
        let logits = model(&path);
        let best = (0..VOCAB).fold(0, |b, t| if logits[t] > logits[b] { t } else { b });
        out.set_best(first + i, Best { token: best as Token, logit: logits[best], nan: false });
        out.set_logits(first + i, logits);
        paths.push(path);
    }
    let exam = Exam { nodes: &nodes, first, root: stem - 1, position: tokens.len(), chain };
    let verdict = a.judge(exam, &mut out).unwrap();
    assert_eq!(verdict.kept.len(), stem + verdict.accepted());
    tokens.extend(verdict.choices.iter().map(|c| c.token));
    // what was kept is exactly the path of the new tokens, the last one excepted
    let last = *verdict.kept.last().unwrap() as usize;
    assert_eq!(paths[last], tokens[..tokens.len() - 1]);
    verdict.kept
}

fn params() -> impl Strategy<Value = Params> {
    (prop_oneof![Just(0.0f32), Just(0.8)], any::<u64>(), any::<bool>(), prop_oneof![Just(0usize), Just(5)])
        .prop_map(|(temperature, seed, penal, top_k)| Params {
            temperature,
            seed,
            top_k,
            frequency_penalty: if penal { 0.7 } else { 0.0 },
            repetition_penalty: if penal { 1.3 } else { 1.0 },
            ..Params::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_draft_tree_gives_the_stream_of_plain_decoding(
        params in params(),
        prompt in prop::collection::vec(0u32..VOCAB as u32, 1..5),
        drafts in prop::collection::vec(
            (prop::collection::vec((0u32..VOCAB as u32, any::<u16>()), 0..10), 0usize..6, any::<bool>()), 1..12),
    ) {
        let mut plain = prompt.clone();
        let mut chain = Chain::new(params.clone(), &prompt, VOCAB).unwrap();
        let mut a = acceptor();
        let mut done = 0;
        while plain.len() < prompt.len() + 100 {
            turn(a.as_mut(), &mut chain, &mut plain, done, &Draft::default());
            done = plain.len() - 1;
        }
        prop_assert_eq!(a.acts().asked, 0);

        let mut tokens = prompt.clone();
        let mut chain = Chain::new(params, &prompt, VOCAB).unwrap();
        let mut done = 0;
        let mut right = 0;
        for (noise, good, first) in drafts {
            // a correct run of `good` tokens, hidden among random branches
            let mut draft = Draft::default();
            let correct = &plain[tokens.len()..(tokens.len() + good).min(plain.len())];
            let add = |draft: &mut Draft| {
                correct.iter().fold(None, |at, &t| draft.push(t, at));
            };
            if first {
                add(&mut draft);
            }
            for (token, parent) in noise {
                let parent = (parent as usize % (draft.len() + 1)).checked_sub(1).map(|p| p as u32);
                draft.push(token, parent);
            }
            if !first {
                add(&mut draft);
            }
            let before = tokens.len();
            turn(a.as_mut(), &mut chain, &mut tokens, done, &draft);
            // siblings with the same token: the first is kept, so the run is only sure to be found when it is first
            if first {
                prop_assert!(tokens.len() - before > correct.len());
                right += usize::from(!correct.is_empty());
            }
            done = tokens.len() - 1;
            if tokens.len() > prompt.len() + 80 {
                break;
            }
        }
        prop_assert_eq!(&tokens[..], &plain[..tokens.len()]);
        prop_assert!(a.acts().acted >= right as u64);
    }
}
