//! Answers that are known from elsewhere, and what must hold of any table.

use proptest::prelude::*;

use super::*;

fn near(got: f64, want: f64, by: f64) {
    assert!((got - want).abs() <= by, "{got} is not {want} ± {by}");
}

/// Costs of a kernel that reads each weight once for all rows.
fn shared() -> Widths {
    let costs = [(1, 1.0), (2, 1.1), (3, 1.15), (4, 1.3), (5, 1.4), (6, 1.5), (8, 1.62), (16, 3.1)];
    Widths::new(costs.to_vec()).unwrap()
}

/// Costs of a kernel that does not.
fn apart() -> Widths {
    let costs = [(1, 1.0), (2, 2.0), (3, 2.85), (4, 2.25), (5, 3.3), (6, 4.0), (8, 4.5), (16, 5.5)];
    Widths::new(costs.to_vec()).unwrap()
}

#[test]
fn the_best_width_and_its_gain_are_the_published_ones() {
    let widths = [2, 3, 4, 5, 6, 8, 16];
    for (alpha, width, gain) in
        [(0.5, 3, 1.52), (0.6, 3, 1.70), (0.7, 5, 1.98), (0.8, 8, 2.57), (0.9, 8, 3.52)]
    {
        let (t, s) = shared().best(alpha, &widths, 1, &|_| 0.0).unwrap();
        assert_eq!(t, width, "{alpha}");
        near(s, gain, 0.006);
    }
    assert!([0.5, 0.6].iter().all(|&a| apart().best(a, &widths, 1, &|_| 0.0).is_none()), "the wall");
    for (alpha, gain) in [(0.7, 1.13), (0.8, 1.31), (0.9, 1.53)] {
        let (t, s) = apart().best(alpha, &widths, 1, &|_| 0.0).unwrap();
        assert_eq!(t, 4, "{alpha}");
        near(s, gain, 0.006);
    }
}

#[test]
fn a_draft_of_the_first_layers_of_twelve_is_worth_what_its_acceptance_allows() {
    // Layers of the draft, acceptance of its first token, best case with a free second row: 1.12, 1.02, 0.98, 0.96.
    for (layers, accepted, best) in
        [(4.0, 0.49, 1.12), (6.0, 0.52, 1.02), (8.0, 0.64, 0.98), (9.0, 0.68, 0.96)]
    {
        near(gain(tokens_per_step(accepted, 2), 1.0, layers / 12.0), best, 0.007);
    }
    // A head that guesses one token ahead: 0.11 of a step, right in 19.3 of 100.
    near(gain(tokens_per_step(0.193, 2), 1.0, 0.11), 1.07, 0.005);
}

#[test]
fn two_tokens_per_pass_can_never_give_400_from_122_tokens_a_second() {
    let plain = 121.88;
    // Every guess right, guessed for nothing, the second row for nothing: twice the rate and no more.
    near(plain * gain(tokens_per_step(1.0, 2), 1.0, 0.0), 243.76, 0.01);
    assert_eq!(break_even(2, 400.0 / plain, 0.0), None, "what 400 would need");
    // Two passes for two tokens: certainty only breaks even, and any cost of the draft is a loss.
    near(break_even(2, 2.0, 0.0).unwrap(), 1.0, 1e-12);
    assert_eq!(break_even(2, 2.0, 0.11), None);
}

#[test]
fn a_tree_that_cost_26_steps_ran_into_more_than_its_experts() {
    // 15.8 tokens/s alone, 41.1 in a batch of eight: 3.1 single steps.
    near(batch_cost(8, 15.8, 41.1), 3.1, 0.03);
    // 8.4 tokens per forward came out at 0.32 of the plain rate, and loading all 77 experts instead of 8 is 9.6.
    let wall = implied_cost(8.4, 0.32, 0.0);
    let experts = Experts::uniform(77.0, 8.0, 0.0, 1.0).unwrap();
    near(wall, 26.25, 1e-9);
    near(experts.most(), 9.625, 1e-9);
    assert!(wall > 2.0 * experts.most(), "the verify path, not only physics");
    // Nine rows that choose apart load 48 of the 77: 6.0 steps, at which 8.4 tokens would have paid.
    near(experts.at(9), 6.04, 0.01);
    assert!(gain(8.4, experts.at(9), 0.0) > 1.0);
}

