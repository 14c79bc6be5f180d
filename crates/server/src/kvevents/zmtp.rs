//! The part of ZMTP 3.0 that a publisher and a router need: greeting, READY, frames. NULL mechanism only.
//! Source: the protocol's specification, RFC 23.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of a frame that a peer may send; they send topics and numbers.
const FRAME: usize = 4096;
/// Frames of one message.
const PARTS: usize = 8;
/// A peer that takes longer to say who it is is none.
pub const PATIENCE: Duration = Duration::from_secs(5);

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a peer did wrong, or that it left.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The connection ended.
    #[error("the peer left: {0}")]
    Gone(#[from] std::io::Error),
    /// Not this protocol.
    #[error("the peer does not speak ZMTP 3 without security: {0}")]
    Speech(&'static str),
}

/// A frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// another one follows
    pub more: bool,
    /// a command, not a part of a message
    pub command: bool,
    /// what it says
    pub body: Vec<u8>,
}

/// Reads frames. Nothing is lost when a read is broken off.
pub struct Reader<R> {
    from: R,
    held: Vec<u8>,
    parts: Vec<Vec<u8>>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(from: R) -> Self {
        Reader { from, held: Vec::new(), parts: Vec::new() }
    }

    async fn fill(&mut self, need: usize) -> Result<(), Broken> {
        while self.held.len() < need {
            let mut some = [0; 1024];
            let n = self.from.read(&mut some).await?;
            if n == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            self.held.extend_from_slice(&some[..n]);
        }
        Ok(())
    }

    async fn frame(&mut self) -> Result<Frame, Broken> {
        self.fill(2).await?;
        let flags = self.held[0];
        if flags & !(MORE | LONG | COMMAND) != 0 || (flags & COMMAND != 0 && flags & MORE != 0) {
            return Err(Broken::Speech("a frame has unknown flags"));
        }
        let head = if flags & LONG != 0 { 9 } else { 2 };
        self.fill(head).await?;
        let len = match <[u8; 8]>::try_from(&self.held[1..head]) {
            Ok(eight) => u64::from_be_bytes(eight),
            Err(_) => self.held[1].into(),
        };
        let Some(len) = usize::try_from(len).ok().filter(|&n| n <= FRAME) else {
            return Err(Broken::Speech("a frame is too long"));
        };
        self.fill(head + len).await?;
        let body = self.held[head..head + len].to_vec();
        self.held.drain(..head + len);
        Ok(Frame { more: flags & MORE != 0, command: flags & COMMAND != 0, body })
    }

    /// The next message or command; a command comes alone.
    pub async fn next(&mut self) -> Result<(bool, Vec<Vec<u8>>), Broken> {
        loop {
            let frame = self.frame().await?;
            if frame.command {
                return Ok((true, vec![frame.body]));
            }
            self.parts.push(frame.body);
            if self.parts.len() > PARTS {
                return Err(Broken::Speech("a message has too many parts"));
            }
            if !frame.more {
                return Ok((false, std::mem::take(&mut self.parts)));
            }
        }
    }
}

/// Lays a message out.
pub fn message(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.iter().map(|p| p.len() + 9).sum());
    for (i, part) in parts.iter().enumerate() {
        lay(&mut out, if i + 1 < parts.len() { MORE } else { 0 }, part);
    }
    out
}

fn lay(out: &mut Vec<u8>, flags: u8, body: &[u8]) {
    match u8::try_from(body.len()) {
        Ok(short) => out.extend([flags, short]),
        Err(_) => {
            out.push(flags | LONG);
            out.extend((body.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(body);
}

/// Says who we are and hears who the peer is: its socket type, which must be one of `peers`.
pub async fn shake<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut Reader<R>,
    write: &mut W,
    own: &str,
    peers: &[&str],
) -> Result<(), Broken> {
    let mut greeting = [0u8; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    write.write_all(&greeting).await?;
    reader.fill(64).await?;
    let got: Vec<u8> = reader.held.drain(..64).collect();
    if got[0] != 0xff || got[9] & 1 != 1 || got[10] < 3 {
        return Err(Broken::Speech("the greeting is another protocol's"));
    }
    if &got[12..17] != b"NULL\0" {
        return Err(Broken::Speech("it asks for a security mechanism"));
    }
    let mut ready = b"\x05READY\x0bSocket-Type".to_vec();
    ready.extend((own.len() as u32).to_be_bytes());
    ready.extend(own.as_bytes());
    let mut out = Vec::new();
    lay(&mut out, COMMAND, &ready);
    write.write_all(&out).await?;
    let (command, parts) = reader.next().await?;
    let body = parts.first().filter(|_| command).and_then(|b| b.strip_prefix(b"\x05READY"));
    let kind = body.and_then(|b| property(b, b"Socket-Type"));
    match kind {
        Some(kind) if peers.iter().any(|p| p.as_bytes() == kind) => Ok(()),
        Some(_) => Err(Broken::Speech("its socket is of a kind that cannot listen here")),
        None => Err(Broken::Speech("it does not say what it is")),
    }
}

fn property<'a>(mut body: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    while !body.is_empty() {
        let (&n, rest) = body.split_first()?;
        let (key, rest) = rest.split_at_checked(n.into())?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        if key.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        body = rest;
    }
    None
}
