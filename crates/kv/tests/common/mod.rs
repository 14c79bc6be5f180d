//! A device whose pages are bytes, and sequences whose content follows from their ids.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;

use tamp_base::ids::{PAGE, PageId, SeqId, Token};
use tamp_base::settings::Settings;
use tamp_formats::Kind;
use tamp_kernels::device::{
    AttnShape, AttnWeights, Best, BufShape, DeviceError, FfnWeights, KvShape, Move, Read, Rope, RowMap, Slot,
};
use tamp_kv::prefix::chain;
use tamp_kv::tier::{PageName, TABLE};
use tamp_kv::{Device, Kv, PrefixKey, Tier, TierCtx};
use tamp_os::held::Span;

pub const SHAPES: [KvShape; 2] = [
    KvShape { layers: 2, heads: 1, head_dim: 16, kind: Kind::F16 },
    KvShape { layers: 1, heads: 1, head_dim: 16, kind: Kind::F16 },
];

pub fn page_bytes() -> usize {
    SHAPES.iter().map(KvShape::page_bytes).sum()
}

pub fn key() -> PrefixKey {
    PrefixKey { hash: [7; 32], namespace: 3 }
}

pub fn tokens(seed: u32, n: usize) -> Vec<Token> {
    (0..n as u32).map(|i| (seed.wrapping_mul(7919) ^ i.wrapping_mul(2_654_435_761)) % 30_000).collect()
}

pub fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.add_use("kv.tier=disk", "test").unwrap();
    settings.add_set(&format!("kv.tier.disk.dir={}", dir.display()), "test").unwrap();
    settings
}

pub fn disk(dir: &Path) -> Box<dyn Tier> {
    TABLE.open(&TierCtx::default(), &settings(dir)).unwrap().0
}

/// Names of the first pages of one prompt.
pub fn chain_of(pages: u32) -> Vec<PageName> {
    let mut parent = key().hash;
    let all = tokens(99, pages as usize * PAGE);
    let ids = all.as_chunks::<PAGE>().0.iter();
    ids.zip(0..)
        .map(|(ids, index)| {
            let name = PageName { key: chain(&parent, ids), parent, ids: *ids, index };
            parent = name.key;
            name
        })
        .collect()
}

pub fn page(seed: u32, index: u32) -> PageName {
    let (parent, ids) = ([seed as u8; 32], [seed; PAGE]);
    PageName { key: chain(&parent, &ids), parent, ids, index }
}

/// Bytes of a position, all layers and heads of a group: a function of its whole past.
fn content(past: &[Token], group: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    past.iter().for_each(|t| {
        hasher.update(&t.to_le_bytes());
    });
    hasher.update(&[group as u8]);
    let mut out = vec![0; SHAPES[group].page_bytes() / PAGE];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Pages are plain bytes, position by position.
pub struct Fake;

pub struct FakePages {
    bytes: Vec<u8>,
    page: usize,
}

impl FakePages {
    fn at(&mut self, slot: Slot) -> &mut [u8] {
        let row = self.page / PAGE;
        let at = slot.page.0 as usize * self.page + slot.offset as usize * row;
        &mut self.bytes[at..at + row]
    }
}

impl Device for Fake {
    type Buf = ();
    type Linear = ();
    type Vector = ();
    type Pages = FakePages;
    type Ticket = ();

    fn pages(&self, shape: &KvShape, pages: usize) -> Result<FakePages, DeviceError> {
        Ok(FakePages { bytes: vec![0; pages * shape.page_bytes()], page: shape.page_bytes() })
    }
    fn copy_pages(&self, pages: &mut FakePages, moves: &[Move]) {
        for m in moves {
            let from = pages.at(m.from).to_vec();
            pages.at(m.to).copy_from_slice(&from);
        }
    }
    fn read_page(&self, pages: &FakePages, page: PageId, out: &mut Vec<u8>) {
        out.extend_from_slice(&pages.bytes[page.0 as usize * pages.page..][..pages.page]);
    }
    fn write_page(&self, pages: &mut FakePages, page: PageId, bytes: &[u8]) -> Result<(), DeviceError> {
        pages.bytes[page.0 as usize * pages.page..][..pages.page].copy_from_slice(bytes);
        Ok(())
    }

    fn linear(&self, _: Kind, _: usize, _: usize, _: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }
    fn layout(&self, _: Kind) -> &'static str {
        "none"
    }
    fn packed<'a>(&self, _: &'a ()) -> &'a [u8] {
        &[]
    }
    fn adopt(&self, _: Kind, _: usize, _: usize, _: &str, _: Span) -> Result<(), DeviceError> {
        Ok(())
    }
    fn made(&self) -> u64 {
        0
    }
    fn vector(&self, _: &[f32]) -> Result<(), DeviceError> {
        Ok(())
    }
    fn buf(&self, _: &BufShape) -> Result<(), DeviceError> {
        Ok(())
    }
    fn embed(&self, _: &(), _: &[Token], _: &RowMap, _: &Rope, _: &mut ()) {}
    fn phase_a(&self, _: &AttnWeights<Self>, _: &RowMap, _: usize, _: &mut FakePages, _: &mut ()) {}
    fn phase_b(&self, _: &AttnShape, _: &RowMap, _: usize, _: &FakePages, _: &mut ()) {}
    fn phase_c(&self, _: &AttnWeights<Self>, _: &RowMap, _: &mut ()) {}
    fn phase_d(&self, _: &FfnWeights<Self>, _: &RowMap, _: &mut ()) {}
    fn phase_e(&self, _: &FfnWeights<Self>, _: &RowMap, _: &mut ()) {}
    fn head(&self, _: &(), _: f32, _: &(), _: &[usize], _: &[usize], _: &mut ()) -> Vec<Best> {
        vec![]
    }
    fn read_back(&self, _: &(), _: Read) {}
    fn wait(&self, _: (), _: &mut Vec<f32>) {}
    fn buf_bytes(&self, _: &()) -> usize {
        0
    }
    fn linear_bytes(&self, _: &()) -> usize {
        0
    }
    fn linear_kernel(&self, _: &()) -> String {
        String::new()
    }
    fn name(&self) -> String {
        "fake".into()
    }
}

