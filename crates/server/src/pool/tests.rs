#![allow(clippy::unwrap_used)]
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use tamp_base::clock::ManualClock;
use tamp_base::settings::Settings;

use super::*;

/// A model that counts the bytes alive.
struct Fake {
    bytes: i64,
    alive: Arc<AtomicI64>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Loads {
    alive: Arc<AtomicI64>,
    most: AtomicI64,
    loads: AtomicUsize,
}

impl Loader<Fake> for Loads {
    /// `m3` takes 3 MB.
    fn forecast(&self, name: &str) -> Result<u64, String> {
        let mb: u64 = name[1..].split('-').next().unwrap().parse().map_err(|_| "no number".to_string())?;
        Ok(mb << 20)
    }

    fn load(&self, name: &str) -> Result<Fake, String> {
        std::thread::sleep(Duration::from_millis(2));
        match &name[..1] {
            "x" => return Err("the file is gone".into()),
            "p" => panic!("planted"),
            _ => {}
        }
        let bytes = self.forecast(name)? as i64;
        self.loads.fetch_add(1, Ordering::SeqCst);
        let now = self.alive.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.most.fetch_max(now, Ordering::SeqCst);
        Ok(Fake { bytes, alive: self.alive.clone() })
    }
}

fn pool(names: &[&str], cap_mb: u64, keep_s: u64) -> (Pool<Fake>, Arc<Loads>, Arc<ManualClock>) {
    let mut s = Settings::default();
    s.add_set(&format!("server.pool.lru.cap_mb={cap_mb}"), "test").unwrap();
    s.add_set(&format!("server.pool.lru.keep_s={keep_s}"), "test").unwrap();
    let knobs = Knobs::read("server.pool", &CARD, &s).unwrap();
    let (loads, clock) = (Arc::new(Loads::default()), Arc::new(ManualClock::default()));
    let aliases = BTreeMap::from([("gpt".to_string(), names[0].to_string())]);
    let names = names.iter().map(|n| n.to_string());
    (Pool::new(names, aliases, loads.clone(), clock.clone(), &knobs), loads, clock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_ask_a_model_is_loaded_once() {
    let (pool, loads, _) = pool(&["m1", "m2"], 0, 0);
    let asks: Vec<_> = (0..50)
        .map(|i| {
            let pool = pool.clone();
            tokio::spawn(async move {
                pool.acquire(if i % 2 == 0 { "m1" } else { "gpt" }).await.map(|l| l.name().to_string())
            })
        })
        .collect();
    for ask in asks {
        assert_eq!(ask.await.unwrap().unwrap(), "m1");
    }
    assert_eq!(loads.loads.load(Ordering::SeqCst), 1);
    assert!(pool.status().iter().all(|s| s.users == 0));
    let e = pool.acquire("m9").await.err().unwrap().to_string();
    assert_eq!(e, "there is no model `m9`; known: m1, m2, gpt");
}

#[tokio::test]
async fn the_least_recently_used_idle_model_goes_and_one_in_use_never_does() {
    let (pool, loads, clock) = pool(&["m2", "m2-b", "m3"], 5, 0);
    let a = pool.acquire("m2").await.unwrap();
    clock.advance(Duration::from_secs(1));
    drop(pool.acquire("m2-b").await.unwrap());
    clock.advance(Duration::from_secs(1));
    // m2 is older, but in use.
    let c = pool.acquire("m3").await.unwrap();
    let loaded = |p: &Pool<Fake>| -> Vec<String> {
        p.status().into_iter().filter(|s| s.loaded).map(|s| s.name).collect()
    };
    assert_eq!(loaded(&pool), ["m2", "m3"]);
    let e = pool.acquire("m2-b").await.err().unwrap();
    assert_eq!(e, PoolError::Full { name: "m2-b".into(), need_mb: 2, cap_mb: 5, used_mb: 5 });
    drop(a);
    drop(pool.acquire("m2-b").await.unwrap());
    drop(c);
    assert_eq!(loaded(&pool), ["m2-b", "m3"]);
    assert!(loads.most.load(Ordering::SeqCst) <= 5 << 20);
    assert_eq!(pool.counts().evicted, 2);
}

#[tokio::test]
async fn what_cannot_be_loaded_says_why_and_can_be_asked_again() {
    let (pool, _, _) = pool(&["x1", "p1", "m9"], 5, 0);
    for _ in 0..2 {
        let e = pool.acquire("x1").await.err().unwrap().to_string();
        assert_eq!(e, "model `x1` could not be loaded: the file is gone");
        assert!(pool.acquire("p1").await.err().unwrap().to_string().contains("panicked"));
        assert!(matches!(pool.acquire("m9").await.err().unwrap(), PoolError::TooLarge { need_mb: 9, .. }));
    }
    assert!(pool.status().iter().all(|s| s.users == 0 && !s.loaded && !s.loading && s.bytes == 0));
}

#[tokio::test]
async fn an_idle_model_goes_after_its_keep_alive_and_a_used_one_stays() {
    let (pool, loads, clock) = pool(&["m1", "m2"], 0, 60);
    let held = pool.acquire("m1").await.unwrap();
    drop(pool.acquire("m2").await.unwrap());
    clock.advance(Duration::from_secs(59));
    assert_eq!(pool.sweep(), 0);
    clock.advance(Duration::from_secs(1));
    assert_eq!(pool.sweep(), 1);
    assert_eq!(loads.alive.load(Ordering::SeqCst), 1 << 20);
    // Held without a lease, it is in use as well.
    let model = held.model();
    drop(held);
    clock.advance(Duration::from_secs(99));
    assert_eq!((pool.sweep(), model.bytes), (0, 1 << 20));
    drop(model);
    assert_eq!(pool.sweep(), 0, "the time counts from the last use");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_storm_with_leavers_the_cap_holds_and_every_user_is_counted_out() {
    let (pool, loads, clock) = pool(&["m1", "m2", "m3", "m2-b"], 5, 0);
    let names = ["m1", "m2", "m3", "m2-b", "gpt"];
    let tasks: Vec<_> = (0..200usize)
        .map(|i| {
            let (pool, clock) = (pool.clone(), clock.clone());
            tokio::spawn(async move {
                clock.advance(Duration::from_millis(1));
                let ask = pool.acquire(names[i * 7 % 5]);
                // Every third gives up at once or soon.
                let got = match i % 3 {
                    0 => tokio::time::timeout(Duration::from_micros(i as u64 * 20), ask).await.ok(),
                    _ => Some(ask.await),
                };
                if let Some(Ok(lease)) = got {
                    tokio::time::sleep(Duration::from_micros(300)).await;
                    assert!(lease.bytes > 0);
                }
            })
        })
        .collect();
    for t in tasks {
        t.await.unwrap();
    }
    // Loads that nobody waits for any more still end.
    while pool.status().iter().any(|s| s.loading) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(pool.status().iter().all(|s| s.users == 0), "{:?}", pool.status());
    assert!(loads.most.load(Ordering::SeqCst) <= 5 << 20);
    assert!(loads.loads.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn a_lease_of_a_standing_model_waits_for_nobody() {
    let (pool, _, _) = pool(&["m1"], 0, 0);
    drop(pool.acquire("m1").await.unwrap());
    let n = 100_000u32;
    let start = std::time::Instant::now();
    for _ in 0..n {
        drop(std::hint::black_box(pool.acquire("m1").await.unwrap()));
    }
    let each = start.elapsed() / n;
    println!("{each:?} per acquire and release");
    assert!(each < Duration::from_micros(20), "{each:?}");
}