#[test]
fn the_union_of_experts_and_its_cost_are_the_published_ones() {
    let of = |n: f64, k: f64| Experts::uniform(n, k, 0.0, 1.0).unwrap();
    for (n, k, two, four, eight, sixteen) in [
        (8.0, 2.0, [1.75, 1.46, 1.38], [2.73, 2.19, 1.99], [3.60, 3.08, 2.82], 3.96),
        (128.0, 8.0, [1.94, 1.58, 1.47], [3.64, 2.68, 2.36], [6.45, 4.63, 3.99], 10.3),
        (256.0, 8.0, [1.97, 1.60, 1.48], [3.82, 2.77, 2.43], [7.18, 4.97, 4.24], 12.8),
    ] {
        for (i, overlap) in [0.0, 0.38, 0.5].into_iter().enumerate() {
            let e = of(n, k).calibrated(&[overlap; 3]);
            for (rows, want) in [(2, two[i]), (4, four[i]), (8, eight[i])] {
                near(e.union(rows) / k, want, 0.006);
            }
        }
        near(of(n, k).union(16) / k, sixteen, 0.06);
    }
    let qwen = Experts::uniform(128.0, 8.0, 1.22, 1.81).unwrap();
    let half = qwen.clone().calibrated(&[0.5]);
    for (rows, apart, overlapped) in [(2, 1.56, 1.28), (3, 2.09, 1.55), (4, 2.58, 1.81), (8, 4.26, 2.79)] {
        near(qwen.at(rows), apart, 0.01);
        near(half.at(rows), overlapped, 0.01);
    }
    for (rows, apart, overlapped) in [(2, 0.56, 0.28), (3, 0.66, 0.40), (4, 0.71, 0.48)] {
        near(qwen.break_even(rows, 1, 0.0).unwrap(), apart, 0.006);
        near(half.break_even(rows, 1, 0.0).unwrap(), overlapped, 0.006);
    }
}

#[test]
fn more_streams_raise_the_wall_of_a_dense_model_and_lower_that_of_experts() {
    // Sixteen streams stand where rows cost their full price; expert weights are all loaded anyhow.
    let dense = shared();
    assert!(dense.speedup(0.8, 4, 1, 0.0) > 2.0 && dense.speedup(0.8, 4, 16, 0.0) < 1.0);
    assert!(dense.break_even(4, 1, 0.0) < dense.break_even(4, 4, 0.0));
    let experts = Experts::uniform(64.0, 8.0, 0.2, 0.8).unwrap();
    assert!(experts.break_even(4, 32, 0.0).unwrap() < experts.break_even(4, 1, 0.0).unwrap());
    assert!(experts.speedup(0.8, 4, 32, 0.0) > experts.speedup(0.8, 4, 1, 0.0));
}

#[test]
fn tables_that_say_nothing_sensible_are_refused() {
    for bad in [
        vec![],
        vec![(2, 1.0)],
        vec![(1, 1.2), (2, 2.0)],
        vec![(1, 1.0), (1, 1.0)],
        vec![(1, 1.0), (4, 2.0), (3, 2.0)],
        vec![(1, 1.0), (2, f64::NAN)],
        vec![(1, 1.0), (2, 0.0)],
        (0..=MOST).map(|i| (i + 1, 1.0)).collect(),
    ] {
        assert!(matches!(Widths::new(bad.clone()), Err(WallError::Costs { .. })), "{bad:?}");
    }
    for (n, k, d, e) in
        [(8.0, 9.0, 1.0, 1.0), (8.0, 0.0, 1.0, 1.0), (8.0, 2.0, 0.0, 0.0), (f64::NAN, 2.0, 1.0, 1.0)]
    {
        assert!(Experts::uniform(n, k, d, e).is_err());
    }
    let text = r#"{"kind":"tamp.bench.width.engine","v":2,"model":"m","model_bytes":1,"device":"d","threads":1,
        "measured_ms":1,"plan_hash":"h","points":[{"rows":1,"ms":1.0,"cost":1.0,"cost_min":1.0,"cost_max":1.0}],"x":7}"#;
    let mut table: WidthTable = serde_json::from_str(text).unwrap();
    let e = table.widths().unwrap_err().to_string();
    assert!(e.contains("v 2"), "{e}");
    table.v = 1;
    assert_eq!(table.widths().unwrap().at(1), 1.0);
    assert_eq!(serde_json::to_value(&table).unwrap()["x"], 7, "fields of a newer version are kept");
}

