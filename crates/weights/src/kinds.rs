//! What other programs call the tensor types that are not ours.

/// The name and number of a `ggml_type` tamp does not read.
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
