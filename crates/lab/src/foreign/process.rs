//! A foreign engine's process, and the promise that it does not outlive its sample.
//!
//! Each is started as the leader of a process group of its own, with a guard in the same group: a shell that waits for
//! the end of a pipe whose other end is ours. When we stop the engine, end, or are killed (`kill -9` included), the pipe
//! closes and the guard kills its group, the engine and whatever it started. Nothing is looked up by id, so nothing else
//! can be hit. What this cannot reach is a program that leaves its group by `setsid` (a daemon: use `url` for those).
//! Where there is no POSIX shell only the program itself is killed, and only if we live to do it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::stream::glimpse;
use super::{ForeignError, receipt};

/// The guard is the shell's grandchild, so that the engine, which takes the shell's place, has no child it does not
/// know. A line of the pipe is a signal to send; its end is the end.
#[cfg(unix)]
const GUARDED: &str = r#"exec 3<&0
( ( trap '' TERM; while read -r s <&3; do kill -s "$s" 0; done; kill -s KILL 0 ) </dev/null >/dev/null 2>&1 & )
exec 3<&- </dev/null
exec "$@""#;

/// How long the system may take to end what was killed.
const END: Duration = Duration::from_secs(10);

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A started program.
pub(super) struct Running {
    child: Child,
    guard: Option<ChildStdin>,
    log: File,
    engine: String,
    ended: bool,
}

impl Running {
    /// Starts `argv`. Its standard error goes to a nameless file, its standard output to `out`, or to the same file.
    pub(super) fn start(
        engine: &str,
        argv: &[String],
        env: &BTreeMap<String, String>,
        out: Option<&File>,
    ) -> Result<Running, ForeignError> {
        let io = |what: &str| {
            let (engine, what) = (engine.to_string(), what.to_string());
            move |why| ForeignError::Io { engine, what, why }
        };
        let log = tempfile::tempfile().map_err(io("its log could not be made"))?;
        let twin = |f: &File| f.try_clone().map_err(io("a file could not be handed to it"));
        let mut command = guarded(argv);
        command.envs(env).stdin(Stdio::piped()).stderr(twin(&log)?).stdout(twin(out.unwrap_or(&log))?);
        let start =
            |why: std::io::Error| ForeignError::Start { engine: engine.to_string(), why: why.to_string() };
        let mut child = command.spawn().map_err(start)?;
        let guard = child.stdin.take();
        Ok(Running { child, guard, log, engine: engine.to_string(), ended: false })
    }

    /// Its process id, which is also the id of its group.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, once it has ended.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The error for a program that ended although nobody asked it to. A shell's 126 and 127 mean that there is none.
    pub(super) fn gone(&mut self, status: ExitStatus) -> ForeignError {
        let (engine, said) = (self.engine.clone(), self.said());
        match status.code() {
            Some(126 | 127) => ForeignError::Start { engine, why: said },
            _ => ForeignError::Ended { engine, status: status.to_string(), said },
        }
    }

