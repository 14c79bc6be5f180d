//! A file as flat tokens with lines: enough for checks that must not be fooled by comments and strings.

use proc_macro2::{TokenStream, TokenTree};

/// One token.
#[derive(Debug, PartialEq, Clone)]
pub struct Tok {
    /// the text; a string literal keeps its quotes
    pub text: String,
    /// counted from 1
    pub line: usize,
}

impl Tok {
    /// A string, byte string or C string literal, raw or not.
    pub fn is_str(&self) -> bool {
        let t = self.text.trim_start_matches(['b', 'c', 'r']).trim_start_matches('#');
        t.starts_with('"')
    }
}

/// Tokens without comments. Documentation comments become string literals inside attributes and are dropped too.
pub fn tokens(text: &str) -> Result<Vec<Tok>, String> {
    let stream: TokenStream = text.parse().map_err(|e| format!("does not lex: {e}"))?;
    let mut out = Vec::new();
    flatten(stream, &mut out);
    Ok(out)
}

fn flatten(stream: TokenStream, out: &mut Vec<Tok>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(g) => {
                let (open, close) = match g.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                let doc = g.stream().into_iter().next().is_some_and(|t| t.to_string() == "doc");
                if open == "[" && doc && out.last().is_some_and(|t| t.text == "#" || t.text == "!") {
                    continue;
                }
                out.push(Tok { text: open.into(), line });
                flatten(g.stream(), out);
                out.push(Tok { text: close.into(), line: g.span_close().start().line });
            }
            TokenTree::Punct(p) => {
                let mut text = p.as_char().to_string();
                let mut spacing = p.spacing();
                // `::`, `==`, `=>` and the like are one word here.
                while spacing == proc_macro2::Spacing::Joint && text.len() < 2 && p.as_char() != '\'' {
                    let Some(TokenTree::Punct(next)) = trees.peek() else { break };
                    text.push(next.as_char());
                    spacing = next.spacing();
                    trees.next();
                }
                out.push(Tok { text, line });
            }
            other => out.push(Tok { text: other.to_string(), line }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_vanish_and_double_punctuation_stays_together() {
        let t = tokens("/// std::env\n// \"x\"\nfn f() { a::b == \"c\" }").unwrap();
        let words: Vec<&str> = t.iter().map(|t| t.text.as_str()).filter(|t| *t != "#").collect();
        assert_eq!(words, ["fn", "f", "(", ")", "{", "a", "::", "b", "==", "\"c\"", "}"]);
        assert_eq!(t.last().unwrap().line, 3);
    }
}
