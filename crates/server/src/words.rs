//! Words in refusals: the nearest known one, and no more of a stranger's text than fits a line.

/// The first 64 characters, without control characters: a refusal must not become a log's next line.
pub fn brief(text: &str) -> String {
    let mut out: String =
        text.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(64).is_some() {
        out.push('…');
    }
    out
}

/// The known word closest to `word`, when it is close enough to be a slip.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|k| (distance(word, k), k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_a_stranger_finds_none() {
        let known = ["temperature", "top_p", "stop"];
        assert_eq!(nearest("temprature", known), Some("temperature"));
        assert_eq!(nearest("topp", known), Some("top_p"));
        assert_eq!(nearest("frobnicate", known), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), known), None);
    }

    #[test]
    fn a_strangers_text_stays_one_short_line() {
        assert_eq!(brief("a\nb"), "a\u{fffd}b");
        assert_eq!(brief(&"é".repeat(100)).chars().count(), 65);
    }
}
