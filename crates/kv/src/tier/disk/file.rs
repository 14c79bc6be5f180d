//! A page's file: one block of [`HEAD`] bytes, then the page.
//!
//! The block is a JSON object, `kind` and `v` first, padded with spaces, and at its end the hash of all before it in
//! hexadecimal. The object names the page and carries the payload's hash. A file is written under a temporary name and
//! renamed, and nobody changes it after that. Nothing waits for the disk: a file that a power cut tore fails its hash,
//! and a page that is not there is computed again.

use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tamp_base::ids::PAGE;
use tamp_os::map::Map;

use crate::prefix::{Hash, chain};
use crate::tier::PageName;

/// Bytes before the payload.
pub(super) const HEAD: usize = 1024;
/// Bytes of the hash at the end of the block.
const SEAL: usize = 64;
pub(super) const KIND: &str = "tamp.kv-page";
/// The major; it is in the files' names too, so that a tamp never meets another's.
pub(super) const V: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    kind: String,
    v: u32,
    key: String,
    parent: String,
    tokens: [u32; PAGE],
    index: u32,
    /// length of the payload
    bytes: u64,
    blake3: String,
    /// seconds since 1970
    written: u64,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub page: PageName,
    pub bytes: u64,
    pub payload: Hash,
    /// seconds since 1970
    pub written: u64,
}

/// What is wrong with a file.
#[derive(Debug)]
pub(super) enum Wrong {
    /// There is none.
    Missing,
    /// It is no page, or not the page it should be, or cannot be read.
    Damaged,
}

impl From<io::Error> for Wrong {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::NotFound { Wrong::Missing } else { Wrong::Damaged }
    }
}

pub(super) fn hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

pub(super) fn unhex(text: &str) -> Option<Hash> {
    blake3::Hash::from_hex(text).ok().map(|h| *h.as_bytes())
}

/// The block before a payload.
fn head(page: &PageName, payload: &[u8], written: u64) -> io::Result<Vec<u8>> {
    let head = Head {
        kind: KIND.into(),
        v: V,
        key: hex(&page.key),
        parent: hex(&page.parent),
        tokens: page.ids,
        index: page.index,
        bytes: payload.len() as u64,
        blake3: blake3::hash(payload).to_hex().to_string(),
        written,
    };
    let mut out = serde_json::to_vec(&head).map_err(io::Error::other)?;
    out.resize(HEAD - SEAL, b' ');
    out.extend_from_slice(blake3::hash(&out).to_hex().as_bytes());
    Ok(out)
}

/// Reads a block; a page's key must be the hash of what it says it was made of.
pub(super) fn parse(block: &[u8]) -> Option<Said> {
    let (body, seal) = block.get(..HEAD)?.split_at(HEAD - SEAL);
    if blake3::hash(body).to_hex().as_bytes() != seal {
        return None;
    }
    let head: Head = serde_json::from_slice(body).ok()?;
    if head.kind != KIND || head.v != V {
        return None;
    }
    let (key, parent) = (unhex(&head.key)?, unhex(&head.parent)?);
    let page = PageName { key, parent, ids: head.tokens, index: head.index };
    let said = Said { page, bytes: head.bytes, payload: unhex(&head.blake3)?, written: head.written };
    (chain(&parent, &page.ids) == key).then_some(said)
}

/// Writes a page to `temp` and gives it its name.
pub(super) fn write(
    temp: &Path,
    path: &Path,
    page: &PageName,
    payload: &[u8],
    written: u64,
) -> io::Result<()> {
    let head = head(page, payload, written)?;
    let done = tamp_os::private::create_file(temp).and_then(|mut file| {
        file.write_all(&head)?;
        file.write_all(payload)
    });
    let done = done.and_then(|()| std::fs::rename(temp, path));
    if done.is_err() {
        let _ = std::fs::remove_file(temp);
    }
    done
}

/// The header of a file, its length compared with what the header says.
pub(super) fn peek(path: &Path) -> Result<Said, Wrong> {
    regular(path)?;
    let mut file = std::fs::File::open(path)?;
    let mut block = [0; HEAD];
    file.read_exact(&mut block)?;
    let said = parse(&block).ok_or(Wrong::Damaged)?;
    if file.metadata()?.len() != said.bytes.saturating_add(HEAD as u64) {
        return Err(Wrong::Damaged);
    }
    Ok(said)
}

/// A page's payload into `out`, checked there: what is used is what was hashed, whatever happens to the file meanwhile.
pub(super) fn read(path: &Path, page: &PageName, bytes: usize, out: &mut Vec<u8>) -> Result<Said, Wrong> {
    out.clear();
    regular(path)?;
    let map = Map::open(path)?;
    let said = parse(map.bytes()).ok_or(Wrong::Damaged)?;
    let payload = &map.bytes()[HEAD..];
    if said.page != *page || said.bytes != bytes as u64 || payload.len() != bytes {
        return Err(Wrong::Damaged);
    }
    // One call instead of a fault for every few pages.
    map.populate(0..map.len());
    out.extend_from_slice(payload);
    if *blake3::hash(out).as_bytes() != said.payload {
        out.clear();
        return Err(Wrong::Damaged);
    }
    Ok(said)
}

/// Opening a pipe would wait for somebody to write to it.
fn regular(path: &Path) -> Result<(), Wrong> {
    if std::fs::symlink_metadata(path)?.is_file() { Ok(()) } else { Err(Wrong::Damaged) }
}
