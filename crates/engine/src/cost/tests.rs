use proptest::prelude::*;

use super::*;

fn took(seq: u64, prompt: usize, token: usize, refused: usize, keys: u64) -> Took {
    Took { seq: SeqId(seq), load: Load { prompt, token, keys }, refused }
}

fn sum(costs: &[Cost]) -> u64 {
    costs.iter().map(|c| c.prefill_ns + c.decode_ns + c.wasted_ns).sum()
}

/// Is shown a step's time, parts and shares.
type Each<'a> = &'a mut dyn FnMut(u64, &[Took], &[Cost]);

/// Steps of a made-up machine, prompts and answers mixed; every step is off by up to `noise`.
fn run(meter: &mut Meter, truth: &Rates, steps: usize, noise: f64, each: Each<'_>) {
    let mut seed = 1u64;
    let mut draw = |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    for _ in 0..steps {
        let mut parts = vec![];
        for i in 0..1 + draw(8) {
            let at = draw(2000);
            parts.push(match draw(4) {
                0 => {
                    let rows = 1 + draw(64);
                    took(i, rows as usize, 0, 0, rows * at + rows * (rows + 1) / 2)
                }
                1 => took(i, 0, 4, draw(4) as usize, 4 * at + 10),
                _ => took(i, 0, 1, 0, at + 1),
            });
        }
        let whole = parts.iter().fold(Load::default(), |a, p| Load {
            prompt: a.prompt + p.load.prompt,
            token: a.token + p.load.token,
            keys: a.keys + p.load.keys,
        });
        let off = 1.0 + noise * (draw(2001) as f64 / 1000.0 - 1.0);
        let ns = (truth.step(&whole) * off) as u64;
        let costs = meter.split(ns, &parts);
        each(ns, &parts, &costs);
    }
}

const TRUTH: Rates = Rates { base: 9e6, prompt: 1.1e6, token: 0.6e6, key: 8e4 };

proptest! {
    #[test]
    fn the_shares_of_a_step_sum_to_its_time(
        ns in prop_oneof![0u64..50, 0u64..10_000_000_000],
        late in 0u64..1_000_000,
        parts in prop::collection::vec((0usize..300, 0usize..9, 0u64..1_000_000), 1..40),
    ) {
        let mut meter = Meter::default();
        meter.late(0, late);
        let parts: Vec<Took> =
            parts.iter().enumerate().map(|(i, &(p, t, k))| took(i as u64, p, t + usize::from(p == 0), t, k)).collect();
        let costs = meter.split(ns, &parts);
        prop_assert_eq!(costs.len(), parts.len());
        prop_assert_eq!(sum(&costs), ns + late);
        prop_assert_eq!(meter.busy_ns(), ns + late);
        for (p, c) in parts.iter().zip(&costs[..costs.len() - 1]) {
            prop_assert!(p.refused > 0 || c.wasted_ns == 0);
            prop_assert!(p.load.prompt > 0 || c.prefill_ns == 0);
        }
    }
}

#[test]
fn a_share_is_what_the_part_costs_alone_times_what_company_saves() {
    let mut meter = Meter::default();
    run(&mut meter, &TRUTH, 600, 0.05, &mut |_, _, _| ());
    let mut worst = 0.0f64;
    run(&mut meter, &TRUTH, 400, 0.0, &mut |ns, parts, costs| {
        let all: f64 = parts.iter().map(|p| TRUTH.step(&p.load)).sum();
        for (p, c) in parts.iter().zip(costs) {
            let want = TRUTH.step(&p.load) * ns as f64 / all;
            worst = worst.max((sum(&[*c]) as f64 / want - 1.0).abs());
        }
    });
    assert!(worst < 0.1, "off by {worst:.3} of the predicted share");
}

