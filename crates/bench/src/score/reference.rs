//! The distributions of one process, in a file for another to be compared with: a line of JSON, then `[positions][vocab]`
//! logits as little-endian f32. Both sides hash all of it, so that whoever judges knows that what was read is what was
//! written.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::BenchError;

/// `kind` of a reference.
pub const KIND: &str = "tamp.bench.reference";
/// The first line is some 150 bytes; longer ones are not ours.
const HEADER: u64 = 1024;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    kind: String,
    v: u32,
    vocab: usize,
    positions: usize,
    /// blake3 of the token ids that were scored
    text: String,
}

impl Header {
    fn new(vocab: usize, positions: usize, text: &str) -> Header {
        Header { kind: KIND.into(), v: 1, vocab, positions, text: text.into() }
    }
}

fn failed(path: &Path, why: impl ToString) -> BenchError {
    BenchError::Reference { path: path.to_path_buf(), why: why.to_string() }
}

/// A reference that is written.
pub struct Kept {
    path: PathBuf,
    to: BufWriter<File>,
    hash: blake3::Hasher,
    bytes: Vec<u8>,
}

impl Kept {
    /// Makes the file; one that is there is replaced.
    pub fn new(path: &Path, vocab: usize, positions: usize, text: &str) -> Result<Kept, BenchError> {
        let file = File::create(path).map_err(|e| failed(path, e))?;
        let mut k = Kept {
            path: path.into(),
            to: BufWriter::with_capacity(1 << 20, file),
            hash: blake3::Hasher::new(),
            bytes: Vec::new(),
        };
        let header = Header::new(vocab, positions, text);
        let mut line = serde_json::to_vec(&header).map_err(|e| failed(path, e))?;
        line.push(b'\n');
        k.write(&line)?;
        Ok(k)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BenchError> {
        self.hash.update(bytes);
        self.to.write_all(bytes).map_err(|e| failed(&self.path, e))
    }

    /// Adds the `[vocab]` logits of a position.
    pub fn row(&mut self, logits: &[f32]) -> Result<(), BenchError> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes.extend(logits.iter().flat_map(|l| l.to_le_bytes()));
        let done = self.write(&bytes);
        self.bytes = bytes;
        done
    }

    /// The hash of the whole file.
    pub fn close(mut self) -> Result<String, BenchError> {
        self.to.flush().map_err(|e| failed(&self.path, e))?;
        Ok(self.hash.finalize().to_hex().to_string())
    }
}

/// A reference that is read, row by row.
pub struct Known {
    path: PathBuf,
    from: BufReader<File>,
    hash: blake3::Hasher,
    bytes: Vec<u8>,
    logits: Vec<f32>,
}

impl Known {
    /// Opens one of the same text, vocabulary and positions; its size is held to them before anything is read.
    pub fn open(path: &Path, vocab: usize, positions: usize, text: &str) -> Result<Known, BenchError> {
        let file = File::open(path).map_err(|e| failed(path, e))?;
        let size = file.metadata().map_err(|e| failed(path, e))?.len();
        let mut from = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        (&mut from).take(HEADER).read_until(b'\n', &mut line).map_err(|e| failed(path, e))?;
        let told: Header = serde_json::from_slice(&line)
            .map_err(|_| failed(path, format!("its first line is no header of kind {KIND}")))?;
        let want = Header::new(vocab, positions, text);
        if told != want {
            let say = |h: &Header| {
                let short = h.text.get(..12).unwrap_or(&h.text);
                format!("{} v {}, {} positions of {} logits, text {short}", h.kind, h.v, h.positions, h.vocab)
            };
            return Err(failed(path, format!("it holds {}, and this is {}", say(&told), say(&want))));
        }
        let rows = (positions as u64).saturating_mul(vocab as u64).saturating_mul(4);
        if size != rows.saturating_add(line.len() as u64) {
            return Err(failed(
                path,
                format!("it has {size} bytes and not the {rows} of its logits; it is not whole"),
            ));
        }
        let mut hash = blake3::Hasher::new();
        hash.update(&line);
        Ok(Known { path: path.into(), from, hash, bytes: vec![0; 4 * vocab], logits: Vec::new() })
    }

    /// The `[vocab]` logits of the next position.
    pub fn row(&mut self) -> Result<&[f32], BenchError> {
        self.from.read_exact(&mut self.bytes).map_err(|e| failed(&self.path, e))?;
        self.hash.update(&self.bytes);
        self.logits.clear();
        let words = self.bytes.chunks_exact(4);
        self.logits.extend(words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        Ok(&self.logits)
    }

    /// The hash of all that was read.
    pub fn close(self) -> Result<String, BenchError> {
        Ok(self.hash.finalize().to_hex().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_comes_back_bit_by_bit_and_any_other_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let rows = [[1.5f32, f32::NEG_INFINITY, -0.0], [1e-30, 3.0, f32::MAX]];
        let mut k = Kept::new(&path, 3, 2, "abc").unwrap();
        rows.iter().for_each(|r| k.row(r).unwrap());
        let hash = k.close().unwrap();
        let mut r = Known::open(&path, 3, 2, "abc").unwrap();
        for want in rows {
            let got = r.row().unwrap();
            assert!(got.iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        assert_eq!(r.close().unwrap(), hash);
        for (vocab, positions, text) in [(4, 2, "abc"), (3, 1, "abc"), (3, 2, "abd")] {
            assert!(Known::open(&path, vocab, positions, text).is_err());
        }
        let whole = std::fs::read(&path).unwrap();
        for bad in [&whole[..whole.len() - 1], &whole[..20], b"{}\n", b""] {
            std::fs::write(&path, bad).unwrap();
            assert!(Known::open(&path, 3, 2, "abc").is_err());
        }
        let mut other = whole.clone();
        *other.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &other).unwrap();
        let mut r = Known::open(&path, 3, 2, "abc").unwrap();
        (0..2).for_each(|_| assert_eq!(r.row().unwrap().len(), 3));
        assert_ne!(r.close().unwrap(), hash, "a changed byte is another reference");
    }
}
