//! The machine-wide lock: one measurement at a time on a machine, whoever starts it.
//!
//! It is an advisory lock of the operating system on one agreed file, so a holder that dies, however it dies, lets go.
//! The file's content only says who holds it; it is never what decides.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tamp_base::clock::now_ms;

/// The file's name within the folder of locks.
pub const FILE: &str = "tamp.lab.lock";

/// `kind` of a [`Holder`].
const KIND: &str = "tamp.lock";
/// Longest content that is read: a holder is one short line.
const LONGEST: u64 = 4096;
/// Longest command kept, in characters.
const COMMAND: usize = 200;
/// Between two tries of [`take`].
const AGAIN: Duration = Duration::from_millis(100);

/// Why the lock could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file cannot be opened or locked.
    #[error(
        "cannot lock {path}: {why}; without it nobody can tell whether another measurement runs, so check that its \
         folder exists and that this user may write there"
    )]
    Io {
        /// the file
        path: PathBuf,
        /// what the system said
        why: io::Error,
    },
}

/// Who holds the lock, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// always `tamp.lock`
    pub kind: String,
    /// version of this record, 1
    pub v: u32,
    /// process id
    pub pid: u32,
    /// when it took the lock, milliseconds since 1970
    pub since_ms: u64,
    /// what it runs
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = now_ms().saturating_sub(self.since_ms) / 1000;
        let (n, unit) = match seconds {
            0..=119 => (seconds, "s"),
            120..=7199 => (seconds / 60, "min"),
            _ => (seconds / 3600, "h"),
        };
        write!(f, "process {} (`{}`) for {n} {unit}", self.pid, self.command)
    }
}

/// The lock, held until dropped or until the process ends.
#[derive(Debug)]
pub struct MachineLock(File);

/// What came of a try.
#[derive(Debug)]
pub enum Tried {
    /// It is ours.
    Taken(MachineLock),
    /// Another holds it; `None` when it has not said who it is.
    Held(Option<Holder>),
}

/// Takes the lock on `path` if it is free. `command` is what this process runs, for those who find it held.
pub fn try_take(path: &Path, command: &str) -> Result<Tried, LockError> {
    let at = |why| LockError::Io { path: path.into(), why };
    let mut file = open(path).map_err(at)?;
    if !locked(&file).map_err(at)? {
        return Ok(Tried::Held(read(&mut file)));
    }
    let holder = Holder {
        kind: KIND.into(),
        v: 1,
        pid: std::process::id(),
        since_ms: now_ms(),
        command: command.chars().filter(|c| !c.is_control()).take(COMMAND).collect(),
    };
    // A file of another user may be lockable and not writable: then the lock holds and only its holder stays unsaid.
    let _ = write(&mut file, &serde_json::to_string(&holder).unwrap_or_default());
    Ok(Tried::Taken(MachineLock(file)))
}

/// Waits for the lock on `path`. `waiting` hears of the holder before each pause; `false` from it gives up, and then
/// the answer is `None`.
pub fn take(
    path: &Path,
    command: &str,
    waiting: &mut dyn FnMut(Option<&Holder>) -> bool,
) -> Result<Option<MachineLock>, LockError> {
    loop {
        match try_take(path, command)? {
            Tried::Taken(lock) => return Ok(Some(lock)),
            Tried::Held(holder) if waiting(holder.as_ref()) => std::thread::sleep(AGAIN),
            Tried::Held(_) => return Ok(None),
        }
    }
}

/// Whether the process `pid` holds the lock on `path` now: somebody holds it, and it says that it is this process.
pub fn is_held_by(path: &Path, pid: u32) -> Result<bool, LockError> {
    let at = |why| LockError::Io { path: path.into(), why };
    let mut file = match OpenOptions::new().read(true).open(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(at)?,
    };
    // Were it free, this try would take it; it is given back with the file.
    if locked(&file).map_err(at)? {
        return Ok(false);
    }
    Ok(read(&mut file).is_some_and(|h| h.pid == pid))
}

impl Drop for MachineLock {
    fn drop(&mut self) {
        let _ = self.0.set_len(0);
        let _ = self.0.unlock();
    }
}

/// The first of these folders that is there. One folder for all users and processes makes the lock machine-wide, so a
/// temporary folder of one's own comes last.
pub fn folder(own: &Path) -> &Path {
    let shared = ["/run/lock", "/tmp"].map(Path::new);
    shared.into_iter().find(|d| d.is_dir()).unwrap_or(own)
}

