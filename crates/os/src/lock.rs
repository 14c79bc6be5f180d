//! Exclusive advisory file locks.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// An exclusive lock on a file, held until dropped (or until the process ends, however it ends).
///
/// Advisory: it keeps out others that lock the same file, not those that merely write to it. The file is created when
/// missing, never written to and never removed: removing it would let two holders lock two different files of one
/// name.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Waits until the lock is free and takes it.
    pub fn lock(path: &Path) -> io::Result<FileLock> {
        let file = open(path)?;
        loop {
            match file.lock() {
                Ok(()) => return Ok(FileLock(file)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes the lock if it is free; `None` when someone else, or this process through another `FileLock`, holds it.
    pub fn try_lock(path: &Path) -> io::Result<Option<FileLock>> {
        let file = open(path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(FileLock(file))),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file would release it too; said aloud because a child process may hold a duplicate.
        let _ = self.0.unlock();
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_holder_at_a_time_and_the_next_gets_it_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let held = FileLock::try_lock(&path).unwrap().unwrap();
        assert!(FileLock::try_lock(&path).unwrap().is_none());
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || FileLock::lock(&path).map(drop))
        };
        std::thread::sleep(Duration::from_millis(30));
        assert!(!waiter.is_finished());
        drop(held);
        waiter.join().unwrap().unwrap();
        assert!(FileLock::try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn locking_keeps_the_files_content_and_a_missing_folder_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.lock");
        std::fs::write(&path, b"kept").unwrap();
        drop(FileLock::lock(&path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
        assert!(FileLock::try_lock(&dir.path().join("no/such")).is_err());
    }
}
