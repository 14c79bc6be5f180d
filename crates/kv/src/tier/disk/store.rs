//! The folder: a queue towards one writer thread, which is the only one that writes, lists and removes by age or room.
//! Several processes may use one folder: a name says what is in the file, so it does not matter who wrote it.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use super::file::{self, Wrong};
use super::index::{Index, Row};
use crate::prefix::Hash;
use crate::tier::{PageName, TierCounts};

/// Pages that wait for the writer.
const QUEUE: usize = 16;
/// Seconds without a write after one has failed.
const PAUSE: u64 = 60;
/// Writes after which the folder is listed again, for what other processes did.
const RELIST: u32 = 256;
/// The writer looks for pages that are too old this often, and sooner when it writes.
const LOOK: Duration = Duration::from_secs(600);
/// Age of a temporary file that nobody writes any more, seconds.
const ABANDONED: u64 = 600;
/// A file's time of use is brought up to date when it is off by more, seconds.
const STALE: u64 = 60;
/// What a page's file is called behind its key.
const SUFFIX: &str = "kv1";

/// Folder and limits.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub dir: PathBuf,
    /// bytes of all files
    pub most: u64,
    /// seconds a page is kept after it was written
    pub ttl: u64,
    pub now: fn() -> Duration,
}

impl Place {
    fn secs(&self) -> u64 {
        (self.now)().as_secs()
    }

    pub fn path(&self, key: &Hash) -> PathBuf {
        self.dir.join(format!("{}.{SUFFIX}", file::hex(key)))
    }

    /// A name nobody else has: process ids repeat, in containers above all, and an abandoned file must block nobody.
    pub fn temp(&self, n: u64) -> PathBuf {
        self.dir.join(format!("{}-{}-{n}.tmp", std::process::id(), (self.now)().as_nanos()))
    }

    fn expired(&self, written: u64) -> bool {
        self.secs().saturating_sub(written) > self.ttl
    }
}

struct Job {
    page: PageName,
    payload: Vec<u8>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// keys in the queue or being written
    coming: HashSet<Hash>,
    index: Index,
    /// files whose time of use is to be written
    touched: Vec<Hash>,
    /// the folder was listed
    listed: bool,
    /// no writes before this time, seconds
    paused: u64,
    note: Option<String>,
    stop: bool,
    counts: TierCounts,
}

