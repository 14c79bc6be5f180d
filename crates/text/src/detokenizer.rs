//! Tokens to text while they are produced.

use crate::tokenizer::Tokenizer;

/// Turns a stream of tokens into text, whole characters only: the first bytes of a character wait for the rest.
/// Bytes that can no longer become a character read as U+FFFD. Control tokens say nothing.
pub struct Detokenizer<'t> {
    tokenizer: &'t Tokenizer,
    held: Utf8,
}

/// Joins bytes into characters across pushes.
#[derive(Clone, Debug, Default)]
struct Utf8(Vec<u8>);

impl<'t> Detokenizer<'t> {
    /// Starts a stream.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, held: Utf8::default() }
    }

    /// Text that this token completes, often none.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_control(id) {
            return String::new();
        }
        self.held.push(self.tokenizer.bytes(id))
    }

    /// What is left: U+FFFD for a character that never became whole.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held.0).into_owned()
    }
}

impl Utf8 {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let mut out = String::new();
        let mut done = 0;
        for chunk in self.0.utf8_chunks() {
            out.push_str(chunk.valid());
            done += chunk.valid().len();
            let bad = chunk.invalid();
            if bad.is_empty() {
                continue;
            }
            // An invalid tail that a next byte could still complete is held back.
            let is_last = done + bad.len() == self.0.len();
            if is_last && std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none()) {
                break;
            }
            out.push('\u{fffd}');
            done += bad.len();
        }
        self.0.drain(..done);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_any_bytes_reads_as_the_whole() {
        let text = "a©漢🚀\u{301}é".as_bytes();
        let mut cases: Vec<Vec<u8>> =
            vec![text.to_vec(), vec![0xff, 0xe2, 0x82, b'x', 0xf0, 0x9f], vec![0x80; 5]];
        let mut seed = 1u64;
        for _ in 0..200 {
            let n = cases.len() % 13;
            cases.push(
                (0..n)
                    .map(|_| {
                        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
                        [0xf0, 0x9f, 0x9a, 0x80, 0xe2, 0xc3, 0xa9, b'a'][(seed >> 60) as usize % 8]
                    })
                    .collect(),
            );
        }
        for bytes in cases {
            for step in 1..=4 {
                let mut u = Utf8::default();
                let mut got = String::new();
                for c in bytes.chunks(step) {
                    got += &u.push(c);
                }
                got += &String::from_utf8_lossy(&u.0);
                assert_eq!(got, String::from_utf8_lossy(&bytes), "{bytes:x?} by {step}");
            }
        }
    }
}