#[test]
fn the_rates_are_those_of_the_machine_and_follow_it() {
    let mut meter = Meter::default();
    run(&mut meter, &TRUTH, 500, 0.02, &mut |_, _, _| ());
    let near = |a: f64, b: f64| (a / b - 1.0).abs() < 0.1;
    let r = meter.rates();
    assert!(near(r.base, TRUTH.base) && near(r.prompt, TRUTH.prompt) && near(r.token, TRUTH.token), "{r:?}");
    assert!(near(r.key, TRUTH.key), "{r:?}");
    let score = meter.score();
    assert_eq!(score.steps, 499);
    assert!(score.off_ns * 10 < score.predicted_ns, "{score:?}");
    let slow = Rates {
        base: 2.0 * TRUTH.base,
        prompt: 2.0 * TRUTH.prompt,
        token: 2.0 * TRUTH.token,
        key: 2.0 * TRUTH.key,
    };
    run(&mut meter, &slow, 3000, 0.02, &mut |_, _, _| ());
    assert!(near(meter.rates().prompt, slow.prompt), "{:?}", meter.rates());
}

#[test]
fn steps_that_are_all_alike_leave_the_rates_sane() {
    let mut meter = Meter::default();
    for i in 0..5000 {
        meter.split(10_000_000 + i % 7, &[took(1, 0, 1, 0, 500 + i)]);
        let r = meter.rates().all();
        assert!(r.iter().all(|r| r.is_finite() && *r >= 0.0), "{r:?} after {i}");
    }
    let alone = meter.rates().step(&Load { prompt: 0, token: 1, keys: 5000 });
    assert!((alone / 1e7 - 1.0).abs() < 0.05, "{alone}");
}

proptest! {
    #[test]
    fn an_estimate_is_what_walking_through_the_steps_charges(
        prefill in 1usize..2000, cached in 0usize..500, said in 1usize..300, chunk in 16usize..256, beside in 0usize..15,
    ) {
        let (mut want, mut page_ns) = ([0.0; 2], 0.0);
        let prompt = prefill + cached;
        let other = Load { prompt: 0, token: 1, keys: prompt as u64 };
        let mut step = |phase: usize, own: Load, held: f64| {
            let whole = Load {
                prompt: own.prompt,
                token: own.token + beside,
                keys: own.keys + (prompt * beside) as u64,
            };
            let all = TRUTH.step(&own) + beside as f64 * TRUTH.step(&other);
            want[phase] += TRUTH.step(&whole) * TRUTH.step(&own) / all;
            page_ns += TRUTH.step(&whole) * held / PAGE as f64;
        };
        let mut at = cached;
        while at < prompt {
            let rows = chunk.min(prompt - at);
            let keys = (rows * at + rows * (rows + 1) / 2) as u64;
            step(0, Load { prompt: rows, token: 0, keys }, at as f64 + rows as f64 / 2.0);
            at += rows;
        }
        for i in 1..said {
            step(1, Load { prompt: 0, token: 1, keys: (prompt + i) as u64 }, (prompt + i) as f64);
        }
        let got = TRUTH.estimate(&Asked { prefill, cached, decode: said as f64, chunk, beside });
        for (name, got, want) in [
            ("prefill", got.prefill_ns, want[0]),
            ("decode", got.decode_ns, want[1]),
            ("pages", got.page_ms, page_ns / 1e6),
        ] {
            // A tenth is what is promised of the whole; steps are not quite alike.
            prop_assert!((got - want).abs() <= 0.1 * want + 1.0, "{name}: {got}, walked {want}");
        }
    }
}

#[test]
fn an_estimate_of_nothing_is_finite() {
    let nothing = TRUTH.estimate(&Asked::default());
    assert!(nothing.prefill_ns > 0.0 && nothing.decode_ns == 0.0 && nothing.page_ms.is_finite());
    let zero = Rates::default().estimate(&Asked { decode: f64::MAX, beside: usize::MAX, ..Asked::default() });
    assert_eq!(zero.busy_ns(), 0.0);
}

#[test]
fn guesses_that_were_refused_pay_for_their_rows_and_not_for_the_weights() {
    let mut meter = Meter::default();
    run(&mut meter, &TRUTH, 600, 0.0, &mut |_, _, _| ());
    let ns = TRUTH.step(&Load { prompt: 0, token: 5, keys: 0 }) as u64;
    let cost = meter.split(ns, &[took(1, 0, 5, 3, 0)])[0];
    assert!((cost.wasted_ns as f64 / (3.0 * TRUTH.token) - 1.0).abs() < 0.05, "{cost:?}");
    assert_eq!(cost.prefill_ns, 0);
}
