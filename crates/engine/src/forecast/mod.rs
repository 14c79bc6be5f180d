//! The room `engine.forecast`: how long an answer will be, before it is. Policies order by it; nobody relies on it.

mod mean;
mod none;
mod prompt;

use serde::Serialize;
use tamp_base::card::Table;

/// What a forecast may know of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// tokens of the prompt
    pub prompt: usize,
    /// tokens of the answer so far
    pub said: usize,
}

/// Foretells lengths and learns from those that came.
pub trait Forecast: Send {
    /// Tokens that the whole answer will have; `None` when there is nothing to go by.
    fn whole(&self, known: Known) -> Option<f64>;
    /// An answer ended by itself or at its limit.
    fn learn(&mut self, ended: Known);
}

/// A forecast and what came of it.
pub(crate) struct Forecaster {
    inner: Box<dyn Forecast>,
    score: Score,
}

/// How far off the forecasts of whole answers were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Score {
    /// answers that ended and had a forecast
    pub answers: u64,
    /// their lengths, tokens
    pub tokens: u64,
    /// sum of the absolute errors, tokens
    pub off: u64,
}

impl Forecaster {
    pub fn new(inner: Box<dyn Forecast>) -> Forecaster {
        Forecaster { inner, score: Score::default() }
    }

    /// Tokens still to come. One that outlives its forecast is expected to say half as much again as it has: the longer
    /// it goes on, the longer it will.
    pub fn rest(&self, known: Known) -> Option<usize> {
        let whole = self.inner.whole(known).filter(|w| w.is_finite())?;
        let rest = whole - known.said as f64;
        Some(if rest >= 1.0 { rest as usize } else { (known.said / 2).max(1) })
    }

    /// An answer ended. The forecast is judged by what it says of the prompt alone.
    pub fn learn(&mut self, ended: Known) {
        if let Some(whole) = self.inner.whole(Known { said: 0, ..ended }).filter(|w| w.is_finite()) {
            self.score.answers += 1;
            self.score.tokens += ended.said as u64;
            self.score.off += (whole - ended.said as f64).abs().round() as u64;
        }
        self.inner.learn(ended);
    }

    pub fn score(&self) -> Score {
        self.score
    }
}

/// The members; the null technique first.
pub static TABLE: Table<dyn Forecast, ()> =
    Table { room: "engine.forecast", rows: &[&none::ENTRY, &prompt::ENTRY, &mean::ENTRY] };

#[cfg(test)]
mod tests {
    use tamp_base::settings::Settings;

    use super::*;

    fn forecaster(name: &str) -> Forecaster {
        let mut s = Settings::default();
        s.add_use(&format!("engine.forecast={name}"), "").unwrap();
        Forecaster::new(TABLE.open(&(), &s).unwrap().0)
    }

    fn known(prompt: usize, said: usize) -> Known {
        Known { prompt, said }
    }

    #[test]
    fn a_forecast_says_nothing_before_it_has_seen_an_answer() {
        for entry in TABLE.rows {
            assert_eq!(forecaster(entry.card.name).rest(known(10, 0)), None, "{}", entry.card.name);
        }
        let mut none = forecaster("none");
        none.learn(known(10, 5));
        assert_eq!((none.rest(known(10, 0)), none.score()), (None, Score::default()));
    }

    #[test]
    fn the_mean_follows_the_answers_and_the_line_follows_the_prompts() {
        let (mut mean, mut line) = (forecaster("mean"), forecaster("prompt"));
        for i in 0..400 {
            let prompt = 10 + i % 50;
            let ended = known(prompt, 20 + 2 * prompt);
            mean.learn(ended);
            line.learn(ended);
        }
        let rest = |f: &Forecaster, p, said| f.rest(known(p, said)).unwrap() as f64;
        // prompts of 10 to 59, so answers of 40 to 138
        assert!((rest(&mean, 10, 0) - 89.0).abs() < 12.0, "{}", rest(&mean, 10, 0));
        for p in [10, 30, 59] {
            assert!((rest(&line, p, 0) - (20 + 2 * p) as f64).abs() <= 1.5, "{p}: {}", rest(&line, p, 0));
            assert!((rest(&line, p, 15) - (5 + 2 * p) as f64).abs() <= 1.5);
        }
        let (m, l) = (mean.score(), line.score());
        assert_eq!((m.answers, l.answers), (399, 399));
        assert!(l.off * 10 < m.off, "the line knows more here: {l:?} {m:?}");
    }

    #[test]
    fn what_outlives_its_forecast_is_expected_to_go_on() {
        let mut mean = forecaster("mean");
        (0..50).for_each(|_| mean.learn(known(5, 10)));
        assert_eq!(mean.rest(known(5, 4)), Some(6));
        assert_eq!(mean.rest(known(5, 10)), Some(5));
        assert_eq!(mean.rest(known(5, 100)), Some(50));
    }
}
