//! The operator's list of keys: who may ask, how much, and with what weight.
//!
//! ```toml
//! [[key]]
//! name = "alice"
//! hash = "blake3:…"            # of the key; the key itself is nowhere
//! weight = 2.0                 # share of the machine beside the others
//! priority = 0                 # among equals higher goes first
//! max_running = 4              # sequences at once, 0 = no bound
//! requests_per_second = 10.0
//! tokens_per_minute = 60000    # prompt and answer
//! namespace = "team"           # who shares a prefix cache with her; default: nobody
//! ```
//!
//! A key is 256 random bits, so nobody guesses one from its hash however fast the hash is: a slow password hash would
//! only slow every request down.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Deserialize;
use tamp_base::ids::{Namespace, TenantId};
use tamp_engine::Who;

use crate::error::{ApiError, ServerError};

/// What every key begins with, so that a leaked one is recognised.
pub const PREFIX: &str = "tamp-";
/// Rows of a file.
const MOST: usize = 10_000;
/// Bytes of a file.
const MOST_BYTES: u64 = 8 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    hash: String,
    #[serde(default = "one")]
    weight: f32,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    max_running: usize,
    requests_per_second: Option<f64>,
    tokens_per_minute: Option<u32>,
    namespace: Option<String>,
}

fn one() -> f32 {
    1.0
}

/// A row: a tenant.
pub struct Row {
    /// the tenant's name
    pub name: Arc<str>,
    /// what the engine knows of it
    pub who: Who,
    hash: blake3::Hash,
    requests: Option<DefaultDirectRateLimiter>,
    tokens: Option<Tokens>,
}

/// A token bucket that may go into debt: what an answer takes is known when it is over, so a tenant is let in while
/// anything is left, pays what it took, and waits until the debt is gone.
struct Tokens {
    per_minute: f64,
    level: Mutex<(f64, Instant)>,
}

impl Tokens {
    fn new(per_minute: u32) -> Self {
        let per_minute = f64::from(per_minute);
        Self { per_minute, level: Mutex::new((per_minute, Instant::now())) }
    }

    /// Adds `change` to what has refilled by `now` and returns the level.
    fn turn(&self, change: f64, now: Instant) -> f64 {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let refill = now.saturating_duration_since(level.1).as_secs_f64() / 60.0 * self.per_minute;
        *level = ((level.0 + refill).min(self.per_minute) + change, now.max(level.1));
        level.0
    }

    fn wait(&self, now: Instant) -> Option<Duration> {
        let level = self.turn(0.0, now);
        (level <= 0.0).then(|| Duration::from_secs_f64((1.0 - level) / self.per_minute * 60.0))
    }
}

impl Row {
    /// Lets a request in, or says when to come back.
    pub fn admit(&self) -> Result<(), ApiError> {
        if let Some(limiter) = &self.requests
            && let Err(not_yet) = limiter.check()
        {
            let after = not_yet.wait_time_from(DefaultClock::default().now());
            let why = format!("`{}` has used up its requests per second", self.name);
            return Err(ApiError::too_many("rate_limit_exceeded", why, after));
        }
        if let Some(after) = self.tokens.as_ref().and_then(|t| t.wait(Instant::now())) {
            let why = format!("`{}` has used up its tokens per minute", self.name);
            return Err(ApiError::too_many("rate_limit_exceeded", why, after));
        }
        Ok(())
    }

    /// Pays for what an answer took.
    pub fn pay(&self, tokens: usize) {
        if let Some(t) = &self.tokens {
            t.turn(-(tokens as f64), Instant::now());
        }
    }
}

/// All rows.
pub struct Keys(Vec<Arc<Row>>);

/// The text that stands for a key in the file.
pub fn hash_text(key: &str) -> String {
    format!("blake3:{}", blake3::hash(key.as_bytes()).to_hex())
}

/// A fresh key from 32 random bytes.
pub fn key_of(random: [u8; 32]) -> String {
    let hex: String = random.iter().map(|b| format!("{b:02x}")).collect();
    format!("{PREFIX}{hex}")
}

/// The line block that makes a key known.
///
/// # Errors
/// A name that could not be a tenant's.
pub fn row_text(name: &str, key: &str) -> Result<String, String> {
    check_name(name)?;
    Ok(format!("\n[[key]]\nname = \"{name}\"\nhash = \"{}\"\n", hash_text(key)))
}

