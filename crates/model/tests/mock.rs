//! The seam (DESIGN §4): what the forward pass asks of a device, in which order, seen by a device that only writes down.
//! Its activations are `()`: code that looked into one would not compile.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::{chain, weights};
use tamp_base::ids::{PageId, Token};
use tamp_formats::Kind;
use tamp_kernels::device::{
    AttnShape, AttnWeights, Best, BufShape, Device, DeviceError, FfnWeights, KvShape, Move, Read, Rope,
    RowMap, Slot,
};
use tamp_kv::Kv;
use tamp_model::batch::{Batch, Node, Want};
use tamp_model::pack::{self, Form};
use tamp_model::{LoadOptions, Made, Model, ModelError, Run};
use tamp_os::held::Span;
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, Tiny};

/// One call and what identifies its operands.
#[derive(Clone, Debug, PartialEq)]
enum Call {
    Copy(Vec<Move>),
    ReadPage(PageId),
    WritePage(PageId),
    Embed(Vec<Token>),
    A(usize, u32),
    B(usize),
    C(u32),
    D(u32),
    E(u32),
    Head(Vec<usize>, Vec<usize>),
    Read(String),
    Wait,
}

#[derive(Default)]
struct Mock {
    calls: Mutex<Vec<Call>>,
    /// the next matrix finds no memory
    short: AtomicBool,
}

/// A vector is known by the first bits of its data.
struct Vector(u32);

struct Matrix {
    kind: Kind,
    bytes: usize,
    /// every byte turned around: a layout of its own
    packed: Vec<u8>,
}

impl Mock {
    fn note(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }

    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Device for Mock {
    type Buf = ();
    type Linear = Matrix;
    type Vector = Vector;
    type Pages = ();
    type Ticket = ();

    fn linear(&self, kind: Kind, rows: usize, cols: usize, bytes: &[u8]) -> Result<Matrix, DeviceError> {
        assert_eq!(kind.row_bytes(cols).unwrap() * rows, bytes.len());
        if self.short.swap(false, Ordering::Relaxed) {
            return Err(DeviceError::Memory { bytes: bytes.len(), what: "a test" });
        }
        Ok(Matrix { kind, bytes: bytes.len(), packed: bytes.iter().map(|b| !b).collect() })
    }
    fn layout(&self, _: Kind) -> &'static str {
        "mock.1"
    }
    fn packed<'a>(&self, w: &'a Matrix) -> &'a [u8] {
        &w.packed
    }
    fn adopt(
        &self,
        kind: Kind,
        rows: usize,
        cols: usize,
        layout: &str,
        bytes: Span,
    ) -> Result<Matrix, DeviceError> {
        assert_eq!((layout, bytes.len()), ("mock.1", kind.row_bytes(cols).unwrap() * rows));
        Ok(Matrix { kind, bytes: bytes.len(), packed: vec![] })
    }
    fn made(&self) -> u64 {
        0
    }
    fn vector(&self, data: &[f32]) -> Result<Vector, DeviceError> {
        Ok(Vector(data[0].to_bits()))
    }
    fn buf(&self, _: &BufShape) -> Result<(), DeviceError> {
        Ok(())
    }
    fn pages(&self, _: &KvShape, _: usize) -> Result<(), DeviceError> {
        Ok(())
    }
    fn embed(&self, _: &Matrix, tokens: &[Token], _: &RowMap, _: &Rope, _: &mut ()) {
        self.note(Call::Embed(tokens.to_vec()));
    }
    fn phase_a(&self, w: &AttnWeights<Self>, _: &RowMap, layer: usize, _: &mut (), _: &mut ()) {
        self.note(Call::A(layer, w.norm.0));
    }
    fn phase_b(&self, _: &AttnShape, _: &RowMap, layer: usize, _: &(), _: &mut ()) {
        self.note(Call::B(layer));
    }
    fn phase_c(&self, w: &AttnWeights<Self>, _: &RowMap, _: &mut ()) {
        self.note(Call::C(w.norm.0));
    }
    fn phase_d(&self, w: &FfnWeights<Self>, _: &RowMap, _: &mut ()) {
        self.note(Call::D(w.norm.0));
    }
    fn phase_e(&self, w: &FfnWeights<Self>, _: &RowMap, _: &mut ()) {
        self.note(Call::E(w.norm.0));
    }
    fn head(&self, _: &Vector, _: f32, _: &Matrix, rows: &[usize], full: &[usize], _: &mut ()) -> Vec<Best> {
        self.note(Call::Head(rows.to_vec(), full.to_vec()));
        rows.iter().map(|&r| Best { token: r as Token, logit: 0.0, nan: false }).collect()
    }
    fn copy_pages(&self, _: &mut (), moves: &[Move]) {
        self.note(Call::Copy(moves.to_vec()));
    }
    fn read_page(&self, _: &(), page: PageId, _: &mut Vec<u8>) {
        self.note(Call::ReadPage(page));
    }
    fn write_page(&self, _: &mut (), page: PageId, _: &[u8]) -> Result<(), DeviceError> {
        self.note(Call::WritePage(page));
        Ok(())
    }
    fn read_back(&self, _: &(), what: Read) {
        self.note(Call::Read(format!("{what:?}")));
    }
    fn wait(&self, _: (), out: &mut Vec<f32>) {
        self.note(Call::Wait);
        *out = vec![1.0];
    }
    fn buf_bytes(&self, _: &()) -> usize {
        0
    }
    fn linear_bytes(&self, w: &Matrix) -> usize {
        w.bytes
    }
    fn linear_kernel(&self, w: &Matrix) -> String {
        format!("mock.{}", w.kind)
    }
    fn name(&self) -> String {
        "mock".into()
    }
}

