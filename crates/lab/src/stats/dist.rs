//! Normal, Student and binomial distributions, from `libm`, so that their bits do not depend on the platform.

/// P(Z ≤ z) of a standard normal.
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)
}

/// The z with P(Z ≤ z) = p: Acklam's rational approximation (relative error 1.2e-9) and one Halley step. −∞ and ∞
/// outside 0..1.
pub fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 5] = [
        -5.447609879822406e1,
        1.615858368580409e2,
        -1.556989798598866e2,
        6.680131188771972e1,
        -1.328068155288572e1,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 4] = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416];
    if p.is_nan() || p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if p >= 1.0 {
        return f64::INFINITY;
    }
    let poly = |c: &[f64], x: f64| c.iter().fold(0.0, |s, c| s * x + c);
    let tail = |p: f64| {
        let q = libm::sqrt(-2.0 * libm::log(p));
        poly(&C, q) / (poly(&D, q) * q + 1.0)
    };
    let x = if p < 0.02425 {
        tail(p)
    } else if p > 1.0 - 0.02425 {
        -tail(1.0 - p)
    } else {
        let q = p - 0.5;
        poly(&A, q * q) * q / (poly(&B, q * q) * q * q + 1.0)
    };
    let e = normal_cdf(x) - p;
    let u = e * libm::sqrt(2.0 * std::f64::consts::PI) * libm::exp(x * x / 2.0);
    let step = u / (1.0 + x * u / 2.0);
    if step.is_finite() { x - step } else { x }
}

/// P(T ≤ t) of Student's t with `dof` degrees of freedom.
pub fn t_cdf(t: f64, dof: f64) -> f64 {
    let tail = 0.5 * incomplete_beta(dof / (dof + t * t), dof / 2.0, 0.5);
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// The t with P(T > t) = `tail` (0 < tail < 0.5), by bisection on the tail. ∞ without degrees of freedom.
pub fn t_upper(tail: f64, dof: usize) -> f64 {
    if dof == 0 || tail.is_nan() || tail <= 0.0 {
        return f64::INFINITY;
    }
    let (mut lo, mut hi) = (0.0, 1.0);
    let above = |t: f64| t_cdf(-t, dof as f64);
    while above(hi) > tail && hi < 1e12 {
        hi *= 2.0;
    }
    for _ in 0..100 {
        let mid = 0.5 * (lo + hi);
        if above(mid) > tail { lo = mid } else { hi = mid }
    }
    0.5 * (lo + hi)
}

/// I_x(a, b), by Lentz's continued fraction on the side where it converges fast.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = libm::exp(
        libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * libm::log(x) + b * libm::log1p(-x),
    );
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let safe = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / safe(1.0 - (a + b) * x / (a + 1.0));
    let mut h = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / safe(1.0 + even * d);
        c = safe(1.0 + even / c);
        h *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / safe(1.0 + odd * d);
        c = safe(1.0 + odd / c);
        let step = d * c;
        h *= step;
        if (step - 1.0).abs() < 1e-15 {
            break;
        }
    }
    h
}

/// P(X ≤ k) of a binomial of `n` throws that succeed with probability `p` (0 < p < 1).
pub fn binomial_cdf(k: usize, n: usize, p: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    let ln_fact = |m: usize| libm::lgamma(m as f64 + 1.0);
    let (hit, miss) = (libm::log(p), libm::log1p(-p));
    let term = |i: usize| {
        libm::exp(ln_fact(n) - ln_fact(i) - ln_fact(n - i) + i as f64 * hit + (n - i) as f64 * miss)
    };
    (0..=k).map(term).sum::<f64>().min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }

    #[test]
    fn normal_quantiles_are_those_of_the_tables() {
        near(normal_quantile(0.5), 0.0, 1e-12);
        near(normal_quantile(0.975), 1.959_963_984_540_054, 1e-10);
        near(normal_quantile(0.8), 0.841_621_233_572_914, 1e-10);
        near(normal_quantile(1e-6), -4.753_424_308_822_899, 1e-8);
        near(normal_cdf(1.0), 0.841_344_746_068_543, 1e-12);
        assert_eq!(normal_quantile(0.0), f64::NEG_INFINITY);
        assert_eq!(normal_quantile(f64::NAN), f64::NEG_INFINITY);
        assert_eq!(normal_quantile(1.0), f64::INFINITY);
    }

    #[test]
    fn student_quantiles_are_those_of_the_tables() {
        // One degree is Cauchy and two have a closed form: independent of the fraction above.
        near(t_upper(0.025, 1), libm::tan(std::f64::consts::PI * 0.475), 1e-8);
        let p: f64 = 0.01;
        near(t_upper(p, 2), (1.0 - 2.0 * p) * libm::sqrt(2.0 / (4.0 * p * (1.0 - p))), 1e-9);
        near(t_upper(0.025, 10), 2.228_138_852, 1e-8);
        near(t_upper(0.0005, 21), 3.819_277_2, 1e-6);
        near(t_upper(0.025, 1_000_000), 1.959_966_4, 1e-6);
        assert_eq!(t_upper(0.025, 0), f64::INFINITY);
    }

    #[test]
    fn the_t_distribution_is_symmetric_and_its_quantile_inverts_it() {
        for dof in [1, 2, 3, 5, 21, 100] {
            for tail in [0.3, 0.05, 0.01, 1e-4] {
                let t = t_upper(tail, dof);
                near(t_cdf(-t, dof as f64), tail, 1e-12);
                near(t_cdf(t, dof as f64) + t_cdf(-t, dof as f64), 1.0, 1e-12);
            }
        }
    }

    #[test]
    fn binomial_sums_are_exact_counts() {
        near(binomial_cdf(0, 5, 0.5), 1.0 / 32.0, 1e-14);
        near(binomial_cdf(2, 8, 0.5), 37.0 / 256.0, 1e-14);
        near(binomial_cdf(1, 3, 0.25), (27.0 + 27.0) / 64.0, 1e-14);
        near(binomial_cdf(9, 9, 0.5), 1.0, 0.0);
    }
}