fn check_name(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) || name == ANONYMOUS {
        let got = crate::words::brief(name);
        return Err(format!("`{got}` is no name of a key: 1 to 64 letters, digits, `-`, `_`, `.`, `@`"));
    }
    Ok(())
}

/// Who asks where there are no keys.
pub const ANONYMOUS: &str = "anonymous";

impl Keys {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that cannot be read or understood, two rows of one name or hash, a number out of its range.
    pub fn open(path: &Path) -> Result<Keys, ServerError> {
        let fail = |why: String| ServerError::Keys { path: path.display().to_string(), why };
        let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
        if size > MOST_BYTES {
            return Err(fail(format!("{size} bytes are too many for a list of keys; at most {MOST_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        Keys::parse(&text).map_err(fail)
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// One sentence.
    pub fn parse(text: &str) -> Result<Keys, String> {
        let file: File = toml::from_str(text).map_err(|e| e.message().to_string())?;
        if file.key.is_empty() {
            return Err("there is no key in it; make one with `tamp keys add NAME --keys FILE`".into());
        }
        if file.key.len() > MOST {
            return Err(format!("{} keys are too many; at most {MOST}", file.key.len()));
        }
        let mut rows: Vec<Arc<Row>> = Vec::new();
        for (i, w) in file.key.into_iter().enumerate() {
            let row = row(w, TenantId(i as u32 + 1))?;
            if let Some(other) = rows.iter().find(|r| r.name == row.name || r.hash == row.hash) {
                return Err(format!("the keys `{}` and `{}` share a name or a hash", other.name, row.name));
            }
            rows.push(Arc::new(row));
        }
        Ok(Keys(rows))
    }

    /// The row of a key. Takes the same time whichever row it is, and whether it is any.
    pub fn find(&self, key: &str) -> Option<Arc<Row>> {
        let hash = blake3::hash(key.as_bytes());
        let mut found = None;
        for row in &self.0 {
            // The comparison of two hashes takes constant time.
            if row.hash == hash {
                found = Some(row.clone());
            }
        }
        found
    }

    /// All rows, in the file's order.
    pub fn rows(&self) -> &[Arc<Row>] {
        &self.0
    }
}

fn row(w: Written, tenant: TenantId) -> Result<Row, String> {
    check_name(&w.name)?;
    let hex = w.hash.strip_prefix("blake3:").unwrap_or("");
    let hash = blake3::Hash::from_hex(hex).map_err(|_| {
        format!("the hash of `{}` is not `blake3:` and 64 hex digits; `tamp keys add` writes one", w.name)
    })?;
    if !(w.weight > 0.0 && w.weight <= 1000.0) {
        return Err(format!("weight = {} of `{}` is out of range; above 0, up to 1000", w.weight, w.name));
    }
    let requests = w.requests_per_second.map(|r| quota(r, &w.name)).transpose()?.map(RateLimiter::direct);
    if w.tokens_per_minute == Some(0) {
        return Err(format!("tokens_per_minute = 0 of `{}` lets nothing through; at least 1", w.name));
    }
    let namespace = namespace(w.namespace.as_deref(), &w.name);
    let who = Who {
        tenant,
        weight: w.weight,
        most_running: w.max_running,
        priority: w.priority,
        namespace,
        ..Who::default()
    };
    let tokens = w.tokens_per_minute.map(Tokens::new);
    Ok(Row { name: w.name.into(), who, hash, requests, tokens })
}

/// Two rows with the same namespace share; a row without one is alone, whatever others call theirs.
fn namespace(given: Option<&str>, name: &str) -> Namespace {
    let mut h = blake3::Hasher::new();
    match given {
        Some(ns) => h.update(b"namespace\0").update(ns.as_bytes()),
        None => h.update(b"key\0").update(name.as_bytes()),
    };
    Namespace(*h.finalize().as_bytes())
}

/// A burst of one second, at least one request.
fn quota(per_second: f64, name: &str) -> Result<Quota, String> {
    let range =
        || format!("requests_per_second = {per_second} of `{name}` is out of range; from 0.001 to 100000");
    if !(0.001..=100_000.0).contains(&per_second) {
        return Err(range());
    }
    let burst = NonZeroU32::new(per_second.ceil() as u32).ok_or_else(range)?;
    let quota = Quota::with_period(Duration::from_secs_f64(1.0 / per_second)).ok_or_else(range)?;
    Ok(quota.allow_burst(burst))
}

/// Narrows a namespace by a request's `cache_salt`; without one it stays as it is.
pub fn salted(namespace: Namespace, salt: Option<&str>) -> Namespace {
    let Some(salt) = salt else { return namespace };
    let mut h = blake3::Hasher::new();
    h.update(b"salt\0").update(&namespace.0).update(salt.as_bytes());
    Namespace(*h.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(rows: &[(&str, &str, &str)]) -> String {
        rows.iter().map(|(name, key, more)| row_text(name, key).unwrap() + more + "\n").collect()
    }

    #[test]
    fn a_key_is_found_by_its_hash_alone_and_no_other_is() {
        let (a, b) = (key_of([1; 32]), key_of([2; 32]));
        let file = text(&[("alice", &a, "weight = 2.0"), ("bob", &b, "priority = 3")]);
        assert!(!file.contains(&a) && !file.contains(&b[PREFIX.len()..]), "the file holds a key");
        let keys = Keys::parse(&file).unwrap();
        let (alice, bob) = (keys.find(&a).unwrap(), keys.find(&b).unwrap());
        assert_eq!((&*alice.name, alice.who.weight, alice.who.tenant.0), ("alice", 2.0, 1));
        assert_eq!((&*bob.name, bob.who.priority, bob.who.tenant.0), ("bob", 3, 2));
        for wrong in ["", "tamp-", &a[..a.len() - 1], &hash_text(&a)] {
            assert!(keys.find(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn namespaces_are_shared_only_where_two_rows_say_so() {
        let rows = [
            ("alice", "1", "namespace = \"team\""),
            ("bob", "2", "namespace = \"team\""),
            ("carol", "3", ""),
            ("team", "4", ""),
            ("dave", "5", "namespace = \"carol\""),
        ];
        let keys = Keys::parse(&text(&rows)).unwrap();
        let of = |key| keys.find(key).unwrap().who.namespace;
        assert_eq!(of("1"), of("2"));
        let all = [of("1"), of("3"), of("4"), of("5"), Namespace::default()];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "{i} shares with another");
        }
        let salted_one = salted(of("1"), Some("x"));
        assert!(salted_one != of("1") && salted_one == salted(of("2"), Some("x")));
        assert!(salted_one != salted(of("3"), Some("x")) && salted(of("1"), None) == of("1"));
    }

    #[test]
    fn a_file_that_says_nonsense_is_refused_in_a_sentence() {
        let good = row_text("a", "k").unwrap();
        for (file, says) in [
            ("", "no key in it"),
            ("[[key]]\nname = \"a\"\n", "missing field `hash`"),
            ("[[key]]\nname = \"a\"\nhash = \"plain\"\n", "64 hex digits"),
            (&format!("{good}wieght = 2\n"), "unknown field `wieght`"),
            (&format!("{good}weight = 0\n"), "weight = 0"),
            (&format!("{good}weight = nan\n"), "weight = NaN"),
            (&format!("{good}requests_per_second = 0\n"), "requests_per_second"),
            (&format!("{good}tokens_per_minute = 0\n"), "tokens_per_minute"),
            (&format!("{good}{good}"), "share a name"),
            (&good.replace("\"a\"", "\"a b\""), "no name of a key"),
            (&good.replace("\"a\"", "\"anonymous\""), "no name of a key"),
        ] {
            let e = Keys::parse(file).err().unwrap_or_else(|| panic!("taken: {file}"));
            assert!(e.contains(says), "{e}");
        }
    }

    #[test]
    fn requests_beyond_the_rate_are_told_when_to_come_back() {
        let keys = Keys::parse(&text(&[("a", "k", "requests_per_second = 2")])).unwrap();
        let row = keys.find("k").unwrap();
        assert!(row.admit().is_ok() && row.admit().is_ok());
        let e = row.admit().unwrap_err();
        assert_eq!((e.status.as_u16(), e.code), (429, "rate_limit_exceeded"));
        assert!(e.retry_after.is_some_and(|d| d <= Duration::from_millis(500)), "{:?}", e.retry_after);
    }

    #[test]
    fn a_debt_of_tokens_is_waited_off() {
        let t = Tokens::new(600);
        let start = Instant::now();
        assert_eq!(t.wait(start), None);
        t.turn(-700.0, start);
        let wait = t.wait(start).unwrap();
        assert!((9.5..11.0).contains(&wait.as_secs_f64()), "{wait:?}");
        assert_eq!(t.wait(start + Duration::from_secs(11)), None);
        assert!(t.turn(0.0, start + Duration::from_secs(1000)) <= 600.0, "the bucket has a bottom and a rim");
    }
}
