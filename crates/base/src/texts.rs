//! Many short texts in one block, because a vocabulary in as many allocations as tokens costs more to make and to drop
//! than to use.

/// Texts one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    text: String,
    ends: Vec<usize>,
}

impl Texts {
    /// Adds a text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Text `i`.
    pub fn get(&self, i: usize) -> Option<&str> {
        let start = if i == 0 { 0 } else { *self.ends.get(i - 1)? };
        self.text.get(start..*self.ends.get(i)?)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }

    /// The texts that end at `ends` of `bytes`, or both again when one of them is not UTF-8. Looking at all bytes at once
    /// is several times as fast as text by text.
    pub fn from_utf8(bytes: Vec<u8>, ends: Vec<usize>) -> Result<Self, (Vec<u8>, Vec<usize>)> {
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => return Err((e.into_bytes(), ends)),
        };
        let whole = ends.is_sorted() && ends.iter().all(|&e| text.is_char_boundary(e));
        if whole { Ok(Texts { text, ends }) } else { Err((text.into_bytes(), ends)) }
    }
}

impl<S: AsRef<str>> FromIterator<S> for Texts {
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Self {
        let mut all = Texts::default();
        texts.into_iter().for_each(|t| all.push(t.as_ref()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_as_they_were_put_in() {
        for list in [&[][..], &[""], &["", "", "a"], &["é漢", "", "🚀", "x y"]] {
            let texts: Texts = list.iter().collect();
            assert_eq!(texts.iter().collect::<Vec<_>>(), list);
            assert_eq!(
                (texts.len(), texts.iter().len(), texts.is_empty()),
                (list.len(), list.len(), list.is_empty())
            );
            assert_eq!(texts.get(list.len()), None);
        }
    }

    #[test]
    fn bytes_become_texts_exactly_when_each_of_them_is_utf8() {
        let sources: [&[u8]; 4] = ["aé漢🚀".as_bytes(), b"\xc3", b"\xc3\xa9\xa9", b"plain"];
        let mut taken = 0;
        for bytes in sources {
            let n = bytes.len();
            // Every way to cut it at three places, also in the wrong order and behind the end.
            for cuts in 0..(n + 2).pow(3) {
                let ends = vec![cuts % (n + 2), cuts / (n + 2) % (n + 2), cuts / (n + 2).pow(2)];
                let mut from = 0;
                let pieces = ends.iter().map(|&to| bytes.get(std::mem::replace(&mut from, to)..to));
                let want: Option<Vec<&str>> = pieces.map(|p| std::str::from_utf8(p?).ok()).collect();
                let want = want.filter(|_| std::str::from_utf8(bytes).is_ok());
                let got = Texts::from_utf8(bytes.to_vec(), ends.clone());
                match (&got, want) {
                    (Ok(t), Some(want)) => assert_eq!(t.iter().collect::<Vec<_>>(), want),
                    (Err(back), None) => assert_eq!(*back, (bytes.to_vec(), ends)),
                    (got, want) => panic!("{bytes:?} {ends:?}: {got:?}, want {want:?}"),
                }
                taken += usize::from(got.is_ok());
            }
        }
        assert!(taken > 50);
    }
}
