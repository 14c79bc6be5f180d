//! Several models behind names: each is loaded when first asked for, once however many ask, and stays until others need
//! its memory or nobody has asked for a while. A model in use is never let go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::Serialize;
use tamp_base::card::{Card, Effect, Knob, KnobKind, Knobs};
use tamp_base::clock::Clock;
use tokio::sync::watch;

use crate::error::ApiError;
use crate::model::{Later, Listed, Models, Served};

/// The card of [`Pool`].
pub static CARD: Card = Card {
    name: "lru",
    aka: "ModelPool (wave 21/22)",
    about: "models are loaded when asked for and let go, least recently used first, when memory is wanted",
    paper: "",
    claim: "GPU idle time: LRU eviction",
    effect: Effect::Service,
    needs: &[],
    knobs: &[
        Knob {
            name: "cap_mb",
            about: "memory of all loaded models, MB; 0 = no bound",
            kind: KnobKind::Int(0, 1 << 40),
            default: "0",
        },
        Knob {
            name: "keep_s",
            about: "an idle model is let go after so many seconds; 0 = never",
            kind: KnobKind::Int(0, 1 << 32),
            default: "0",
        },
    ],
};

/// Brings models into memory. Called on threads that may block.
pub trait Loader<M>: Send + Sync + 'static {
    /// Bytes the model will take when loaded and in full use; asked before anything is let go for it.
    fn forecast(&self, name: &str) -> Result<u64, String>;
    /// Loads it. An error is one sentence.
    fn load(&self, name: &str) -> Result<M, String>;
}

/// Why a model cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// No such name.
    #[error("there is no model `{name}`; known: {known}")]
    Unknown {
        /// what was asked
        name: String,
        /// the known ones
        known: String,
    },
    /// Everything that could make room is in use.
    #[error(
        "model `{name}` needs {need_mb} MB, of {cap_mb} MB for models {used_mb} MB are in use; try again later"
    )]
    Full {
        /// what was asked
        name: String,
        /// its forecast
        need_mb: u64,
        /// the bound
        cap_mb: u64,
        /// taken by models in use
        used_mb: u64,
    },
    /// It could never fit.
    #[error(
        "model `{name}` needs {need_mb} MB, more than the {cap_mb} MB for all models; raise server.pool.lru.cap_mb"
    )]
    TooLarge {
        /// what was asked
        name: String,
        /// its forecast
        need_mb: u64,
        /// the bound
        cap_mb: u64,
    },
    /// Loading failed.
    #[error("model `{name}` could not be loaded: {why}")]
    Load {
        /// what was asked
        name: String,
        /// the reason
        why: String,
    },
}

/// How a model stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// its name
    pub name: String,
    /// in memory
    pub loaded: bool,
    /// being brought
    pub loading: bool,
    /// bytes taken, as forecast
    pub bytes: u64,
    /// leases out
    pub users: usize,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// leases given for a model that stood
    pub hits: u64,
    /// loads begun
    pub loads: u64,
    /// models let go to make room
    pub evicted: u64,
    /// models let go because nobody asked
    pub expired: u64,
}

type Outcome<M> = Option<Result<Arc<M>, PoolError>>;

enum Slot<M> {
    Empty,
    Loading { told: watch::Receiver<Outcome<M>>, bytes: u64 },
    Ready { model: Arc<M>, bytes: u64 },
}

impl<M> Slot<M> {
    /// It stands, and nobody but the pool holds it.
    fn is_idle(&self) -> bool {
        matches!(self, Slot::Ready { model, .. } if Arc::strong_count(model) == 1)
    }
}

struct Entry<M> {
    slot: Slot<M>,
    /// leases out and on their way
    users: usize,
    used: Duration,
}

struct State<M> {
    entries: BTreeMap<String, Entry<M>>,
    counts: Counts,
    /// bytes of models that were let go and are not yet out of memory
    leaving: u64,
}

