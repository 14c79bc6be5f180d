//! The closed set of formats, and the row each one fills.

/// How the numbers of a tensor are stored. Ids are GGUF's (`ggml_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    /// 32-bit float
    F32 = 0,
    /// IEEE half
    F16 = 1,
    /// 4-bit, 32 per block, scale
    Q4_0 = 2,
    /// 4-bit, 32 per block, scale and minimum
    Q4_1 = 3,
    /// 5-bit, 32 per block, scale
    Q5_0 = 6,
    /// 5-bit, 32 per block, scale and minimum
    Q5_1 = 7,
    /// 8-bit, 32 per block, scale
    Q8_0 = 8,
    /// 2-bit, 256 per block, 4-bit scales and minima per 16
    Q2_K = 10,
    /// 3-bit, 256 per block, 6-bit scales per 16
    Q3_K = 11,
    /// 4-bit, 256 per block, 6-bit scales and minima per 32
    Q4_K = 12,
    /// 5-bit, 256 per block, 6-bit scales and minima per 32
    Q5_K = 13,
    /// 6-bit, 256 per block, 8-bit scales per 16
    Q6_K = 14,
    /// 4-bit non-linear, 32 per block, scale
    IQ4_NL = 20,
    /// bfloat16
    BF16 = 30,
}

/// One format's row: its layout in numbers and its reference code.
pub struct Format {
    /// the kind this row describes
    pub kind: Kind,
    /// the name people use (`q4_k`), lower case
    pub name: &'static str,
    /// elements per block
    pub block: usize,
    /// bytes per block
    pub bytes: usize,
    /// decodes whole blocks: `src.len() / bytes * block == dst.len()`
    pub decode: fn(src: &[u8], dst: &mut [f32]),
    /// encodes whole blocks, the inverse up to rounding
    pub encode: fn(src: &[f32], dst: &mut [u8]),
}