struct Rig {
    device: Arc<Mock>,
    model: Model<Mock>,
    kv: Kv<Mock>,
    run: Run,
}

fn rig(layers: usize) -> Rig {
    let w = weights(&Tiny { layers, ..Tiny::new(Arch::Llama, 1) });
    let device = Arc::new(Mock::default());
    let options = LoadOptions { rows: 32, logits: 3, ctx: 64, kv: Kind::F16, decode: false };
    let model = Model::load(&w, Arc::clone(&device), &options, &mut |_, _| ()).unwrap();
    let kv = Kv::new(&*device, &model.kv_groups(), 8).unwrap();
    assert_eq!(device.take(), []);
    Rig { device, model, kv, run: Run::default() }
}

impl Rig {
    fn batch(&mut self, seq: tamp_base::ids::SeqId, nodes: &[Node]) -> Batch {
        self.kv.reserve(seq, nodes.len()).unwrap();
        let mut batch = Batch::new(1);
        batch.push(seq, self.kv.len(seq), self.kv.tables(seq), nodes);
        batch
    }

    /// The calls of one layer.
    fn layer(&self, l: usize) -> Vec<Call> {
        let layer = &self.model.layers[l];
        let (a, f) = (layer.mixer.w.norm.0, layer.ffn.w.norm.0);
        vec![Call::A(l, a), Call::B(l), Call::C(a), Call::D(f), Call::E(f)]
    }
}

#[test]
fn a_forward_pass_is_copies_embedding_five_phases_per_layer_and_the_head() {
    let mut r = rig(3);
    let seq = r.kv.open();
    let batch = r.batch(seq, &chain(&[5, 6, 7], Want::Nothing));
    r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap();
    let mut want = vec![Call::Copy(vec![]), Call::Embed(vec![5, 6, 7])];
    (0..3).for_each(|l| want.extend(r.layer(l)));
    // Nobody wants anything, so the head, a large part of a small model's bytes, is not read.
    assert_eq!(r.device.take(), want);
    assert_eq!((r.run.work.target_forwards, r.run.work.target_positions, r.run.work.layers), (1, 3, 3));
}

#[test]
fn the_head_sees_wanted_rows_only_and_logits_come_home_before_their_buffer_is_used_again() {
    let mut r = rig(1);
    let seq = r.kv.open();
    use Want::{Choose as C, Full as F, Nothing as N};
    let wants = [N, C, F, N, F, C, C, N, F, N];
    let mut nodes = chain(&[1; 10], N);
    nodes.iter_mut().zip(wants).for_each(|(n, w)| n.want = w);
    let batch = r.batch(seq, &nodes);
    let out = r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap();
    let calls = r.device.take();
    let logits = |row: usize| [Call::Read(format!("Logits({row})")), Call::Wait];
    // Three rows at a time, as the model was loaded for.
    let want: Vec<Call> = [
        vec![Call::Head(vec![1, 2, 4], vec![2, 4])],
        logits(2).to_vec(),
        logits(4).to_vec(),
        vec![Call::Head(vec![5, 6, 8], vec![8])],
        logits(8).to_vec(),
    ]
    .concat();
    assert_eq!(calls[calls.len() - want.len()..], want);
    assert_eq!(calls.iter().filter(|c| matches!(c, Call::Head(..))).count(), 2);
    for (i, w) in wants.into_iter().enumerate() {
        assert_eq!(out.best(i).map(|b| b.token), (w != N).then_some(i as Token));
        assert_eq!(out.logits(i).is_some(), w == F);
    }
}

#[test]
fn queued_copies_run_once_in_order_and_before_anything_is_written() {
    let mut r = rig(2);
    let seq = r.kv.open();
    let nodes = common::tree(&[(1, None), (2, Some(0)), (3, Some(0)), (4, Some(2))]);
    let batch = r.batch(seq, &nodes);
    r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap();
    r.kv.commit(seq, &[0, 2, 3]).unwrap();
    let twin = r.kv.fork(seq).unwrap();
    r.device.take();
    // The twin's first write copies the partial page, after the committed path has been moved within it.
    let batch = r.batch(twin, &chain(&[9], Want::Nothing));
    r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap();
    let calls = r.device.take();
    let (own, theirs) = (r.kv.table(twin, 0)[0], r.kv.table(seq, 0)[0]);
    assert_ne!(own, theirs);
    let slot = |page: PageId, offset: u8| Slot { page, offset };
    let compact = [(2, 1), (3, 2)].map(|(a, b)| Move { from: slot(theirs, a), to: slot(theirs, b) });
    let copy = [0, 1, 2].map(|i| Move { from: slot(theirs, i), to: slot(own, i) });
    assert_eq!(calls[0], Call::Copy([&compact[..], &copy].concat()));
    assert_eq!(calls[1], Call::Embed(vec![9]));
    r.kv.commit(twin, &[0]).unwrap();
    let batch = r.batch(twin, &chain(&[8], Want::Nothing));
    r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap();
    assert_eq!(r.device.take()[0], Call::Copy(vec![]), "copies run once");
}

