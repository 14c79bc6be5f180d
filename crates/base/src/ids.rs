//! Ids that cross rooms. Newtypes, so a page is never mistaken for a sequence.

/// A vocabulary index.
pub type Token = u32;

/// A sequence: one stream of tokens with its own page tables. Ids are never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// A page of one KV group's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// Positions per page of every KV group (DESIGN 5.8).
pub const PAGE: usize = 16;

/// A row of the operator's list of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub u32);

/// Within one namespace cached prefixes are shared, beyond it nothing is: neither content nor timing. A hash of the
/// key's namespace and the request's salt; the default is that of a server without keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(pub [u8; 32]);