fn tables() -> impl Strategy<Value = Widths> {
    prop::collection::vec((1usize..9, 0.3f64..3.0), 0..12).prop_map(|steps| {
        let mut points = vec![(1, 1.0)];
        let mut rows = 1;
        for (step, cost) in steps {
            rows += step;
            points.push((rows, cost * (rows as f64).sqrt()));
        }
        Widths::new(points).unwrap()
    })
}

proptest! {
    #[test]
    fn measured_widths_cost_what_was_measured_and_others_lie_between_their_neighbours(w in tables(), rows in 1usize..200) {
        for &(at, cost) in &w.0 {
            prop_assert_eq!(w.at(at), cost);
        }
        let below = w.0.iter().rev().find(|p| p.0 <= rows).unwrap();
        if let Some(above) = w.0.iter().find(|p| p.0 >= rows) {
            let (lo, hi) = (below.1.min(above.1), below.1.max(above.1));
            prop_assert!((lo - 1e-12..=hi + 1e-12).contains(&w.at(rows)));
        } else {
            prop_assert!(w.at(rows) >= below.1 && w.at(rows + 1) > w.at(rows));
        }
    }

    #[test]
    fn tokens_per_step_are_the_sum_that_the_definition_writes(alpha in 0.0f64..=1.0, width in 1usize..40) {
        let sum: f64 = (0..width).map(|i| alpha.powi(i as i32)).sum();
        prop_assert!((tokens_per_step(alpha, width) - sum).abs() < 1e-9);
        prop_assert!((1.0..=width as f64 + 1e-9).contains(&tokens_per_step(alpha, width)));
    }

    #[test]
    fn below_break_even_a_step_loses_and_above_it_gains(
        width in 2usize..40, cost in 0.5f64..50.0, draft in 0.0f64..2.0, alpha in 0.0f64..=1.0,
    ) {
        match break_even(width, cost, draft) {
            Some(even) => {
                prop_assert!((0.0..=1.0).contains(&even));
                let s = gain(tokens_per_step(alpha, width), cost, draft);
                if alpha > even + 1e-9 { prop_assert!(s > 1.0 - 1e-9, "{s}"); }
                if alpha < even - 1e-9 { prop_assert!(s < 1.0 + 1e-9, "{s}"); }
            }
            None => prop_assert!(gain(tokens_per_step(1.0, width), cost, draft) < 1.0),
        }
    }

    #[test]
    fn the_best_width_is_no_worse_than_any_other(w in tables(), alpha in 0.0f64..=1.0, batch in 1usize..9) {
        let widths = [2, 3, 4, 8, 16];
        let all = widths.map(|t| w.speedup(alpha, t, batch, 0.05 * t as f64));
        let most = all.iter().copied().fold(0.0, f64::max);
        match w.best(alpha, &widths, batch, &|t| 0.05 * t as f64) {
            Some((_, s)) => prop_assert!(s == most && s > 1.0),
            None => prop_assert!(most <= 1.0),
        }
    }

    #[test]
    fn rows_load_no_fewer_experts_than_one_and_no_more_than_there_are(
        n in 1.0f64..300.0, part in 0.01f64..=1.0, rows in 1usize..500, overlap in 0.0f64..=1.0,
    ) {
        let k = (n * part).max(0.5).min(n);
        let e = Experts::uniform(n, k, 0.3, 0.7).unwrap().calibrated(&[overlap]);
        prop_assert!((e.union(1) - k).abs() < 1e-9 && (e.at(1) - 1.0).abs() < 1e-9);
        prop_assert!(e.union(rows) >= k - 1e-9 && e.union(rows) <= n + 1e-9);
        prop_assert!(e.at(rows) <= e.most() + 1e-9 && e.at(rows + 1) >= e.at(rows) - 1e-12);
        let apart = Experts::uniform(n, k, 0.3, 0.7).unwrap();
        prop_assert!(e.at(rows) <= apart.at(rows) + 1e-9, "overlap saves");
        let closed = n * (1.0 - (1.0 - k / n).powi(rows as i32));
        prop_assert!((apart.union(rows) - closed).abs() < 1e-6 * n);
    }
}
