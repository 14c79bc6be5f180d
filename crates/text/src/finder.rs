//! Finds markers in text that comes in pieces, character by character.

/// Holds back what may still become a marker, and, where asked to, the white space before it.
#[derive(Clone, Debug)]
pub struct Finder {
    /// white space that waits for what follows it
    pub space: String,
    /// a proper beginning of a marker
    part: String,
    /// white space waits
    pub keep: bool,
    /// nothing but white space has come
    pub fresh: bool,
}

impl Finder {
    pub fn new(keep: bool) -> Self {
        Self { space: String::new(), part: String::new(), keep, fresh: true }
    }

    /// Takes a character; text that is none of a marker goes to `out`. Gives the index of a marker that is complete; its
    /// text is gone then, the white space before it is still in `space`. Markers are neither empty nor hold white space;
    /// `opening` is one that counts only while nothing but white space came, and has the index after the others.
    pub fn push(
        &mut self,
        c: char,
        markers: &[&str],
        opening: Option<&str>,
        out: &mut String,
    ) -> Option<usize> {
        self.part.push(c);
        loop {
            let first = self.part.chars().next()?;
            if first.is_whitespace() {
                self.part.remove(0);
                if self.keep { &mut self.space } else { &mut *out }.push(first);
                continue;
            }
            let all = || markers.iter().copied().chain(opening.filter(|_| self.fresh));
            if let Some(i) = all().position(|m| m == self.part) {
                self.part.clear();
                self.fresh = false;
                return Some(i);
            }
            if all().any(|m| m.starts_with(&self.part)) {
                return None;
            }
            self.fresh = false;
            out.push_str(&std::mem::take(&mut self.space));
            out.push(first);
            self.part.remove(0);
        }
    }

    /// What is held back: white space, then the beginning of a marker.
    pub fn take(&mut self) -> (String, String) {
        (std::mem::take(&mut self.space), std::mem::take(&mut self.part))
    }
}