struct Inner<M> {
    state: Mutex<State<M>>,
    aliases: BTreeMap<String, String>,
    loader: Arc<dyn Loader<M>>,
    clock: Arc<dyn Clock>,
    cap: u64,
    keep: Option<Duration>,
}

/// The models of a server. Clones share it.
pub struct Pool<M: Send + Sync + 'static>(Arc<Inner<M>>);

impl<M: Send + Sync + 'static> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Pool(self.0.clone())
    }
}

/// A model that stays while this lives.
pub struct Lease<M: Send + Sync + 'static> {
    model: Arc<M>,
    name: String,
    pool: Weak<Inner<M>>,
}

impl<M: Send + Sync> std::ops::Deref for Lease<M> {
    type Target = M;
    fn deref(&self) -> &M {
        &self.model
    }
}

impl<M: Send + Sync> Lease<M> {
    /// The model itself; it stays as long as somebody holds this.
    pub fn model(&self) -> Arc<M> {
        self.model.clone()
    }

    /// The name it is known under, aliases resolved.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<M: Send + Sync> Drop for Lease<M> {
    fn drop(&mut self) {
        if let Some(inner) = self.pool.upgrade() {
            inner.release(&self.name);
        }
    }
}

/// Undoes a user that counted itself in and got no lease: an asker may leave while it waits.
struct Asking<'a, M: Send + Sync + 'static> {
    pool: &'a Inner<M>,
    name: &'a str,
    armed: bool,
}

impl<M: Send + Sync> Drop for Asking<'_, M> {
    fn drop(&mut self) {
        if self.armed {
            self.pool.release(self.name);
        }
    }
}

impl<M: Send + Sync> Inner<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, name: &str) {
        let now = self.clock.now();
        if let Some(e) = self.lock().entries.get_mut(name) {
            (e.users, e.used) = (e.users.saturating_sub(1), now);
        }
    }

    /// Takes idle models out, least recently used first, until `need` bytes fit; all or nothing.
    fn make_room(
        &self,
        state: &mut State<M>,
        name: &str,
        need: u64,
    ) -> Result<Vec<(Arc<M>, u64)>, PoolError> {
        let mb = |bytes: u64| bytes.div_ceil(1 << 20);
        let (cap_mb, need_mb) = (mb(self.cap), mb(need));
        if self.cap == 0 {
            return Ok(Vec::new());
        }
        if need > self.cap {
            return Err(PoolError::TooLarge { name: name.into(), need_mb, cap_mb });
        }
        let held = |s: &Slot<M>| match s {
            Slot::Empty => 0,
            Slot::Loading { bytes, .. } | Slot::Ready { bytes, .. } => *bytes,
        };
        let mut used: u64 = state.leaving + state.entries.values().map(|e| held(&e.slot)).sum::<u64>();
        let mut idle: Vec<(Duration, String, u64)> = state
            .entries
            .iter()
            .filter(|(_, e)| e.users == 0 && e.slot.is_idle())
            .map(|(n, e)| (e.used, n.clone(), held(&e.slot)))
            .collect();
        idle.sort();
        let mut go = Vec::new();
        for (_, n, bytes) in idle {
            if used.saturating_add(need) <= self.cap {
                break;
            }
            used -= bytes;
            go.push(n);
        }
        if used.saturating_add(need) > self.cap {
            return Err(PoolError::Full { name: name.into(), need_mb, cap_mb, used_mb: mb(used) });
        }
        state.counts.evicted += go.len() as u64;
        Ok(go.iter().filter_map(|n| take(state, n)).collect())
    }
}

/// Takes a loaded model out; its memory is counted as leaving until it is dropped.
fn take<M>(state: &mut State<M>, name: &str) -> Option<(Arc<M>, u64)> {
    let entry = state.entries.get_mut(name)?;
    match std::mem::replace(&mut entry.slot, Slot::Empty) {
        Slot::Ready { model, bytes } => {
            state.leaving += bytes;
            Some((model, bytes))
        }
        other => {
            entry.slot = other;
            None
        }
    }
}

