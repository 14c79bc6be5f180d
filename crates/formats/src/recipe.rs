//! Quantisation recipes: a target's name, and which kind each tensor then gets.
//!
//! A plain kind's name (`q4_k`) puts every matrix into that kind. A name with a suffix is a mix: `_s` keeps the
//! embedding and the head in more bits, `_m` also what errors hurt most, attention values and the way back from
//! the feed-forward (the split of bits follows the published k-quant mixes of llama.cpp, pull request 1684, with
//! every second layer for its position-dependent half, so that a tensor's kind follows from its own name).

use crate::Kind;

/// A quantisation target.
#[derive(Debug)]
pub struct Recipe {
    /// the name people use, lower case
    pub name: &'static str,
    /// one line of help
    pub about: &'static str,
    /// kind of every matrix that nothing below names
    pub body: Kind,
    /// kind of the head: `output`, or `token_embd` when they are one tensor
    pub head: Kind,
    /// kind of a `token_embd` that is only looked up
    pub embedding: Kind,
    /// kinds of tensors that errors hurt more; the first that matches counts
    pub raised: &'static [Raised],
}

/// One exception of a recipe.
#[derive(Debug)]
pub struct Raised {
    /// the tensor's part of the name: `attn_v` of `blk.3.attn_v.weight`
    pub part: &'static str,
    /// only in layers whose number is a multiple of this
    pub every: usize,
    /// the kind it gets
    pub kind: Kind,
}

const fn raised(part: &'static str, every: usize, kind: Kind) -> Raised {
    Raised { part, every, kind }
}

const fn pure(name: &'static str, about: &'static str, kind: Kind) -> Recipe {
    Recipe { name, about, body: kind, head: kind, embedding: kind, raised: &[] }
}

const ROWS: &[Recipe] = &[
    pure("f32", "every tensor as 32-bit floats", Kind::F32),
    pure("f16", "every matrix as 16-bit floats", Kind::F16),
    pure("bf16", "every matrix as bfloat16", Kind::BF16),
    pure("q8_0", "8.5 bits per weight, all but lossless", Kind::Q8_0),
    pure("q6_k", "6.6 bits per weight", Kind::Q6_K),
    pure("q5_k", "5.5 bits per weight in every matrix", Kind::Q5_K),
    pure("q5_1", "6 bits per weight in every matrix", Kind::Q5_1),
    pure("q5_0", "5.5 bits per weight in every matrix", Kind::Q5_0),
    pure("q4_k", "4.5 bits per weight in every matrix", Kind::Q4_K),
    pure("q4_1", "5 bits per weight in every matrix", Kind::Q4_1),
    pure("q4_0", "4.5 bits per weight in every matrix", Kind::Q4_0),
    pure("iq4_nl", "4.5 bits per weight in every matrix, uneven levels", Kind::IQ4_NL),
    pure("q3_k", "3.4 bits per weight in every matrix", Kind::Q3_K),
    pure("q2_k", "2.6 bits per weight in every matrix", Kind::Q2_K),
    Recipe {
        name: "q5_k_m",
        about: "q5_k, with q6_k for the head, the embedding and half of attn_v and ffn_down",
        body: Kind::Q5_K,
        head: Kind::Q6_K,
        embedding: Kind::Q6_K,
        raised: &[raised("attn_v", 2, Kind::Q6_K), raised("ffn_down", 2, Kind::Q6_K)],
    },
    Recipe {
        name: "q5_k_s",
        about: "q5_k, with q6_k for the head and the embedding",
        body: Kind::Q5_K,
        head: Kind::Q6_K,
        embedding: Kind::Q6_K,
        raised: &[],
    },
    Recipe {
        name: "q4_k_m",
        about: "q4_k, with q6_k for the head, the embedding and half of attn_v and ffn_down; the usual choice",
        body: Kind::Q4_K,
        head: Kind::Q6_K,
        embedding: Kind::Q6_K,
        raised: &[
            raised("attn_v", 2, Kind::Q6_K),
            raised("ffn_down", 2, Kind::Q6_K),
            raised("attn_qkv", 1, Kind::Q5_K),
        ],
    },
    Recipe {
        name: "q4_k_s",
        about: "q4_k, with q6_k for the head and the embedding",
        body: Kind::Q4_K,
        head: Kind::Q6_K,
        embedding: Kind::Q6_K,
        raised: &[],
    },
    Recipe {
        name: "q3_k_m",
        about: "q3_k, with q4_k or more where errors hurt most and q6_k for the head and the embedding",
        body: Kind::Q3_K,
        head: Kind::Q6_K,
        embedding: Kind::Q6_K,
        raised: &[
            raised("attn_v", 2, Kind::Q5_K),
            raised("attn_v", 1, Kind::Q4_K),
            raised("attn_qkv", 1, Kind::Q4_K),
            raised("attn_output", 1, Kind::Q4_K),
            raised("ffn_down", 1, Kind::Q4_K),
        ],
    },
    Recipe {
        name: "q2_k_m",
        about: "q2_k, with q3_k or q4_k where errors hurt most and q6_k for the head and the embedding",
        body: Kind::Q2_K,
        head: Kind::Q6_K,
        embedding: Kind::Q6_K,
        raised: &[
            raised("attn_v", 1, Kind::Q4_K),
            raised("attn_qkv", 1, Kind::Q3_K),
            raised("attn_output", 1, Kind::Q3_K),
            raised("ffn_down", 1, Kind::Q3_K),
        ],
    },
];

