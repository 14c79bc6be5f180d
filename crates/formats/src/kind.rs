//! The closed set of formats, and the row each one fills.

use std::fmt;

use crate::block;

/// How the numbers of a tensor are stored. Ids are GGUF's (`ggml_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[expect(non_camel_case_types, reason = "the names the field writes, and what `--to` takes")]
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

impl Kind {
    /// Every kind, by id.
    pub const ALL: [Kind; 14] = [
        Kind::F32,
        Kind::F16,
        Kind::Q4_0,
        Kind::Q4_1,
        Kind::Q5_0,
        Kind::Q5_1,
        Kind::Q8_0,
        Kind::Q2_K,
        Kind::Q3_K,
        Kind::Q4_K,
        Kind::Q5_K,
        Kind::Q6_K,
        Kind::IQ4_NL,
        Kind::BF16,
    ];

    /// The kind's row: the only place that ties a kind to its layout and code.
    pub fn row(self) -> &'static Format {
        match self {
            Kind::F32 => &block::float::F32,
            Kind::F16 => &block::float::F16,
            Kind::BF16 => &block::float::BF16,
            Kind::Q4_0 => &block::q4_0::FORMAT,
            Kind::Q4_1 => &block::q4_1::FORMAT,
            Kind::Q5_0 => &block::q5_0::FORMAT,
            Kind::Q5_1 => &block::q5_1::FORMAT,
            Kind::Q8_0 => &block::q8_0::FORMAT,
            Kind::Q2_K => &block::q2_k::FORMAT,
            Kind::Q3_K => &block::q3_k::FORMAT,
            Kind::Q4_K => &block::q4_k::FORMAT,
            Kind::Q5_K => &block::q5_k::FORMAT,
            Kind::Q6_K => &block::q6_k::FORMAT,
            Kind::IQ4_NL => &block::iq4_nl::FORMAT,
        }
    }

    /// The kind with this GGUF id (`ggml_type`), if tamp knows it.
    pub fn from_id(id: u32) -> Option<Kind> {
        Self::ALL.into_iter().find(|k| *k as u32 == id)
    }

    /// The kind of this name, in any case.
    pub fn from_name(name: &str) -> Option<Kind> {
        Self::ALL.into_iter().find(|k| k.name().eq_ignore_ascii_case(name))
    }

    /// The name people use, lower case.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Elements per block.
    pub fn block(self) -> usize {
        self.row().block
    }

    /// Bytes per block.
    pub fn bytes(self) -> usize {
        self.row().bytes
    }

    /// Bytes of a row of `cols` elements; none when `cols` is not whole blocks or the size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let row = self.row();
        if !cols.is_multiple_of(row.block) {
            return None;
        }
        (cols / row.block).checked_mul(row.bytes)
    }

    /// Elements that share one activation scale when this kind's rows are multiplied in integers; 0 when
    /// activations stay `f32`.
    pub fn act_block(self) -> usize {
        match self.block() {
            1 => 0,
            n => n,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
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
    /// decodes whole blocks: `src.len() / bytes * block == dst.len()`; of unequal lengths the shorter counts
    pub decode: fn(src: &[u8], dst: &mut [f32]),
    /// encodes whole blocks, the inverse up to rounding; of unequal lengths the shorter counts. Block formats
    /// read NaN as 0 and clamp what is out of their range; the float formats keep both
    pub encode: fn(src: &[f32], dst: &mut [u8]),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_id_and_by_its_name_in_any_case() {
        for k in Kind::ALL {
            assert_eq!(k.row().kind, k);
            assert_eq!(Kind::from_id(k as u32), Some(k));
            assert_eq!(Kind::from_name(&k.name().to_uppercase()), Some(k));
            assert_eq!(format!("{k:>7}|"), format!("{:>7}|", k.name()));
        }
        // ids that GGUF gives to formats tamp does not know, or to nothing
        for id in [4, 5, 9, 15, 16, 19, 21, 24, 29, 31, u32::MAX] {
            assert_eq!(Kind::from_id(id), None);
        }
        assert_eq!(Kind::from_name("q4"), None);
    }

    #[test]
    fn a_row_is_whole_blocks_or_nothing_and_never_overflows() {
        for k in Kind::ALL {
            assert_eq!(k.row_bytes(0), Some(0));
            assert_eq!(k.row_bytes(3 * k.block()), Some(3 * k.bytes()));
            if k.block() > 1 {
                assert_eq!(k.row_bytes(k.block() + 1), None);
            }
            assert!([32, 256, 0].contains(&k.act_block()));
        }
        assert_eq!(Kind::F32.row_bytes(usize::MAX), None);
        assert_eq!(Kind::Q6_K.act_block(), 256);
        assert_eq!(Kind::IQ4_NL.act_block(), 32);
        assert_eq!(Kind::BF16.act_block(), 0);
    }
}