struct Shared {
    place: Place,
    state: Mutex<State>,
    /// the writer has something to do
    work: Condvar,
    /// the writer has done something
    done: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements that could panic.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

pub(super) struct Store {
    shared: Arc<Shared>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Store {
    /// Starts the writer. A folder that cannot be used makes a tier that is quiet, never an error.
    pub fn open(place: Place) -> Store {
        let shared =
            Arc::new(Shared { place, state: Mutex::default(), work: Condvar::new(), done: Condvar::new() });
        let of = shared.clone();
        let writer =
            std::thread::Builder::new().name("tamp-disk-cache".into()).spawn(move || write_loop(&of));
        if let Err(e) = &writer {
            let mut state = shared.lock();
            state.paused = u64::MAX;
            state.note = Some(format!("the disk cache writes nothing: its thread did not start ({e})"));
        }
        Store { shared, writer: writer.ok() }
    }

    pub fn place(&self) -> &Place {
        &self.shared.place
    }

    /// Pages the queue takes now.
    pub fn room(&self) -> usize {
        let state = self.shared.lock();
        if state.paused > self.shared.place.secs() { 0 } else { QUEUE - state.queue.len().min(QUEUE) }
    }

    /// Whether a page is there or on its way.
    pub fn has(&self, key: &Hash) -> bool {
        let state = self.shared.lock();
        let known = state.coming.contains(key)
            || state.index.get(key).is_some_and(|r| !self.shared.place.expired(r.written));
        // Until the folder is listed, its names are asked one by one.
        known || (!state.listed && self.shared.place.path(key).exists())
    }

    pub fn save(&self, page: &PageName, payload: Vec<u8>) -> bool {
        let mut state = self.shared.lock();
        if state.queue.len() >= QUEUE || state.paused > self.shared.place.secs() {
            return false;
        }
        if state.coming.insert(page.key) {
            state.queue.push_back(Job { page: *page, payload });
            self.shared.work.notify_one();
        }
        true
    }

    pub fn load(&self, page: &PageName, bytes: usize, out: &mut Vec<u8>) -> bool {
        out.clear();
        if let Some(job) =
            self.shared.lock().queue.iter().find(|j| j.page == *page && j.payload.len() == bytes)
        {
            out.extend_from_slice(&job.payload);
            return true;
        }
        let path = self.shared.place.path(&page.key);
        let read = file::read(&path, page, bytes, out);
        let now = self.shared.place.secs();
        let mut state = self.shared.lock();
        match read {
            Ok(said) if !self.shared.place.expired(said.written) => {
                let bytes = said.bytes + file::HEAD as u64;
                let (parent, index) = (page.parent, page.index);
                let used = state.index.get(&page.key).map_or(0, |r| r.used).max(now);
                if now.saturating_sub(state.index.get(&page.key).map_or(0, |r| r.used)) > STALE {
                    state.touched.push(page.key);
                    self.shared.work.notify_one();
                }
                state.index.put(page.key, Row { parent, index, bytes, used, written: said.written });
                state.counts.loaded += 1;
                true
            }
            wrong => {
                out.clear();
                state.index.remove(&page.key);
                match wrong {
                    Err(Wrong::Missing) => return false,
                    Err(Wrong::Damaged) => state.counts.damaged += 1,
                    Ok(_) => state.counts.expired += 1,
                }
                drop(state);
                let _ = std::fs::remove_file(path);
                false
            }
        }
    }

    /// Waits until the queue is written; whether it is.
    pub fn flush(&self, within: Duration) -> bool {
        let state = self.shared.lock();
        let busy = |s: &mut State| !s.coming.is_empty() && s.paused <= self.shared.place.secs();
        match self.shared.done.wait_timeout_while(state, within, busy) {
            Ok((state, _)) => state.coming.is_empty() && state.paused == 0,
            Err(_) => false,
        }
    }

    pub fn counts(&self) -> TierCounts {
        let state = self.shared.lock();
        TierCounts { pages: state.index.len(), bytes: state.index.bytes(), ..state.counts }
    }

    pub fn note(&self) -> Option<String> {
        self.shared.lock().note.take()
    }
}

impl Drop for Store {
    /// Ends the writer after the page it is at; who wants the queue written calls [`Store::flush`] before.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_loop(shared: &Shared) {
    if let Err(e) = tamp_os::private::create_dir(&shared.place.dir) {
        pause(shared, &mut shared.lock(), &e);
    }
    list(shared);
    for n in 0u64.. {
        let (job, touched) = {
            let idle = |s: &mut State| s.queue.is_empty() && s.touched.is_empty() && !s.stop;
            let Ok((mut state, timeout)) = shared.work.wait_timeout_while(shared.lock(), LOOK, idle) else {
                return;
            };
            if state.stop {
                return;
            }
            if timeout.timed_out() {
                drop(state);
                list(shared);
                continue;
            }
            (state.queue.pop_front(), std::mem::take(&mut state.touched))
        };
        for key in touched {
            // Without it the page's turn to go comes earlier after a restart: not worth a word.
            let time = UNIX_EPOCH + Duration::from_secs(shared.place.secs());
            let _ = std::fs::File::open(shared.place.path(&key)).and_then(|f| f.set_modified(time));
        }
        if let Some(job) = job {
            write(shared, &job, n);
            if n as u32 % RELIST == RELIST - 1 {
                list(shared);
            }
        }
    }
}

/// Writes a page, making room before.
fn write(shared: &Shared, job: &Job, n: u64) {
    let (place, now) = (&shared.place, shared.place.secs());
    let bytes = job.payload.len() as u64 + file::HEAD as u64;
    let there = shared.lock().index.get(&job.page.key).is_some_and(|r| !place.expired(r.written));
    let result = if there || bytes > place.most {
        None
    } else {
        evict(shared, place.most - bytes);
        let (temp, path) = (place.temp(n), place.path(&job.page.key));
        Some(file::write(&temp, &path, &job.page, &job.payload, now))
    };
    let mut state = shared.lock();
    state.coming.remove(&job.page.key);
    match result {
        Some(Ok(())) => {
            let (parent, index) = (job.page.parent, job.page.index);
            state.index.put(job.page.key, Row { parent, index, bytes, used: now, written: now });
            state.counts.saved += 1;
            state.paused = 0;
        }
        Some(Err(e)) => pause(shared, &mut state, &e),
        None => {}
    }
    shared.done.notify_all();
}

/// Stops writing for a while: what waits is forgotten, what is there can still be read.
fn pause(shared: &Shared, state: &mut State, e: &io::Error) {
    // Said once until a write succeeds: a full disk is one piece of news.
    if state.paused == 0 {
        let dir = shared.place.dir.display();
        state.note = Some(format!(
            "the disk cache in {dir} takes no pages for now: {e}; make room, or set kv.tier.disk.dir or .mib"
        ));
    }
    state.paused = shared.place.secs().saturating_add(PAUSE);
    state.queue.clear();
    state.coming.clear();
    shared.done.notify_all();
}

/// Removes pages until the files have at most `most` bytes, those that are too old first.
fn evict(shared: &Shared, most: u64) {
    let mut gone = Vec::new();
    {
        let mut state = shared.lock();
        if state.index.bytes() > most {
            gone = state.index.written_before(shared.place.secs().saturating_sub(shared.place.ttl));
            for key in &gone {
                state.index.remove(key);
            }
        }
        while state.index.bytes() > most
            && let Some(key) = state.index.oldest()
        {
            state.index.remove(&key);
            gone.push(key);
        }
        state.counts.expired += gone.len() as u64;
    }
    for key in gone {
        let _ = std::fs::remove_file(shared.place.path(&key));
    }
}

/// Compares the index with the folder: headers of files it does not know are read; what is gone, too old, abandoned or
/// damaged goes. Files with other names are none of ours.
fn list(shared: &Shared) {
    let place = &shared.place;
    let mut seen = HashSet::new();
    for entry in std::fs::read_dir(&place.dir).into_iter().flatten().flatten() {
        if shared.lock().stop {
            return;
        }
        let path = entry.path();
        let Some((key, used)) = ours(place, &path) else { continue };
        let known = shared.lock().index.get(&key).copied();
        let row = known.map(Ok).unwrap_or_else(|| {
            let said = file::peek(&path)?;
            if said.page.key != key {
                return Err(Wrong::Damaged);
            }
            let (parent, index) = (said.page.parent, said.page.index);
            Ok(Row { parent, index, bytes: said.bytes + file::HEAD as u64, used, written: said.written })
        });
        let mut state = shared.lock();
        match row {
            Ok(row) if !place.expired(row.written) => {
                // Loaded or written meanwhile: that row is the newer one.
                if state.index.get(&key).is_none() {
                    state.index.put(key, row);
                }
                seen.insert(key);
            }
            Err(Wrong::Missing) => {}
            wrong => {
                state.index.remove(&key);
                let counts = &mut state.counts;
                *(if wrong.is_ok() { &mut counts.expired } else { &mut counts.damaged }) += 1;
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    let mut state = shared.lock();
    // What another process wrote while this one was listing may have been loaded meanwhile.
    let gone = |k: &&Hash| !seen.contains(*k) && !place.path(k).exists();
    for key in state.index.keys().filter(gone).copied().collect::<Vec<_>>() {
        state.index.remove(&key);
    }
    state.index.settle();
    state.listed = true;
    drop(state);
    evict(shared, place.most);
}

/// Key and last use, seconds, of a page's file; removes temporary files nobody writes any more.
fn ours(place: &Place, path: &Path) -> Option<(Hash, u64)> {
    let (stem, suffix) = (path.file_stem()?.to_str()?, path.extension()?.to_str()?);
    let modified = || {
        let time = std::fs::symlink_metadata(path).ok()?.modified().ok()?;
        Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    match suffix {
        SUFFIX => Some((file::unhex(stem)?, modified()?.min(place.secs()))),
        "tmp" => {
            let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            let mine = stem.split('-').count() == 3 && stem.split('-').all(number);
            if mine && place.secs().saturating_sub(modified()?) > ABANDONED {
                let _ = std::fs::remove_file(path);
            }
            None
        }
        _ => None,
    }
}
