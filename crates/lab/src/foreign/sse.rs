//! The lines of an event stream (`text/event-stream`), in whatever pieces they arrive.

/// Longest line, and longest data of one event: token chunks are some hundred bytes, with log probabilities some
/// thousand.
pub(super) const LONGEST: usize = 1 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// its `event:` field; empty for a plain message
    pub kind: Vec<u8>,
    /// its `data:` lines, joined by newlines
    pub data: Vec<u8>,
}

/// Cuts a stream of bytes into events.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    open: Event,
    has_data: bool,
    after_cr: bool,
    begun: bool,
}

impl Lines {
    /// Adds the next bytes; complete events go to `out`. The error says which bound was broken.
    pub(super) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<Event>) -> Result<(), String> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(at) = bytes.iter().position(|&b| b == b'\n' || b == b'\r') {
            self.keep(&bytes[..at])?;
            self.line_ends(out)?;
            let cr = bytes[at] == b'\r';
            bytes = &bytes[at + 1..];
            if cr && bytes.is_empty() {
                self.after_cr = true;
            } else if cr {
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
        }
        self.keep(bytes)
    }

    /// The stream has ended: some servers leave the last empty line out.
    pub(super) fn end(&mut self, out: &mut Vec<Event>) -> Result<(), String> {
        if !self.line.is_empty() {
            self.line_ends(out)?;
        }
        self.dispatch(out);
        Ok(())
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), String> {
        if self.line.len() + part.len() > LONGEST {
            return Err(format!("a line of the stream is longer than {LONGEST} bytes"));
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line_ends(&mut self, out: &mut Vec<Event>) -> Result<(), String> {
        let mut line = std::mem::take(&mut self.line);
        if !self.begun {
            self.begun = true;
            if line.starts_with("\u{feff}".as_bytes()) {
                line.drain(..3);
            }
        }
        if line.is_empty() {
            self.dispatch(out);
            return Ok(());
        }
        let at = line.iter().position(|&b| b == b':').unwrap_or(line.len());
        let (field, rest) = line.split_at(at);
        let value = rest.strip_prefix(b":").unwrap_or(rest);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.open.data.len() + value.len() + 1 > LONGEST {
                    return Err(format!("one event of the stream holds more than {LONGEST} bytes"));
                }
                if self.has_data {
                    self.open.data.push(b'\n');
                }
                self.has_data = true;
                self.open.data.extend_from_slice(value);
            }
            b"event" => self.open.kind = value.to_vec(),
            // llama.cpp's older servers send `error: {…}` as a field of its own.
            b"error" => {
                self.open.kind = b"error".to_vec();
                self.open.data = value.to_vec();
                self.has_data = true;
            }
            // Comments, which servers send to keep a connection alive, and `id` and `retry`.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, out: &mut Vec<Event>) {
        let event = std::mem::take(&mut self.open);
        if std::mem::take(&mut self.has_data) {
            out.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<Event> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for p in pieces {
            lines.push(p, &mut out).unwrap();
        }
        lines.end(&mut out).unwrap();
        out
    }

    fn datas(pieces: &[&[u8]]) -> Vec<String> {
        cut(pieces).into_iter().map(|e| String::from_utf8(e.data).unwrap()).collect()
    }

    #[test]
    fn every_line_end_of_the_standard_ends_a_line() {
        for end in ["\n", "\r\n", "\r"] {
            let text =
                format!("data: a{end}data:b{end}{end}: alive{end}{end}event: x{end}data:  c{end}{end}");
            let want = [("", "a\nb"), ("x", " c")]
                .map(|(k, d)| Event { kind: k.into(), data: d.as_bytes().to_vec() });
            assert_eq!(cut(&[text.as_bytes()]), want, "{end:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_an_empty_data_line_and_a_missing_last_line_are_read_as_meant() {
        assert_eq!(datas(&["\u{feff}data: a\n\ndata\n\ndata: [DONE]".as_bytes()]), ["a", "", "[DONE]"]);
    }

    #[test]
    fn a_line_and_an_event_without_end_are_refused() {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        let block = vec![b'x'; 1 << 16];
        assert!((0..17).any(|_| lines.push(&block, &mut out).is_err()));
        let (mut lines, block) = (Lines::default(), [b"data:".to_vec(), block, b"\n".to_vec()].concat());
        assert!((0..17).any(|_| lines.push(&block, &mut out).is_err()));
        assert!(out.is_empty());
    }

    /// What the standard says, over the whole text at once and without bounds.
    fn oracle(text: &str) -> Vec<String> {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let (mut out, mut open): (Vec<String>, Option<String>) = (Vec::new(), None);
        for line in text.strip_prefix('\u{feff}').unwrap_or(&text).split('\n') {
            if line.is_empty() {
                out.extend(open.take());
            } else if let Some(v) = line.strip_prefix("data").filter(|v| v.is_empty() || v.starts_with(':')) {
                let v = v.strip_prefix(':').unwrap_or(v);
                let v = v.strip_prefix(' ').unwrap_or(v);
                open = Some(open.map_or(v.to_string(), |o| format!("{o}\n{v}")));
            }
        }
        out.extend(open);
        out
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_the_bytes_were_split(
            parts in prop::collection::vec(prop::sample::select(vec![
                "data: ", "data:", "data", ": ping", "id: 7", "\n", "\r\n", "\r", "\n\n", "ü🦀", "{\"a\":1}", "[DONE]", ":",
            ]), 0..40),
            cuts in prop::collection::vec(0usize..400, 0..12),
        ) {
            let text = parts.concat();
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(datas(&pieces), oracle(&text));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0usize..600) {
            let (a, b) = bytes.split_at(at.min(bytes.len()));
            cut(&[a, b]);
        }
    }
}