    /// Waits for it to end by itself.
    pub(super) fn wait(
        &mut self,
        what: &str,
        within: Duration,
        key: &str,
    ) -> Result<ExitStatus, ForeignError> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if since.elapsed() > within {
                return Err(ForeignError::Late {
                    engine: self.engine.clone(),
                    what: what.to_string(),
                    seconds: within.as_secs_f64(),
                    hint: format!("`{key}` of its entry is the limit; it last said: {}", self.said()),
                });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The end of what it wrote to its log, on one line.
    pub(super) fn said(&mut self) -> String {
        let end = self.log.seek(SeekFrom::End(0)).unwrap_or(0);
        let mut text = Vec::new();
        let read = self
            .log
            .seek(SeekFrom::Start(end.saturating_sub(1000)))
            .and_then(|_| (&self.log).take(1000).read_to_end(&mut text));
        match (read, text.trim_ascii().is_empty()) {
            (Ok(_), false) => glimpse(&text[text.len().saturating_sub(290)..]),
            _ => "nothing".into(),
        }
    }

    /// The start of its log.
    pub(super) fn log(&mut self) -> String {
        let mut text = Vec::new();
        let read = self
            .log
            .seek(SeekFrom::Start(0))
            .and_then(|_| (&self.log).take(64 * 1024).read_to_end(&mut text));
        read.map(|_| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Ends its group: asked first if `ask` says how long it may take, then killed.
    pub(super) fn stop(mut self, ask: Option<Duration>) -> Result<(), ForeignError> {
        if let (Some(within), Some(pipe)) = (ask, self.guard.as_mut())
            && pipe.write_all(b"TERM\n").is_ok()
        {
            let since = Instant::now();
            while self.ended().is_none() && since.elapsed() < within {
                std::thread::sleep(LOOK);
            }
        }
        self.end()
    }

    fn end(&mut self) -> Result<(), ForeignError> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        drop(self.guard.take());
        if cfg!(not(unix)) {
            // Refused only if it has ended already.
            let _ = self.child.kill();
        }
        let since = Instant::now();
        while self.ended().is_none() || !receipt::group(self.id()).is_empty() {
            if since.elapsed() > END {
                return Err(ForeignError::LeftBehind { engine: self.engine.clone(), group: self.id() });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // On the way out of another error, which is the one worth telling.
        let _ = self.end();
    }
}

#[cfg(unix)]
fn guarded(argv: &[String]) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", GUARDED, "sh"]).args(argv).process_group(0);
    command
}

#[cfg(not(unix))]
fn guarded(argv: &[String]) -> Command {
    let mut command = Command::new(argv.first().map_or("", String::as_str));
    command.args(argv.get(1..).unwrap_or_default());
    command
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    fn lives(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, s)| !s.trim_start().starts_with(['Z', 'X']))
    }

    fn dies(pid: u32) -> bool {
        let since = Instant::now();
        while lives(pid) && since.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        !lives(pid)
    }

    /// Not a test: a lab that is killed while an engine runs.
    #[test]
    #[ignore = "a program for other tests"]
    fn start_and_wait_for_another_test() {
        let argv = ["sh", "-c", "sleep 1000 & echo $$ $!; wait"].map(String::from);
        let mut running = Running::start("x", &argv, &BTreeMap::new(), None).unwrap();
        while running.log().trim().is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        println!("started {}", running.log().trim());
        std::thread::sleep(Duration::from_secs(1000));
    }

    #[test]
    fn an_engine_does_not_outlive_a_lab_that_is_killed() {
        if cfg!(not(unix)) {
            return;
        }
        let mut lab: Child = Command::new(std::env::current_exe().unwrap())
            .args([
                "foreign::process::tests::start_and_wait_for_another_test",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(lab.stdout.take().unwrap()).lines();
        let line =
            lines.map_while(Result::ok).find_map(|l| l.strip_prefix("started ").map(str::to_string)).unwrap();
        let pids: Vec<u32> = line.split(' ').map(|p| p.parse().unwrap()).collect();
        assert!(pids.iter().all(|&p| lives(p)));
        lab.kill().unwrap();
        lab.wait().unwrap();
        assert!(pids.iter().all(|&p| dies(p)), "{pids:?}");
    }

    #[test]
    fn a_server_that_is_asked_to_end_may_say_goodbye_and_one_that_ignores_it_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let bye = folder.path().join("bye");
        let start = |script: String| {
            let argv = ["sh".to_string(), "-c".to_string(), script];
            let mut r = Running::start("x", &argv, &BTreeMap::new(), None).unwrap();
            while r.log().is_empty() {
                std::thread::sleep(Duration::from_millis(5));
            }
            r
        };
        let polite = start(format!(
            "trap \"echo bye > '{}'; exit\" TERM; echo up; while :; do sleep 0.02; done",
            bye.display()
        ));
        polite.stop(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(std::fs::read_to_string(&bye).unwrap(), "bye\n");
        let deaf = start("trap '' TERM; echo up; while :; do sleep 0.02; done".into());
        let id = deaf.id();
        deaf.stop(Some(Duration::from_millis(100))).unwrap();
        assert!(!lives(id));
    }
}
