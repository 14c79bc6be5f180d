//! One page of plots: everything the ledger holds, as a single file of HTML without anything outside it.
//!
//! | module | what it holds |
//! |---|---|
//! | `book` | the ledger sorted by question |
//! | `facts` | what the records tell beside their speed |
//! | `experiment`, `index`, `rest`, `page` | the parts of the page, from one experiment to the whole |
//! | `parts` | what several of them use |
//! | `strip`, `ratios`, `svg` | drawings |
//! | `text` | escaping, numbers, dates |

mod book;
mod experiment;
mod facts;
mod index;
mod page;
mod parts;
mod ratios;
mod rest;
mod strip;
mod svg;
mod text;

pub use text::date;

use crate::ledger::Row;
use crate::record::{Store, StoreError};

/// The page for `rows`, whose record files lie in `store`, as of `now_ms` (ms since 1970).
///
/// The same arguments give the same bytes. Everything from the ledger is escaped; nothing on the page is fetched.
///
/// # Errors
/// A record file that cannot be read or was changed. One that is not there is noted on the page instead: a ledger may be
/// handed on without its samples.
pub fn html(rows: &[Row], store: &Store, now_ms: u64) -> Result<String, StoreError> {
    let book = book::Book::read(rows);
    let mut entries = Vec::new();
    for e in &book.experiments {
        entries.push(experiment::entry(e, &book, store)?);
    }
    let last = rows.last().map_or("", |r| r.hash.as_str());
    Ok(page::page(&book, &entries, rows.len(), last, now_ms))
}