impl<M: Send + Sync> Pool<M> {
    /// A pool of these names; `aliases` maps further names to them.
    pub fn new(
        names: impl IntoIterator<Item = String>,
        aliases: BTreeMap<String, String>,
        loader: Arc<dyn Loader<M>>,
        clock: Arc<dyn Clock>,
        knobs: &Knobs,
    ) -> Pool<M> {
        let empty = |n| (n, Entry { slot: Slot::Empty, users: 0, used: Duration::ZERO });
        let keep = knobs.int("keep_s").unsigned_abs();
        Pool(Arc::new(Inner {
            state: Mutex::new(State {
                entries: names.into_iter().map(empty).collect(),
                counts: Counts::default(),
                leaving: 0,
            }),
            aliases,
            loader,
            clock,
            cap: knobs.int("cap_mb").unsigned_abs() << 20,
            keep: (keep > 0).then(|| Duration::from_secs(keep)),
        }))
    }

    /// The model behind a name, loaded if it is not. Whoever waits may leave; the load goes on for the others.
    pub async fn acquire(&self, name: &str) -> Result<Lease<M>, PoolError> {
        let inner = &*self.0;
        let name = inner.aliases.get(name).map_or(name, String::as_str);
        let mut told = {
            let mut state = inner.lock();
            let Some(entry) = state.entries.get_mut(name) else {
                let known: Vec<&str> =
                    state.entries.keys().chain(inner.aliases.keys()).map(String::as_str).collect();
                return Err(PoolError::Unknown { name: name.into(), known: known.join(", ") });
            };
            entry.users += 1;
            match &entry.slot {
                Slot::Ready { model, .. } => {
                    let model = model.clone();
                    state.counts.hits += 1;
                    return Ok(self.lease(model, name));
                }
                Slot::Loading { told, .. } => told.clone(),
                Slot::Empty => {
                    let (tell, told) = watch::channel(None);
                    entry.slot = Slot::Loading { told: told.clone(), bytes: 0 };
                    state.counts.loads += 1;
                    let (pool, name) = (self.clone(), name.to_string());
                    drop(tokio::task::spawn_blocking(move || pool.bring(&name, &tell)));
                    told
                }
            }
        };
        let mut asking = Asking { pool: inner, name, armed: true };
        let gone = || PoolError::Load { name: name.into(), why: "loading broke off; this is a bug".into() };
        let outcome = told.wait_for(Option::is_some).await.map_err(|_| gone())?.clone();
        let model = outcome.unwrap_or_else(|| Err(gone()))?;
        asking.armed = false;
        Ok(self.lease(model, name))
    }

    fn lease(&self, model: Arc<M>, name: &str) -> Lease<M> {
        Lease { model, name: name.into(), pool: Arc::downgrade(&self.0) }
    }

