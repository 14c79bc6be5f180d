//! Answers as they come over the wire: events of a stream in whatever pieces they arrive, and what a chunk says.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

/// Longest line of a stream: chunks are some hundred bytes, with log probabilities some thousand.
const LONGEST: usize = 1 << 20;

/// Cuts a stream of bytes into the data of its events. Of `text/event-stream` it knows what these APIs send: `data`
/// lines, one or several per event; comments and other fields are passed over.
#[derive(Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    open: bool,
}

impl Events {
    /// Adds bytes and hands each complete event to `take`, which may end the reading with an error.
    pub(super) fn push<E: From<TooLong>>(
        &mut self,
        mut bytes: &[u8],
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(at) = bytes.iter().position(|&b| b == b'\n') {
            let (line, rest) = (&bytes[..at], &bytes[at + 1..]);
            bytes = rest;
            if self.line.is_empty() {
                self.line_ends(line, take)?;
            } else {
                self.keep(line)?;
                let whole = std::mem::take(&mut self.line);
                self.line_ends(&whole, take)?;
            }
        }
        Ok(self.keep(bytes)?)
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + part.len() > LONGEST {
            return Err(TooLong);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line_ends<E: From<TooLong>>(
        &mut self,
        line: &[u8],
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if std::mem::take(&mut self.open) {
                let data = std::mem::take(&mut self.data);
                take(&data)?;
            }
            return Ok(());
        }
        let Some(value) = line.strip_prefix(b"data:") else { return Ok(()) };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if self.data.len() + value.len() > LONGEST {
            return Err(TooLong.into());
        }
        if std::mem::replace(&mut self.open, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        Ok(())
    }
}

/// A line or an event without end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// A chunk of a stream, or a whole answer: chat and completions alike.
#[derive(Deserialize)]
pub(super) struct Chunk<'a> {
    #[serde(borrow, default)]
    pub choices: Vec<Choice<'a>>,
    #[serde(default)]
    pub usage: Option<Usage>,
    /// llama.cpp's own
    #[serde(default)]
    pub timings: Option<Timings>,
    /// some servers report a failure in the middle of a stream this way
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow, default)]
    pub delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    pub message: Option<Delta<'a>>,
    #[serde(borrow, default)]
    pub text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow, default)]
    pub role: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub reasoning_content: Option<Cow<'a, str>>,
    #[serde(default)]
    pub tool_calls: Option<Vec<Value>>,
}

#[derive(Deserialize, Clone, Copy, Default)]
pub(super) struct Usage {
    #[serde(default)]
    pub prompt_tokens: u64,
    #[serde(default)]
    pub completion_tokens: u64,
    #[serde(default)]
    pub prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize, Clone, Copy, Default)]
pub(super) struct Details {
    #[serde(default)]
    pub cached_tokens: Option<u64>,
}

#[derive(Deserialize, Clone, Copy, Default)]
pub(super) struct Timings {
    #[serde(default)]
    pub cache_n: Option<u64>,
}

/// What a chunk added to an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// it stands for a token: text, a part of a tool call, or an empty text that is neither an opening nor an end
    pub token: bool,
    /// why the answer ended, where it says so
    pub finish: Option<String>,
}

impl Chunk<'_> {
    /// Adds the text of the first choice to `text`.
    pub(super) fn say(&self, text: &mut String) -> Said {
        let Some(c) = self.choices.first() else { return Said::default() };
        let mut said = Said { token: false, finish: c.finish_reason.as_ref().map(|f| f.to_string()) };
        let mut empty = false;
        let mut add = |part: Option<&str>| match part {
            Some("") => empty = true,
            Some(part) => {
                said.token = true;
                text.push_str(part);
            }
            None => {}
        };
        add(c.text.as_deref());
        let mut opens = false;
        for d in c.delta.iter().chain(&c.message) {
            add(d.reasoning_content.as_deref());
            add(d.content.as_deref());
            let calls = d.tool_calls.as_ref().filter(|c| !c.is_empty());
            add(calls.map(|c| Value::from(c.clone()).to_string()).as_deref());
            opens |= d.role.is_some();
        }
        said.token |= empty && !opens && said.finish.is_none();
        said
    }

    /// Prompt tokens that were not computed, where the server says so.
    pub(super) fn cached(&self) -> Option<u64> {
        let told = self.usage.and_then(|u| u.prompt_tokens_details).and_then(|d| d.cached_tokens);
        told.or(self.timings.and_then(|t| t.cache_n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(pieces: &[&[u8]]) -> Result<Vec<String>, TooLong> {
        let (mut e, mut out) = (Events::default(), Vec::new());
        for p in pieces {
            e.push::<TooLong>(p, &mut |d| {
                out.push(String::from_utf8_lossy(d).into_owned());
                Ok(())
            })?;
        }
        Ok(out)
    }

    #[test]
    fn comments_and_other_fields_are_passed_over_and_data_lines_joined() {
        let text =
            ": ping\n\nevent: x\r\nid: 3\r\ndata: a\r\ndata:b\r\n\r\ndata: [DONE]\n\ndata: unfinished\n";
        assert_eq!(events(&[text.as_bytes()]).unwrap(), ["a\nb", "[DONE]"]);
    }

    #[test]
    fn a_line_and_an_event_without_end_are_refused() {
        let block = vec![b'x'; 1 << 16];
        assert_eq!(events(&vec![&block[..]; 17]), Err(TooLong));
        let line = [b"data:".to_vec(), block, b"\n".to_vec()].concat();
        assert_eq!(events(&vec![&line[..]; 17]), Err(TooLong));
    }

    #[test]
    fn chunks_of_every_server_are_read_for_tokens_text_and_counts() {
        let say = |json: &str| {
            let mut text = String::new();
            let c: Chunk<'_> = serde_json::from_str(json).unwrap();
            let s = c.say(&mut text);
            (s.token, s.finish, text, c.usage.map(|u| u.completion_tokens), c.cached())
        };
        let chat = |delta: &str, finish: &str| {
            say(&format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}],"x":1}}"#))
        };
        assert!(!chat(r#"{"role":"assistant","content":""}"#, "null").0, "the opening is no token");
        assert_eq!(chat(r#"{"content":"h\u00e4"}"#, "null").2, "hä");
        assert!(chat(r#"{"content":""}"#, "null").0, "half a character is a token");
        assert_eq!(chat("{}", "\"stop\"").1.as_deref(), Some("stop"));
        assert!(!chat(r#"{"content":""}"#, "\"length\"").0);
        assert!(chat(r#"{"content":null,"tool_calls":[{"index":0}]}"#, "null").0);
        assert!(!chat(r#"{"content":null,"tool_calls":null}"#, "null").0);
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":5}}}"#;
        assert_eq!(say(usage), (false, None, String::new(), Some(4), Some(5)));
        let old = r#"{"choices":[{"text":"a","finish_reason":null}],"usage":null,"timings":{"cache_n":7}}"#;
        assert_eq!(say(old), (true, None, "a".into(), None, Some(7)));
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_the_bytes_were_split(
            parts in prop::collection::vec(prop::sample::select(vec![
                "data: ", "data:", ": ping", "id: 7", "\n", "\r\n", "\n\n", "ü🦀", "{\"a\":1}", "[DONE]",
            ]), 0..40),
            cuts in prop::collection::vec(0usize..400, 0..12),
        ) {
            let text = parts.concat();
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(events(&pieces), events(&[bytes]));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = events(&[&bytes]);
            let _ = serde_json::from_slice::<Chunk<'_>>(&bytes).map(|c| c.say(&mut String::new()));
        }
    }
}