impl Recipe {
    /// All recipes.
    pub const ALL: &[Recipe] = ROWS;

    /// The names of all recipes, in their order.
    pub const NAMES: &[&str] = &{
        let mut names = [""; ROWS.len()];
        let mut i = 0;
        while i < names.len() {
            names[i] = ROWS[i].name;
            i += 1;
        }
        names
    };

    /// The recipe of this name, in any case.
    pub fn from_name(name: &str) -> Option<&'static Recipe> {
        Self::ALL.iter().find(|r| r.name.eq_ignore_ascii_case(name))
    }

    /// The kind for a tensor with a GGUF name, of `rows` rows (all but the innermost dimension) of `cols`
    /// elements; `tied` when the model has no separate `output`.
    ///
    /// Vectors, norms, biases, rope factors and expert routers stay `f32`: together they are a few thousandths of
    /// a model. A kind whose block does not divide `cols` gives way, see [`Recipe::fallback`].
    pub fn kind_for(&self, name: &str, rows: usize, cols: usize, tied: bool) -> Kind {
        let mut parts = name.split('.');
        let first = parts.next().unwrap_or_default();
        let (layer, part) = match (first, parts.next().and_then(|n| n.parse::<usize>().ok())) {
            ("blk", Some(layer)) => (layer, parts.next().unwrap_or_default()),
            _ => (0, first),
        };
        let keep = rows <= 1
            || name.ends_with(".bias")
            || part.ends_with("norm")
            || part.starts_with("rope_f")
            || part.starts_with("ffn_gate_inp");
        if keep {
            return Kind::F32;
        }
        let kind = match part {
            "output" => self.head,
            "token_embd" if tied => self.head,
            "token_embd" => self.embedding,
            _ => self
                .raised
                .iter()
                .find(|r| r.part == part && layer.is_multiple_of(r.every))
                .map_or(self.body, |r| r.kind),
        };
        Self::fallback(kind, cols)
    }

    /// `kind`, or the nearest that holds rows of `cols` elements: 256-blocks give way to 32-blocks of at least
    /// their precision, those to F16.
    pub fn fallback(kind: Kind, cols: usize) -> Kind {
        if cols.is_multiple_of(kind.block()) {
            return kind;
        }
        let next = match kind {
            Kind::Q2_K | Kind::Q3_K => Kind::Q4_0,
            Kind::Q4_K => Kind::Q5_0,
            Kind::Q5_K => Kind::Q5_1,
            Kind::Q6_K => Kind::Q8_0,
            _ => Kind::F16,
        };
        Self::fallback(next, cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(recipe: &str, name: &str, rows: usize, cols: usize, tied: bool) -> Kind {
        Recipe::from_name(recipe).unwrap().kind_for(name, rows, cols, tied)
    }

    #[test]
    fn every_name_finds_its_own_recipe_in_any_case() {
        assert_eq!(Recipe::NAMES.len(), Recipe::ALL.len());
        for (name, recipe) in Recipe::NAMES.iter().zip(Recipe::ALL) {
            assert_eq!(Recipe::from_name(&name.to_uppercase()).unwrap().name, recipe.name);
        }
        assert!(Recipe::from_name("q4").is_none());
        for kind in Kind::ALL {
            assert_eq!(Recipe::from_name(kind.name()).unwrap().body, kind);
        }
    }

    #[test]
    fn vectors_norms_biases_and_routers_stay_f32() {
        for r in Recipe::NAMES {
            assert_eq!(kind(r, "blk.3.attn_norm.weight", 1, 2048, false), Kind::F32);
            assert_eq!(kind(r, "output_norm.weight", 1, 2048, false), Kind::F32);
            assert_eq!(kind(r, "blk.3.attn_q_norm.weight", 16, 128, false), Kind::F32);
            assert_eq!(kind(r, "blk.3.attn_q.bias", 1, 2048, false), Kind::F32);
            assert_eq!(kind(r, "rope_freqs.weight", 1, 32, false), Kind::F32);
            assert_eq!(kind(r, "blk.0.ffn_gate_inp.weight", 64, 2048, false), Kind::F32);
        }
    }

    #[test]
    fn a_plain_kind_fills_every_matrix_and_a_mix_raises_what_it_names() {
        for k in Kind::ALL {
            for n in ["output.weight", "token_embd.weight", "blk.0.attn_v.weight", "blk.1.ffn_up.weight"] {
                assert_eq!(kind(k.name(), n, 512, 512, false), k);
            }
        }
        let q4 = |n| kind("q4_k_m", n, 512, 512, false);
        assert_eq!(q4("output.weight"), Kind::Q6_K);
        assert_eq!(q4("token_embd.weight"), Kind::Q6_K);
        assert_eq!(q4("blk.0.attn_v.weight"), Kind::Q6_K);
        assert_eq!(q4("blk.1.attn_v.weight"), Kind::Q4_K);
        assert_eq!(q4("blk.10.ffn_down.weight"), Kind::Q6_K);
        assert_eq!(q4("blk.10.ffn_up.weight"), Kind::Q4_K);
        // an unnumbered or odd name is a body tensor, not an error
        for n in ["", ".", "blk", "blk.x.attn_v.weight", "blk.99999999999999999999999.attn_v.weight"] {
            assert_eq!(q4(n), Kind::Q4_K);
        }
    }

    #[test]
    fn rows_that_are_not_whole_blocks_get_a_kind_that_holds_them() {
        let small = |r, n| kind(r, n, 512, 576, true);
        assert_eq!(small("q4_k_m", "token_embd.weight"), Kind::Q8_0);
        assert_eq!(small("q4_k_m", "blk.1.ffn_up.weight"), Kind::Q5_0);
        assert_eq!(small("q5_k", "blk.1.ffn_up.weight"), Kind::Q5_1);
        assert_eq!(small("q3_k", "blk.1.ffn_up.weight"), Kind::Q4_0);
        assert_eq!(small("q2_k", "blk.1.ffn_up.weight"), Kind::Q4_0);
        for r in Recipe::NAMES {
            for cols in 1..600 {
                let k = kind(r, "blk.1.ffn_up.weight", 2, cols, false);
                assert!(k.row_bytes(cols).is_some(), "{r} {cols} {k}");
            }
        }
        assert_eq!(kind("q4_0", "blk.1.ffn_up.weight", 512, 48, false), Kind::F16);
    }
}