    /// Loads a model and tells those who wait; on a thread that may block.
    fn bring(&self, name: &str, tell: &watch::Sender<Outcome<M>>) {
        // A loader that panics must not leave the name loading for ever.
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.try_bring(name)));
        let panicked =
            || PoolError::Load { name: name.into(), why: "the loader panicked; this is a bug".into() };
        let outcome = made.unwrap_or_else(|_| Err(panicked()));
        {
            let mut state = self.0.lock();
            if let Some(entry) = state.entries.get_mut(name) {
                let bytes = if let Slot::Loading { bytes, .. } = entry.slot { bytes } else { 0 };
                entry.slot = match &outcome {
                    Ok(model) => Slot::Ready { model: model.clone(), bytes },
                    Err(_) => Slot::Empty,
                };
                entry.used = self.0.clock.now();
            }
        }
        tell.send_replace(Some(outcome));
    }

    fn try_bring(&self, name: &str) -> Result<Arc<M>, PoolError> {
        let failed = |why| PoolError::Load { name: name.into(), why };
        let need = self.0.loader.forecast(name).map_err(failed)?;
        let go = {
            let mut state = self.0.lock();
            let go = self.0.make_room(&mut state, name, need)?;
            if let Some(Slot::Loading { bytes, .. }) = state.entries.get_mut(name).map(|e| &mut e.slot) {
                *bytes = need;
            }
            go
        };
        self.let_go(go);
        self.0.loader.load(name).map(Arc::new).map_err(failed)
    }

    /// Drops models; on a thread that may block, since an engine ends with its last owner.
    fn let_go(&self, models: Vec<(Arc<M>, u64)>) {
        for (model, bytes) in models {
            drop(model);
            let mut state = self.0.lock();
            state.leaving = state.leaving.saturating_sub(bytes);
        }
    }

    /// Lets models go that nobody has used for the keep-alive time; returns how many. May block.
    pub fn sweep(&self) -> usize {
        let (Some(keep), now) = (self.0.keep, self.0.clock.now()) else { return 0 };
        let gone: Vec<_> = {
            let mut state = self.0.lock();
            // Those that are held without a lease are in use now.
            for e in state.entries.values_mut().filter(|e| !e.slot.is_idle()) {
                e.used = now;
            }
            let old: Vec<String> = state
                .entries
                .iter()
                .filter(|(_, e)| e.users == 0 && e.slot.is_idle() && now.saturating_sub(e.used) >= keep)
                .map(|(n, _)| n.clone())
                .collect();
            old.iter().filter_map(|n| take(&mut state, n)).collect()
        };
        let n = gone.len();
        self.0.lock().counts.expired += n as u64;
        self.let_go(gone);
        n
    }

    /// How every model stands, by name.
    pub fn status(&self) -> Vec<Status> {
        let state = self.0.lock();
        let of = |(name, e): (&String, &Entry<M>)| {
            let (loaded, loading, bytes) = match &e.slot {
                Slot::Empty => (false, false, 0),
                Slot::Loading { bytes, .. } => (false, true, *bytes),
                Slot::Ready { bytes, .. } => (true, false, *bytes),
            };
            Status { name: name.clone(), loaded, loading, bytes, users: e.users }
        };
        state.entries.iter().map(of).collect()
    }

    /// The models that stand, by name.
    pub fn ready(&self) -> Vec<Arc<M>> {
        let of = |e: &Entry<M>| match &e.slot {
            Slot::Ready { model, .. } => Some(model.clone()),
            _ => None,
        };
        self.0.lock().entries.values().filter_map(of).collect()
    }

    /// Further names, each with the model's own.
    pub fn aliases(&self) -> &BTreeMap<String, String> {
        &self.0.aliases
    }

    /// Counters since the start.
    pub fn counts(&self) -> Counts {
        self.0.lock().counts
    }
}

/// A pool of served models is one of the ways to have models.
impl Models for Pool<Served> {
    fn get<'a>(&'a self, name: &'a str) -> Later<'a, Result<Arc<Served>, ApiError>> {
        Box::pin(async move { Ok(self.acquire(name).await?.model()) })
    }

    fn list(&self) -> Vec<Listed> {
        let ready: BTreeMap<Arc<str>, Arc<Served>> =
            self.ready().into_iter().map(|m| (m.name.clone(), m)).collect();
        let line = |s: Status| {
            let model = ready.get(s.name.as_str());
            Listed {
                created: model.map_or(0, |m| m.created),
                ctx: model.map_or(0, |m| m.handle.ctx()),
                loaded: model.is_some(),
                name: s.name.into(),
            }
        };
        self.status().into_iter().map(line).collect()
    }

    fn loaded(&self) -> Vec<Arc<Served>> {
        self.ready()
    }
}

impl From<PoolError> for ApiError {
    fn from(e: PoolError) -> Self {
        let soon = std::time::Duration::from_secs(5);
        match &e {
            PoolError::Unknown { .. } => {
                Self::status(axum::http::StatusCode::NOT_FOUND, "model_not_found", e.to_string()).at("model")
            }
            PoolError::Full { .. } => Self::unavailable("models_busy", e.to_string(), soon),
            PoolError::TooLarge { .. } | PoolError::Load { .. } => Self::internal(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