pub struct World {
    pub kv: Kv<Fake>,
}

impl World {
    pub fn new(pages: usize, tier: Box<dyn Tier>) -> World {
        World { kv: Kv::new(&Fake, &SHAPES, pages).unwrap().with_tier(tier) }
    }

    pub fn settle(&mut self) {
        for g in 0..SHAPES.len() {
            let moves = self.kv.take_moves(g);
            Fake.copy_pages(self.kv.pages_mut(g), &moves);
        }
    }

    /// Writes the last position of `past` into a slot of a sequence.
    pub fn put(&mut self, id: SeqId, slot: usize, past: &[Token]) {
        for g in 0..SHAPES.len() {
            let slot = Slot::of(self.kv.table(id, g), slot);
            self.kv.pages_mut(g).at(slot).copy_from_slice(&content(past, g));
        }
    }

    /// A sequence holds what computing these ids gives.
    pub fn holds(&mut self, id: SeqId, ids: &[Token]) {
        for g in 0..SHAPES.len() {
            let table = self.kv.table(id, g).to_vec();
            for i in 0..ids.len() {
                let got = self.kv.pages_mut(g).at(Slot::of(&table, i)).to_vec();
                assert!(got == content(&ids[..=i], g), "position {i} of group {g}");
            }
        }
    }

    /// A sequence of these ids, computed as far as nothing was cached, and published.
    pub fn open(&mut self, ids: &[Token]) -> SeqId {
        let id = self.kv.open();
        let got = self.kv.adopt(id, key(), ids, usize::MAX);
        let rows = ids.len() - got;
        self.kv.reserve(id, rows).unwrap();
        self.settle();
        (got..ids.len()).for_each(|i| self.put(id, i, &ids[..=i]));
        self.kv.commit(id, &(0..rows as u32).collect::<Vec<_>>()).unwrap();
        self.kv.publish(id, key(), ids);
        self.kv.integrity().unwrap();
        id
    }

    /// The same, ended at once.
    pub fn tell(&mut self, ids: &[Token]) {
        let id = self.open(ids);
        self.kv.close(id);
    }

    /// The first `n` positions of these ids are cached, and are what computing them gives.
    pub fn check(&mut self, ids: &[Token], n: usize) {
        self.kv.integrity().unwrap();
        assert_eq!(self.kv.matched(&key(), &ids[..n]), n);
        let id = self.kv.open();
        assert_eq!(self.kv.adopt(id, key(), ids, n), n);
        self.holds(id, &ids[..n]);
        self.kv.close(id);
    }
}
