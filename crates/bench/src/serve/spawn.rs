//! A server for the time of a load: started, waited for, ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::Target;
use crate::BenchError;

/// How the server says where it listens, on stderr.
pub const LISTENING: &str = "listening on ";

/// Lines of a server's stderr that are kept for the case that it fails.
const LINES: usize = 12;

/// Time a server has to end after it was asked to; then it is killed.
const END: Duration = Duration::from_secs(30);

/// A server that runs until this is dropped or [`Spawned::end`] is called.
pub struct Spawned {
    child: Child,
    /// where it listens
    pub target: Target,
    tail: Tail,
    /// asks a process to end, by its id
    terminate: fn(u32) -> bool,
}

type Tail = Arc<Mutex<Vec<String>>>;

/// A port nobody listens on at this moment.
pub fn free_port() -> Result<u16, BenchError> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A line of words for a server, with its port in place of `{port}`: words are parted by blanks, quotes of either kind
/// keep blanks.
pub fn words(line: &str, port: u16) -> Result<Vec<String>, BenchError> {
    let (mut out, mut word, mut quote): (Vec<String>, Option<String>, Option<char>) =
        (Vec::new(), None, None);
    for c in line.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => out.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    if quote.is_some() {
        return Err(BenchError::Ask(format!("a quote in `{line}` is not closed")));
    }
    if out.is_empty() || !line.contains("{port}") {
        return Err(BenchError::Ask(format!(
            "`{line}` must be a command with {{port}} where the server's port belongs"
        )));
    }
    let port = port.to_string();
    Ok(out.into_iter().map(|w| w.replace("{port}", &port)).collect())
}

impl Spawned {
    /// Starts a command that says on stderr where it listens, and waits for that line.
    pub fn told(
        command: Command,
        within: Duration,
        terminate: fn(u32) -> bool,
    ) -> Result<Spawned, BenchError> {
        let nowhere = Target { host: "127.0.0.1".into(), port: 0, path: String::new() };
        let (mut s, heard) = Spawned::start(command, nowhere, terminate)?;
        let url = s.wait(within, "said where it listens", |_| heard.try_recv().ok())?;
        s.target = url.parse()?;
        Ok(s)
    }

    /// Starts a command that listens on a known port, and waits until `/health` or `/v1/models` answers with 200.
    pub fn asked(
        command: Command,
        target: Target,
        within: Duration,
        terminate: fn(u32) -> bool,
    ) -> Result<Spawned, BenchError> {
        let (mut s, _) = Spawned::start(command, target, terminate)?;
        s.wait(within, "answered /health or /v1/models", |s| {
            ["/health", "/v1/models"].iter().any(|p| status(&s.target, p) == Some(200)).then_some(())
        })?;
        Ok(s)
    }

    fn start(
        mut command: Command,
        target: Target,
        terminate: fn(u32) -> bool,
    ) -> Result<(Spawned, mpsc::Receiver<String>), BenchError> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| {
            BenchError::Server(format!("cannot start {}: {e}", command.get_program().to_string_lossy()))
        })?;
        let tail = Tail::default();
        let (tell, heard) = mpsc::channel();
        if let Some(err) = child.stderr.take() {
            let tail = tail.clone();
            // Read to its end: a server whose pipe is full would wait for us.
            std::thread::spawn(move || {
                let mut lines = BufReader::new(err);
                let mut bytes = Vec::new();
                while lines.by_ref().take(1 << 16).read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
                    let line = String::from_utf8_lossy(&bytes).trim_end().to_string();
                    bytes.clear();
                    if let Some((_, url)) = line.split_once(LISTENING) {
                        let url = url.split_whitespace().next().unwrap_or_default();
                        let _ = tell.send(url.to_string());
                    }
                    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                    if tail.len() == LINES {
                        tail.remove(0);
                    }
                    tail.push(line);
                }
            });
        }
        Ok((Spawned { child, target, tail, terminate }, heard))
    }

    fn wait<T>(
        &mut self,
        within: Duration,
        what: &str,
        mut done: impl FnMut(&Spawned) -> Option<T>,
    ) -> Result<T, BenchError> {
        let start = Instant::now();
        loop {
            if let Some(t) = done(self) {
                return Ok(t);
            }
            if let Some(status) = self.child.try_wait()? {
                // What it said last may still be in the pipe.
                std::thread::sleep(Duration::from_millis(50));
                return Err(self.failed(format!("the server ended ({status}) before it {what}")));
            }
            if start.elapsed() > within {
                return Err(self.failed(format!("the server has not {what} within {} s", within.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn failed(&self, why: String) -> BenchError {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let said = if tail.is_empty() { "it said nothing".into() } else { tail.join("\n") };
        BenchError::Server(format!("{why}:\n{said}"))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end and waits; the error says how it ended when that was not well.
    pub fn end(mut self) -> Result<(), BenchError> {
        if let Some(status) = self.child.try_wait()? {
            return Err(self.failed(format!("the server ended ({status}) while it was measured")));
        }
        let asked = (self.terminate)(self.child.id());
        let start = Instant::now();
        while asked && start.elapsed() < END {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // Dropping it kills it.
        Err(self.failed(format!("the server did not end within {} s of being asked to", END.as_secs())))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The status at a path; `None` while nobody answers.
fn status(t: &Target, path: &str) -> Option<u16> {
    let limit = Duration::from_secs(2);
    let at = (t.host.as_str(), t.port).to_socket_addrs().ok()?.next()?;
    let mut s = TcpStream::connect_timeout(&at, limit).ok()?;
    s.set_read_timeout(Some(limit)).ok()?;
    write!(s, "GET {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", t.path, t.authority())
        .ok()?;
    let mut head = [0; 12];
    s.read_exact(&mut head).ok()?;
    let head = std::str::from_utf8(&head).ok()?.strip_prefix("HTTP/1.")?;
    head.get(2..)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_by_blanks_and_kept_by_quotes() {
        let w = words("llama-server  -m 'a b.gguf' --port {port} --x=\"\"", 81).unwrap();
        assert_eq!(w, ["llama-server", "-m", "a b.gguf", "--port", "81", "--x="]);
        for bad in ["", "x", "x '{port}", "  "] {
            assert!(words(bad, 1).is_err(), "{bad:?}");
        }
    }
}
