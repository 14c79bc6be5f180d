//! What an experiment must say before it may be opened.

use tamp_base::record::METRICS;

use super::{Class, SPEC, Spec};
use crate::quality::bounds::FEWEST;

impl Spec {
    pub(super) fn check(&self) -> Result<(), String> {
        let say = |ok: bool, why: &str| if ok { Ok(()) } else { Err(why.to_string()) };
        say(self.kind == SPEC, &format!("kind is {:?}; a spec says kind = \"{SPEC}\"", self.kind))?;
        say(self.v == 1, &format!("v = {} is not known here; this tamp reads v = 1", self.v))?;
        for (name, text) in [
            ("title", &self.title),
            ("hypothesis", &self.hypothesis),
            ("mechanism", &self.mechanism),
            ("change", &self.change),
        ] {
            say(!text.trim().is_empty(), &format!("{name} is empty; say it in a sentence"))?;
        }
        say(!self.tags.is_empty(), "tags is empty; `lab why` finds what is known by tags")?;
        say((0.0..=1.0).contains(&self.confidence), "confidence is a probability, 0 to 1")?;
        say(
            self.expected.effect > 0.0,
            "expected.effect is a ratio above 0, oriented so that more than 1 is better",
        )?;
        say(
            self.candidate.is_none() || self.candidates.is_empty(),
            "give candidate or candidates, not both",
        )?;
        let tried = self.tried();
        if self.is_null() {
            say(
                tried.is_empty(),
                "a null (design.kind = \"aa\") compares the control with itself and has no candidate",
            )?;
        } else {
            say(!tried.is_empty(), "there is no candidate; a null says design.kind = \"aa\"")?;
            say(!self.kill.is_empty(), "there is no [[kill]] gate; name the result that would end the idea")?;
            say(!self.success.is_empty(), "there is no [[success]] gate; name the result that would count")?;
            say(
                !self.manipulation.is_empty(),
                "there is no [[manipulation]]; name an observed fact that separates the arms",
            )?;
        }
        let metrics = self.success.iter().chain(&self.kill).map(|g| &g.metric);
        for metric in metrics.chain([&self.expected.metric]) {
            say(
                METRICS.contains(&metric.as_str()),
                &format!("there is no metric {metric:?}; known: {}", METRICS.join(", ")),
            )?;
        }
        say(!self.invariant.is_empty(), "there is no [[invariant]]; name an observed fact that must hold")?;
        let mut names: Vec<String> = self.arms().into_iter().map(|a| a.name).collect();
        names.sort();
        say(names.windows(2).all(|w| w[0] != w[1]), "two arms have the same name")?;
        let kind = self.design.kind.as_deref().unwrap_or("abba");
        match kind {
            "aa" => {}
            "abba" => say(tried.len() == 1, "design.kind = \"abba\" takes one candidate; more arms take \"latin\"")?,
            "latin" => say(tried.len() > 1, "design.kind = \"latin\" is for several candidates")?,
            "in-process" => return Err("design.kind = \"in-process\" needs levers that can be switched per request inside one engine, which no card offers yet; use \"abba\"".into()),
            other => return Err(format!("design.kind = {other:?} is not known; known: abba, latin, aa")),
        }
        say(
            self.design.process_per_sample != Some(false),
            "process_per_sample = false is not possible; every sample is a fresh process",
        )?;
        let [lo, hi] = self.pairs();
        say(4 <= lo && lo <= hi && hi <= 400, "design.pairs is [fewest, most], 4 ≤ fewest ≤ most ≤ 400")?;
        say((1e-4..=0.5).contains(&self.alpha()), "design.alpha is between 0.0001 and 0.5")?;
        say(!self.contract.prompts.is_empty(), "contract.prompts is empty")?;
        say((1..=1_000_000).contains(&self.contract.max_tokens), "contract.max_tokens is 1 to 1000000")?;
        for m in &self.manipulation {
            say(
                m.candidate.is_some() || m.control.is_some(),
                &format!("manipulation {:?} says neither candidate nor control", m.observable),
            )?;
        }
        for i in &self.invariant {
            let identity = i.pred.is_token_identity();
            say(
                identity != i.observable.is_some(),
                &format!(
                    "invariant {:?} needs an observable, or pred = \"token_identity\" without one",
                    i.name
                ),
            )?;
        }
        say(
            self.quality.class == Class::NearExact || self.quality.max_flips.is_none(),
            "quality.max_flips is for class near-exact",
        )?;
        let q = &self.quality;
        for (name, most, unit) in [
            ("max_kl", q.max_kl, "nats per token"),
            ("max_bits", q.max_bits, "bits per byte"),
            ("max_task_loss", q.max_task_loss, "a share of the items"),
        ] {
            say(
                most.is_none_or(|m| m >= 0.0 && m.is_finite()),
                &format!("quality.{name} is {unit}, 0 or more"),
            )?;
        }
        say(
            q.positions.is_none_or(|n| (FEWEST..=100_000).contains(&n)),
            &format!("quality.positions is {FEWEST} to 100000 tokens of the held-out text"),
        )?;
        for a in self.arms() {
            say(a.parallel.is_none_or(|n| (1..=64).contains(&n)), "parallel is 1 to 64")?;
            say(
                a.engine.is_none() || (a.rev.is_none() && a.patch.is_none()),
                "an arm of another engine has no rev and no patch",
            )?;
        }
        for key in self.on.keys() {
            say(
                crate::verdict::Verdict::known(key),
                &format!("on.{key} is no verdict; known: {}", crate::verdict::Verdict::NAMES.join(", ")),
            )?;
        }
        Ok(())
    }

    /// What a question must say beside that to be opened now. Questions that were opened before stay readable.
    pub(crate) fn opening(&self) -> Result<(), String> {
        let q = &self.quality;
        // Another engine gives no distributions; what waits for a missing thing measures none.
        if !self.blocked.is_empty() || self.arms().iter().any(|a| a.engine.is_some()) {
            return Ok(());
        }
        match q.class {
            Class::NearExact if q.max_kl.is_none() => Err("quality.class = \"near-exact\" needs max_kl: the mean divergence from the control, in nats per token, that is still the same model; keys and values in half precision moved SmolLM2 by 0.0035".into()),
            Class::Approximate if q.max_bits.is_none() && q.max_task_loss.is_none() => Err("quality.class = \"approximate\" needs max_bits (bits per byte of the held-out text), max_task_loss (share of graded items) or both: what may be lost".into()),
            _ => Ok(()),
        }
    }
}