#[test]
fn chosen_layers_run_in_their_order_and_taps_are_read_after_them() {
    let mut r = rig(4);
    let seq = r.kv.open();
    let batch = r.batch(seq, &chain(&[1, 2], Want::Nothing));
    r.run.only = Some(vec![0, 3]);
    r.run.taps = vec![(3, 1), (2, 0)];
    r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap();
    let mut want = vec![Call::Copy(vec![]), Call::Embed(vec![1, 2])];
    want.extend(r.layer(0));
    want.extend(r.layer(3));
    want.extend([Call::Read("Hidden(1)".into()), Call::Wait]);
    assert_eq!(r.device.take(), want);
    assert_eq!(r.run.caught, [(3, 1, vec![1.0])]);
    assert_eq!(r.run.work.layers, 2);
}

#[test]
fn a_batch_that_is_refused_reaches_no_device() {
    let mut r = rig(1);
    let vocab = r.model.shape.vocab as Token;
    let seq = r.kv.open();
    let batch = r.batch(seq, &chain(&[1, vocab], Want::Choose));
    let e = r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap_err();
    assert!(matches!(e, ModelError::Token { token, .. } if token == vocab));
    let batch = r.batch(seq, &chain(&[1; 33], Want::Choose));
    let e = r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap_err();
    assert!(matches!(e, ModelError::Rows { got: 33, most: 32 }));
    let batch = r.batch(seq, &chain(&[1; 32], Want::Nothing));
    r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap();
    r.kv.commit(seq, &(0..32).collect::<Vec<_>>()).unwrap();
    let batch = r.batch(seq, &chain(&[1; 32], Want::Nothing));
    r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap();
    r.kv.commit(seq, &(0..32).collect::<Vec<_>>()).unwrap();
    r.device.take();
    let batch = r.batch(seq, &chain(&[1], Want::Nothing));
    let e = r.model.forward(&batch, &mut r.kv, &mut r.run).unwrap_err();
    assert!(matches!(e, ModelError::Position { position: 64, ctx: 64 }));
    assert_eq!(r.device.take(), []);
}

const OPTIONS: LoadOptions = LoadOptions { rows: 32, logits: 3, ctx: 64, kv: Kind::F16, decode: false };

#[test]
fn a_bundle_gives_its_matrices_to_the_device_as_it_packed_them_and_a_portable_one_in_file_order() {
    let w = weights(&Tiny::new(Arch::Qwen2, 3));
    let dir = tempfile::tempdir().unwrap();
    let device = Arc::new(Mock::default());
    // 7 matrices in each of two layers, and the embedding that is also the head.
    for (form, want) in [
        (Form::Packed, Made { adopted: 15, ..Made::default() }),
        (Form::Rows, Made { repacked: 15, retried: 15, ..Made::default() }),
    ] {
        let path = dir.path().join("m.tamp");
        let report = pack::bundle(&w, &*device, form, None, &path, &mut |_, _| ()).unwrap();
        assert_eq!(report.packed, if form == Form::Packed { 15 } else { 0 });
        let b = Weights::open(&path).unwrap();
        if let Some(p) = b.packed("blk.1.ffn_up.weight") {
            let plain = w.tensor("blk.1.ffn_up.weight").unwrap().unwrap();
            assert!(
                p.layout == "mock.1"
                    && p.bytes.iter().eq(plain.bytes.iter().map(|b| !b).collect::<Vec<_>>().iter())
            );
        }
        let model = Model::load(&b, Arc::clone(&device), &OPTIONS, &mut |_, _| ()).unwrap();
        let made = model.made();
        assert_eq!(Made { adopted_bytes: 0, ..made }, want);
        assert_eq!(model.own_bytes(), model.resident_bytes() - made.adopted_bytes);
        assert_eq!(made.adopted_bytes > 0, form == Form::Packed);
    }
}

#[test]
fn memory_that_is_short_once_is_asked_for_again_and_counted() {
    let w = weights(&Tiny::new(Arch::Llama, 3));
    let device = Arc::new(Mock::default());
    device.short.store(true, Ordering::Relaxed);
    let made = Model::load(&w, Arc::clone(&device), &OPTIONS, &mut |_, _| ()).unwrap().made();
    assert_eq!((made.repacked, made.retried, made.failed), (15, 1, 1));
    let made = Model::load(&w, device, &OPTIONS, &mut |_, _| ()).unwrap().made();
    assert_eq!((made.repacked, made.retried, made.failed), (15, 0, 0));
}
