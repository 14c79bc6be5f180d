//! Sizes and names of tensor types.

use tamp_formats::Kind;

const ALL: [(Kind, usize, usize, &str); 14] = [
    (Kind::F32, 1, 4, "f32"),
    (Kind::F16, 1, 2, "f16"),
    (Kind::Q4_0, 32, 18, "q4_0"),
    (Kind::Q4_1, 32, 20, "q4_1"),
    (Kind::Q5_0, 32, 22, "q5_0"),
    (Kind::Q5_1, 32, 24, "q5_1"),
    (Kind::Q8_0, 32, 34, "q8_0"),
    (Kind::Q2_K, 256, 84, "q2_k"),
    (Kind::Q3_K, 256, 110, "q3_k"),
    (Kind::Q4_K, 256, 144, "q4_k"),
    (Kind::Q5_K, 256, 176, "q5_k"),
    (Kind::Q6_K, 256, 210, "q6_k"),
    (Kind::IQ4_NL, 32, 18, "iq4_nl"),
    (Kind::BF16, 1, 2, "bf16"),
];

fn row(kind: Kind) -> (usize, usize, &'static str) {
    ALL.iter().find(|r| r.0 == kind).map_or((1, 4, "?"), |r| (r.1, r.2, r.3))
}

pub(crate) fn from_id(id: u32) -> Option<Kind> {
    ALL.iter().map(|r| r.0).find(|k| *k as u32 == id)
}

pub(crate) fn row_bytes(kind: Kind, cols: usize) -> Option<usize> {
    let (block, bytes, _) = row(kind);
    if cols.is_multiple_of(block) { (cols / block).checked_mul(bytes) } else { None }
}

pub(crate) fn block(kind: Kind) -> usize {
    row(kind).0
}

pub(crate) fn name(kind: Kind) -> &'static str {
    row(kind).2
}

/// What other programs call a type that is not one of ours.
pub(crate) fn foreign(id: u32) -> String {
    let name = match id {
        9 => "q8_1",
        15 => "q8_k",
        16 => "iq2_xxs",
        17 => "iq2_xs",
        18 => "iq3_xxs",
        19 => "iq1_s",
        21 => "iq3_s",
        22 => "iq2_s",
        23 => "iq4_xs",
        24 => "i8",
        25 => "i16",
        26 => "i32",
        27 => "i64",
        28 => "f64",
        29 => "iq1_m",
        34 => "tq1_0",
        35 => "tq2_0",
        39 => "mxfp4",
        _ => return format!("type {id}"),
    };
    format!("{name} (type {id})")
}
