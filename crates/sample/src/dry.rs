//! DRY, "don't repeat yourself": a token that would prolong a sequence which stood before is punished, the more the longer
//! the sequence (p-e-w, text-generation-webui pull request 5677).

use std::collections::HashMap;

use tamp_base::ids::Token;
use tamp_text::Tokenizer;

use crate::{Params, SampleError};

/// Most breakers of a request.
pub const MAX_BREAKERS: usize = 32;
/// Longest breaker, bytes.
pub const MAX_BREAKER_BYTES: usize = 64;
/// The breakers of the reference.
pub const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];
/// The largest punishment; keeps every logit finite.
const MOST: f32 = 1e9;

/// The tokens across which no repetition runs: every one whose text holds one of these strings. A string that no single token
/// holds breaks nothing.
///
/// # Errors
/// A string that is empty or too long, or too many of them.
pub fn breakers(tokenizer: &Tokenizer, strings: &[String]) -> Result<Vec<Token>, SampleError> {
    let refuse =
        |got: String, want: String| Err(SampleError::Range { field: "dry_sequence_breakers", got, want });
    if strings.len() > MAX_BREAKERS {
        return refuse(format!("{} strings", strings.len()), format!("at most {MAX_BREAKERS} strings"));
    }
    if let Some(s) = strings.iter().find(|s| s.is_empty() || s.len() > MAX_BREAKER_BYTES) {
        return refuse(format!("a string of {} bytes", s.len()), format!("1 to {MAX_BREAKER_BYTES} bytes"));
    }
    let holds = |t: &Token| {
        let text = tokenizer.bytes(*t);
        strings.iter().any(|s| text.windows(s.len()).any(|w| w == s.as_bytes()))
    };
    Ok((0..tokenizer.len() as Token).filter(holds).collect())
}

/// For each token, how long the sequence is that it would prolong: the longest end of `context` that also stands earlier,
/// with the token behind it. `breaker` ends a sequence and is none of it, and is never prolonged to.
pub(crate) fn prolongs(context: &[Token], breaker: impl Fn(Token) -> bool) -> HashMap<Token, usize> {
    let back: Vec<Token> = context.iter().rev().copied().collect();
    let room = back.iter().position(|&t| breaker(t)).unwrap_or(back.len());
    let mut longest = HashMap::new();
    if room == 0 {
        return longest;
    }
    // z[i]: how far `back[i..]` agrees with `back` (the Z function, linear time).
    let mut z = vec![0usize; back.len()];
    let (mut left, mut right) = (0, 0);
    for i in 1..back.len() {
        let mut n = if i < right { z[i - left].min(right - i) } else { 0 };
        while i + n < back.len() && back[n] == back[i + n] {
            n += 1;
        }
        z[i] = n;
        if i + n > right {
            (left, right) = (i, i + n);
        }
        let next = back[i - 1];
        let n = n.min(room);
        if n > 0 && !breaker(next) {
            let longest = longest.entry(next).or_insert(0);
            *longest = n.max(*longest);
        }
    }
    longest
}

/// Punishes what would repeat the end of `committed` and then `path`.
pub(crate) fn punish(p: &Params, committed: &[Token], path: &[Token], logits: &mut [f32]) {
    if !p.dry() {
        return;
    }
    let whole = [committed, path].concat();
    let context = &whole[whole.len().saturating_sub(p.dry_last_n.unwrap_or(usize::MAX))..];
    for (token, n) in prolongs(context, |t| p.dry_breakers.contains(&t)) {
        if let Some(x) = logits.get_mut(token as usize)
            && n >= p.dry_allowed_length
        {
            let power = (n - p.dry_allowed_length).min(1 << 20) as f64;
            let by = f64::from(p.dry_multiplier) * libm::pow(f64::from(p.dry_base), power);
            *x -= (by as f32).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every end, every earlier place, token by token.
    fn naive(context: &[Token], breaker: impl Fn(Token) -> bool) -> HashMap<Token, usize> {
        let mut out = HashMap::new();
        for at in 1..context.len() {
            let n = (1..=at)
                .take_while(|&n| {
                    let (a, b) = (context[at - n], context[context.len() - n]);
                    a == b && !breaker(b)
                })
                .count();
            if n > 0 && !breaker(context[at]) {
                let longest = out.entry(context[at]).or_insert(0);
                *longest = n.max(*longest);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn lengths_are_those_of_the_longest_repeated_end(
            context in prop::collection::vec(0u32..4, 0..60),
            broken in prop::option::of(0u32..4),
        ) {
            let breaker = |t| Some(t) == broken;
            prop_assert_eq!(prolongs(&context, breaker), naive(&context, breaker));
        }
    }

    #[test]
    fn the_punishment_grows_with_the_repetition() {
        let p = Params { dry_multiplier: 2.0, dry_base: 3.0, dry_allowed_length: 2, ..Params::default() };
        // 1 2 3 4 stood before, and 9 4 before that: after 1 2 3, token 4 would prolong three tokens.
        let mut x = [0.0f32; 10];
        punish(&p, &[1, 2, 3, 4, 5, 1, 2], &[3], &mut x);
        assert_eq!(x, [0.0, 0.0, 0.0, 0.0, -6.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let short = Params { dry_last_n: Some(5), ..p.clone() };
        let mut x = [0.0f32; 10];
        punish(&short, &[1, 2, 3, 4, 5, 1, 2], &[3], &mut x);
        assert_eq!(x, [0.0; 10]);
        let far = Params { dry_base: 100.0, ..p };
        let mut x = [0.0f32; 2];
        punish(&far, &[1; 300], &[], &mut x);
        assert_eq!(x, [0.0, -1e9]);
    }
}
