use super::*;

fn gates(slack: usize) -> Gates {
    Gates::new(Box::new(Bounded { slack }))
}

#[test]
fn what_a_step_does_not_say_goes_back() {
    let b = Arc::new(Budget::new(10));
    let mut g = gates(0);
    assert_eq!(g.ask(SeqId(1), &b, true, 0), Pass::Go);
    assert_eq!((g.drafts(SeqId(1), 6), g.depth(SeqId(1)), b.free()), (6, 6, 3));
    g.settle(SeqId(1), 2);
    assert_eq!((b.free(), b.spent()), (8, 2));
    assert_eq!(g.depth(SeqId(2)), usize::MAX);
}

#[test]
fn one_waits_while_others_hold_what_is_left_and_ends_when_nothing_can_come_back() {
    let b = Arc::new(Budget::new(1));
    let mut g = gates(0);
    assert_eq!(g.ask(SeqId(1), &b, true, 0), Pass::Go);
    assert_eq!(g.ask(SeqId(2), &b, true, 0), Pass::Wait);
    g.settle(SeqId(1), 0);
    assert_eq!(g.ask(SeqId(2), &b, true, 0), Pass::Go);
    g.forget(SeqId(2), 1);
    assert_eq!(g.ask(SeqId(1), &b, true, 0), Pass::Spent);
    assert_eq!(g.ask(SeqId(3), &b, false, 0), Pass::Spent, "a prompt is not read for nothing");
    assert_eq!(g.acts(), Acts { asked: 5, declined: 2, acted: 3 });
    b.add(1);
    assert_eq!(g.ask(SeqId(3), &b, false, 0), Pass::Go);
}

#[test]
fn slack_is_each_answers_own_and_no_drafts() {
    let b = Arc::new(Budget::new(0));
    let mut g = gates(2);
    assert_eq!(g.ask(SeqId(1), &b, true, 0), Pass::Spent, "it has not begun");
    for said in 5..7 {
        assert_eq!(g.ask(SeqId(1), &b, true, said), Pass::Go);
        assert_eq!(g.drafts(SeqId(1), 4), 0);
        g.settle(SeqId(1), said + 1);
    }
    assert_eq!(g.ask(SeqId(1), &b, true, 7), Pass::Spent);
    assert_eq!(b.free(), -2);
}

#[test]
fn threads_that_share_a_budget_never_take_more_than_there_is() {
    let b = Arc::new(Budget::new(10_000));
    let took: usize = std::thread::scope(|s| {
        let one = || (0..5000).map(|i| b.take(1 + i % 4, 0)).sum::<usize>();
        let all: Vec<_> = (0..4).map(|_| s.spawn(one)).collect();
        all.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!((took, b.free()), (10_000, 0));
}
