//! The tokenizer as the grammar's parser sees it: bytes of every token, in a trie.

use std::sync::Arc;

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::error::Error;
use crate::tokenizer::Tokenizer;

/// Longer tokens are never allowed; the trie can tell 1024 levels apart.
const LONGEST: usize = 1000;
/// Bytes of all tokens together; the trie numbers its nodes in 22 bits.
const MOST_BYTES: usize = (1 << 22) - 2;

/// Bytes of every token; control tokens stand behind a byte that no text holds.
pub struct Vocabulary {
    trie: TokTrie,
}

impl Vocabulary {
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Result<Self, Error> {
        let ends: Vec<u32> = tokenizer.ends().filter(|&t| (t as usize) < tokenizer.len()).collect();
        let Some(&end) = ends.first() else {
            return Err(Error::Broken("it has no end token, so a constrained answer could not end".into()));
        };
        let words: Vec<Vec<u8>> = (0..tokenizer.len() as u32)
            .map(|id| {
                let bytes = tokenizer.bytes(id);
                match () {
                    () if bytes.is_empty() || bytes.len() > LONGEST => Vec::new(),
                    () if tokenizer.is_control(id) || ends.contains(&id) => {
                        [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
                    }
                    () => bytes.to_vec(),
                }
            })
            .collect();
        let total: usize = words.iter().map(Vec::len).sum();
        if total > MOST_BYTES {
            return Err(Error::Broken(format!(
                "its tokens have {total} bytes together; grammars take up to {MOST_BYTES}"
            )));
        }
        let info = TokRxInfo::new(words.len() as u32, end);
        Ok(Self { trie: TokTrie::from(&info, &words).with_eos_tokens(&ends) })
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, s: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(s)
    }

    /// Forced text does not narrow masks to one way of cutting it.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