fn open(path: &Path) -> io::Result<File> {
    // Made first and opened after: systems that protect sticky folders refuse to open a file of somebody else with
    // the wish to create it.
    match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
        Ok(file) => {
            everybody(&file);
            return Ok(file);
        }
        Err(e) if !path.exists() => return Err(e),
        Err(_) => {}
    }
    let both = OpenOptions::new().read(true).write(true).open(path);
    both.or_else(|_| OpenOptions::new().read(true).open(path))
}

/// Lets other users write who holds the lock.
#[cfg(unix)]
fn everybody(file: &File) {
    use std::os::unix::fs::PermissionsExt;
    let _ = file.set_permissions(std::fs::Permissions::from_mode(0o666));
}

#[cfg(not(unix))]
fn everybody(_: &File) {}

fn locked(file: &File) -> io::Result<bool> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
}

fn write(file: &mut File, line: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(line.as_bytes())?;
    file.flush()
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok().filter(|h: &Holder| h.kind == KIND && h.v == 1)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Names the lock file to the copy of this test program that [`other`] starts.
    const CHILD: &str = "TAMP_TEST_LOCK_CHILD";

    fn taken(t: Tried) -> MachineLock {
        match t {
            Tried::Taken(lock) => lock,
            Tried::Held(h) => panic!("held by {h:?}"),
        }
    }

    /// Not a test of its own: the second process of the others.
    #[test]
    fn a_second_process() {
        let Some(path) = std::env::var_os(CHILD) else { return };
        let _lock = taken(try_take(Path::new(&path), "the other one").unwrap());
        println!("\nholding");
        std::thread::sleep(Duration::from_secs(60));
    }

    /// A process that holds the lock, once it does.
    fn other(path: &Path) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lock::tests::a_second_process", "--nocapture"])
            .env(CHILD, path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|l| l.unwrap() == "holding"));
        child
    }

    #[test]
    fn of_two_processes_one_holds_the_lock_and_the_other_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut child = other(&path);
        let Tried::Held(Some(holder)) = try_take(&path, "me").unwrap() else { panic!("both hold it") };
        assert_eq!((holder.pid, holder.command.as_str()), (child.id(), "the other one"));
        assert!(holder.to_string().starts_with(&format!("process {} (`the other one`) for ", child.id())));
        assert!(is_held_by(&path, child.id()).unwrap());
        assert!(!is_held_by(&path, std::process::id()).unwrap(), "its content names another");
        // Killed, not asked: the lock falls with it, and its words no longer count.
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_held_by(&path, child.id()).unwrap(), "a dead process holds nothing");
        drop(taken(try_take(&path, "me").unwrap()));
    }

    #[test]
    fn waiting_ends_when_the_holder_dies_or_when_it_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut child = other(&path);
        let id = child.id();
        assert!(take(&path, "me", &mut |h| h.map(|h| h.pid) != Some(id)).unwrap().is_none(), "given up");
        let mut pauses = 0;
        let lock = take(&path, "me", &mut |_| {
            pauses += 1;
            if pauses == 2 {
                child.kill().unwrap();
            }
            true
        });
        child.wait().unwrap();
        assert!(lock.unwrap().is_some() && pauses >= 2);
    }

    #[test]
    fn a_lock_that_is_dropped_is_free_and_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let long = format!("a\n\u{1b}[0m{}", "x".repeat(9000));
        let lock = taken(try_take(&path, &long).unwrap());
        let Tried::Held(Some(h)) = try_take(&path, "me").unwrap() else { panic!("not held, or unnamed") };
        assert!(h.command.chars().count() == COMMAND && !h.command.contains(['\n', '\u{1b}']));
        assert!(is_held_by(&path, std::process::id()).unwrap());
        drop(lock);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        assert!(!is_held_by(&path, std::process::id()).unwrap());
        assert!(!is_held_by(&dir.path().join("none"), 1).unwrap());
        drop(taken(try_take(&path, "me").unwrap()));
    }

    #[test]
    fn content_that_is_not_a_holder_is_nobody_and_a_missing_folder_is_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let held = open(&path).unwrap();
        assert!(locked(&held).unwrap());
        for text in ["", "{}", "\u{0}\u{1}", r#"{"kind":"x","v":1,"pid":1,"since_ms":0,"command":""}"#] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(try_take(&path, "me").unwrap(), Tried::Held(None)), "{text}");
            assert!(!is_held_by(&path, 1).unwrap(), "{text}");
        }
        let e = try_take(&dir.path().join("no/such"), "me").unwrap_err().to_string();
        assert!(e.starts_with("cannot lock ") && e.contains("no/such"), "{e}");
    }
}
