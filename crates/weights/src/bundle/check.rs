//! Whether a bundle's bytes are the ones its manifest was written for: all at once, or behind the back of its user.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;

use tamp_os::held::Held;

use super::manifest::{Manifest, Section};
use super::{EAGER, HEADER, hash_while};
use crate::error::{Error, Result};

/// The error of a section whose bytes are not those that were written.
pub(crate) fn mismatch(path: Option<&Path>, section: &str) -> Error {
    let e = Error::Section { section: section.into() };
    match path {
        Some(p) => e.within(p),
        None => e,
    }
}

/// Hashes every section and holds the gaps between them to zero.
pub(crate) fn verify(
    manifest: &Manifest,
    file: &Held,
    path: Option<&Path>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let total = manifest.sections.iter().map(|s| s.length).sum();
    let mut done = 0;
    for s in &manifest.sections {
        let ok = matches(s, file, &mut |n| {
            done += n as u64;
            progress(done, total);
            true
        });
        if ok == Some(false) {
            return Err(mismatch(path, &s.name));
        }
    }
    let mut ends: Vec<(usize, usize)> =
        manifest.sections.iter().map(|s| (s.offset as usize, (s.offset + s.length) as usize)).collect();
    // The manifest is the file's end.
    let start =
        file.bytes().get(16..24).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes) as usize;
    ends.push((start, file.bytes().len()));
    ends.sort_unstable();
    let mut at = HEADER;
    for (start, end) in ends {
        if file.bytes().get(at..start).is_none_or(|gap| gap.iter().any(|&b| b != 0)) {
            return Err(mismatch(path, "padding"));
        }
        at = end;
    }
    Ok(())
}

/// `None` when told to stop.
fn matches(s: &Section, file: &Held, go_on: &mut dyn FnMut(usize) -> bool) -> Option<bool> {
    let bytes = &file.bytes()[s.offset as usize..(s.offset + s.length) as usize];
    hash_while(bytes, go_on).map(|h| h == s.blake3)
}

/// Tells whether a bundle in use is still good. Asked once per turn of the engine.
pub struct Watch {
    path: Option<PathBuf>,
    file: Arc<Held>,
    /// sections that are not hashed at every load
    late: Vec<Section>,
    fault: OnceLock<String>,
    checked: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// somebody waits: the thread behind leaves the work to them
    taken: AtomicBool,
}

impl Watch {
    pub(crate) fn new(path: Option<&Path>, file: &Arc<Held>, manifest: &Manifest) -> Arc<Watch> {
        let late = manifest.sections.iter().filter(|s| !EAGER.contains(&s.name.as_str())).cloned().collect();
        Arc::new(Watch {
            path: path.map(Into::into),
            file: Arc::clone(file),
            late,
            fault: OnceLock::new(),
            checked: AtomicBool::new(false),
            thread: Mutex::new(None),
            taken: AtomicBool::new(false),
        })
    }

    /// An error once a section was found changed, or the mapped file's length or time is another than at opening.
    /// Costs one call to the system.
    pub fn check(&self) -> Result<()> {
        if let Some(section) = self.fault.get() {
            return Err(mismatch(self.path.as_deref(), section));
        }
        match self.file.map() {
            Some(map) if !map.unchanged() => {
                Err(Error::Changed { path: self.path.clone().unwrap_or_default() })
            }
            _ => Ok(()),
        }
    }

    /// Every section was hashed and found good, before or behind.
    pub fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Acquire)
    }

    /// The caller has just verified the file.
    pub fn set_checked(&self) {
        self.checked.store(true, Ordering::Release);
    }

    /// Hashes what no load hashes on a thread that gets only time nobody else wants. A second call does nothing. The
    /// thread ends early when the bundle is dropped.
    pub fn check_behind(self: &Arc<Self>) {
        let mut slot = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() || self.is_checked() {
            return;
        }
        let weak = Arc::downgrade(self);
        // Without a thread the check is made where somebody waits for it.
        *slot = std::thread::Builder::new().name("tamp-hash".into()).spawn(move || behind(&weak, true)).ok();
    }

    /// Makes the check now where it has not ended behind; then answers like [`Watch::check`]. The thread behind is not
    /// waited for: on a busy machine it may get no time for minutes.
    pub fn settle(self: &Arc<Self>) -> Result<()> {
        self.taken.store(true, Ordering::Release);
        if !self.is_checked() && self.fault.get().is_none() {
            behind(&Arc::downgrade(self), false);
        }
        self.check()
    }
}

fn behind(watch: &Weak<Watch>, quiet: bool) {
    if quiet {
        // The pool's caller may be pinned, and its threads inherit the place.
        tamp_os::cpu::unpin();
        tamp_os::cpu::stand_back();
    }
    let Some((file, late)) = watch.upgrade().map(|w| (Arc::clone(&w.file), w.late.clone())) else { return };
    for s in &late {
        let mine = |w: Arc<Watch>| !(quiet && w.taken.load(Ordering::Acquire));
        match matches(s, &file, &mut |_| watch.upgrade().is_some_and(mine)) {
            Some(true) => {}
            Some(false) => {
                if let Some(w) = watch.upgrade() {
                    let _ = w.fault.set(s.name.clone());
                }
                return;
            }
            None => return,
        }
    }
    if let Some(w) = watch.upgrade() {
        w.set_checked();
    }
}
