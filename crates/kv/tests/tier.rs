//! The disk tier: what comes back is what went, or nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Fake, World, key, page_bytes, tokens};
use tamp_base::ids::PAGE;
use tamp_base::settings::Settings;
use tamp_kv::TierCtx;
use tamp_kv::tier::TABLE;

const LONG: Duration = Duration::from_secs(60);

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "kv1"));
    all.sort();
    all
}

/// A folder with the pages of these prompts.
fn filled(dir: &Path, prompts: &[u32]) {
    let mut world = World::new(64, common::disk(dir));
    for &p in prompts {
        world.tell(&tokens(p, 80));
    }
    assert!(world.kv.flush(&Fake, LONG));
}

#[test]
fn a_restart_finds_every_page_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), &[1, 2]);
    assert_eq!(files(dir.path()).len(), 10);
    let mut world = World::new(64, common::disk(dir.path()));
    for prompt in [1, 2] {
        let all = tokens(prompt, 90);
        assert_eq!(world.kv.lookup_disk(&key(), &all, 0), 5);
        assert_eq!(world.kv.lookup_disk(&key(), &all, 32), 3);
        assert_eq!(world.kv.restore(&Fake, &key(), &all, 2), 32);
        assert_eq!(world.kv.restore(&Fake, &key(), &all, usize::MAX), 80);
        world.check(&all, 80);
    }
    let other = tamp_kv::PrefixKey { hash: [9; 32], ..key() };
    assert_eq!(world.kv.lookup_disk(&other, &tokens(1, 90), 0), 0);
    assert_eq!(world.kv.tier().counts().loaded, 10);
    assert_eq!((world.kv.tier().acts().asked, world.kv.tier().acts().acted), (10, 10));
}

#[test]
fn a_page_that_comes_back_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), &[1]);
    let mut world = World::new(64, common::disk(dir.path()));
    world.kv.restore(&Fake, &key(), &tokens(1, 80), usize::MAX);
    world.tell(&tokens(1, 80));
    assert!(world.kv.flush(&Fake, LONG));
    assert_eq!(world.kv.tier().counts().saved, 0);
}

#[test]
fn restoring_makes_room_among_idle_pages_only() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), &[1, 2]);
    let mut world = World::new(8, common::disk(dir.path()));
    // Three pages in a sequence's hands, five left: four to restore push the idle ones out, the fifth has its place too.
    let held = world.open(&tokens(7, 40));
    world.tell(&tokens(8, 64));
    assert_eq!(world.kv.restore(&Fake, &key(), &tokens(1, 80), usize::MAX), 80);
    world.check(&tokens(1, 80), 80);
    assert_eq!(world.kv.len(held), 40);
    world.kv.integrity().unwrap();
    // No room for more than five: the chain does not evict its own beginning.
    let held2 = world.open(&tokens(6, 32));
    assert_eq!(world.kv.restore(&Fake, &key(), &tokens(2, 80), usize::MAX), 48);
    world.check(&tokens(2, 80), 48);
    world.kv.close(held2);
}

#[test]
fn copies_that_wait_are_run_before_a_page_is_saved_or_restored() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), &[1]);
    let mut world = World::new(64, common::disk(dir.path()));
    // The first row of a batch is refused: the others move down, and fill a page, when the copies run.
    let (all, id) = (tokens(2, 16), world.kv.open());
    world.kv.reserve(id, 17).unwrap();
    (0..16).for_each(|i| world.put(id, i + 1, &all[..=i]));
    world.kv.commit(id, &(1..17).collect::<Vec<_>>()).unwrap();
    assert_eq!(world.kv.publish(id, key(), &all), 1);
    assert!(world.kv.flush(&Fake, LONG));
    let mut again = World::new(64, common::disk(dir.path()));
    assert_eq!(again.kv.restore(&Fake, &key(), &all, 1), 16);
    again.check(&all, 16);
    // A twin's tail is to be copied from a page that is free by then, and the first to be used again.
    let all = tokens(3, 40);
    let one = world.open(&all);
    let twin = world.kv.fork(one).unwrap();
    world.kv.reserve(twin, 1).unwrap();
    world.kv.close(one);
    assert_eq!(world.kv.restore(&Fake, &key(), &tokens(1, 80), usize::MAX), 80);
    world.settle();
    world.holds(twin, &all);
    world.check(&tokens(1, 80), 80);
}

#[test]
fn no_flipped_bit_is_ever_used() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), &[1]);
    let originals: Vec<(PathBuf, Vec<u8>)> =
        files(dir.path()).into_iter().map(|p| (p.clone(), fs::read(&p).unwrap())).collect();
    let all = tokens(1, 80);
    let size = 1024 + page_bytes();
    for i in 0..200usize {
        // Every part of the header, and the payload.
        let (path, bytes) = &originals[i % originals.len()];
        let at = if i % 2 == 0 { (i * 5) % 1024 } else { (i * 7919) % size };
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (i % 8);
        fs::write(path, &bad).unwrap();
        let mut world = World::new(64, common::disk(dir.path()));
        let got = world.kv.restore(&Fake, &key(), &all, usize::MAX);
        assert!(got < 80, "flip {i} at {at} went unseen");
        world.check(&all, got);
        drop(world);
        assert!(!path.exists(), "flip {i} at {at}: the file is still there");
        fs::write(path, bytes).unwrap();
    }
    let mut world = World::new(64, common::disk(dir.path()));
    assert_eq!(world.kv.restore(&Fake, &key(), &all, usize::MAX), 80, "the originals are sound");
}

#[test]
fn truncated_swapped_and_foreign_files_are_misses() {
    let all = tokens(1, 80);
    type Spoil = (&'static str, fn(&[PathBuf]));
    let spoil: [Spoil; 9] = [
        ("empty", |f| fs::write(&f[0], b"").unwrap()),
        ("half a header", |f| cut(&f[0], 500)),
        ("header only", |f| cut(&f[0], 1024)),
        ("a byte short", |f| cut(&f[0], 1023 + page_bytes() as u64)),
        ("a byte long", |f| {
            let mut b = fs::read(&f[0]).unwrap();
            b.push(0);
            fs::write(&f[0], b).unwrap();
        }),
        ("another page's content", |f| {
            fs::copy(&f[1], &f[0]).map(drop).unwrap();
        }),
        ("somebody's text", |f| fs::write(&f[0], "hello ".repeat(9999)).unwrap()),
        ("a folder", |f| {
            fs::remove_file(&f[0]).unwrap();
            fs::create_dir(&f[0]).unwrap();
        }),
        ("nothing", |f| fs::remove_file(&f[0]).unwrap()),
    ];
    for (what, spoil) in spoil {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), &[1]);
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        fs::write(dir.path().join("0000.kv1"), "not a name of ours").unwrap();
        spoil(&files(dir.path())[1..]);
        let mut world = World::new(64, common::disk(dir.path()));
        let got = world.kv.restore(&Fake, &key(), &all, usize::MAX);
        assert!(got < 80, "{what}");
        world.check(&all, got);
        // What is computed again is kept again, in the place of what was wrong.
        world.tell(&all);
        world.kv.flush(&Fake, LONG);
        if what != "a folder" {
            let mut again = World::new(64, common::disk(dir.path()));
            assert_eq!(again.kv.restore(&Fake, &key(), &all, usize::MAX), 80, "{what}");
        }
        assert_eq!(fs::read(dir.path().join("notes.txt")).unwrap(), b"mine");
        assert!(dir.path().join("0000.kv1").exists(), "{what}");
    }
}

fn cut(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_folder_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), &[1]);
    let first = files(dir.path()).remove(0);
    fs::remove_file(&first).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&first).status().unwrap().success());
    let mut world = World::new(64, common::disk(dir.path()));
    let got = world.kv.restore(&Fake, &key(), &tokens(1, 80), usize::MAX);
    world.check(&tokens(1, 80), got);
    assert!(got < 80);
}

#[test]
fn pages_that_are_too_old_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), &[1]);
    let mut settings = common::settings(dir.path());
    settings.add_set("kv.tier.disk.ttl_s=1000", "test").unwrap();
    for (now, pages) in [(in_900 as fn() -> Duration, 5), (in_1100, 0)] {
        let tier = TABLE.open(&TierCtx { home: None, now }, &settings).unwrap().0;
        let mut world = World::new(64, tier);
        assert_eq!(world.kv.restore(&Fake, &key(), &tokens(1, 80), usize::MAX) / PAGE, pages);
        // The listing removes the others in its own time.
        for _ in 0..500 {
            if files(dir.path()).len() == pages {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(files(dir.path()).len(), pages);
    }
}

fn in_900() -> Duration {
    (TierCtx::default().now)() + Duration::from_secs(900)
}

fn in_1100() -> Duration {
    (TierCtx::default().now)() + Duration::from_secs(1100)
}

#[test]
fn the_folder_stays_under_its_cap_and_keeps_whole_beginnings() {
    let dir = tempfile::tempdir().unwrap();
    // Room for 7 pages of 1 MiB in all.
    let mut settings = common::settings(dir.path());
    settings.add_set("kv.tier.disk.mib=7", "test").unwrap();
    let page = common::page(1, 0);
    let bytes = vec![3u8; (1 << 20) - 1024];
    let mut tier = TABLE.open(&TierCtx::default(), &settings).unwrap().0;
    let chain = common::chain_of(20);
    for name in chain.iter().take(12) {
        assert!(tier.save(name, bytes.clone()));
        assert!(tier.flush(LONG));
        assert!(size(dir.path()) <= 7 << 20);
    }
    assert!(!tier.has(&page.key));
    let kept: Vec<u32> = chain.iter().filter(|n| tier.has(&n.key)).map(|n| n.index).collect();
    assert_eq!(kept.len(), 7);
    assert_eq!(kept[..6], [0, 1, 2, 3, 4, 5], "pages go from the end of a chain");
    assert_eq!(tier.counts().bytes, size(dir.path()));
    // One that is larger than the cap is not kept, and pushes nothing out.
    tier.save(&page, vec![0; 8 << 20]);
    assert!(tier.flush(LONG));
    assert_eq!(files(dir.path()).len(), 7);
}

fn size(dir: &Path) -> u64 {
    files(dir).iter().map(|f| fs::metadata(f).unwrap().len()).sum()
}

#[test]
fn a_folder_that_vanishes_or_cannot_be_made_is_one_sentence_and_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("cache");
    let mut world = World::new(64, common::disk(&below));
    world.tell(&tokens(1, 32));
    assert!(world.kv.flush(&Fake, LONG));
    assert_eq!(world.kv.tier().note(), None);
    fs::remove_dir_all(&below).unwrap();
    world.tell(&tokens(2, 32));
    assert!(!world.kv.flush(&Fake, LONG));
    let note = world.kv.tier().note().unwrap();
    assert!(note.contains("takes no pages for now") && note.contains("kv.tier.disk.dir"), "{note}");
    world.tell(&tokens(3, 32));
    world.kv.flush(&Fake, LONG);
    assert_eq!(world.kv.tier().note(), None, "said once");
    assert_eq!(world.kv.lookup_disk(&key(), &tokens(1, 32), 0), 2, "the index believes so");
    assert_eq!(world.kv.restore(&Fake, &key(), &tokens(9, 32), 9), 0);
    // A file where the folder should be.
    let taken = dir.path().join("taken");
    fs::write(&taken, "x").unwrap();
    let mut world = World::new(64, common::disk(&taken));
    world.tell(&tokens(1, 32));
    assert!(!world.kv.flush(&Fake, LONG));
    assert!(world.kv.tier().note().is_some());
    assert_eq!(world.kv.restore(&Fake, &key(), &tokens(1, 32), 9), 32, "memory still has them");
}

/// Seconds that have passed for the test below.
static LATER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

#[test]
fn writing_starts_again_when_the_folder_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let now = || {
        let later = LATER.load(std::sync::atomic::Ordering::Relaxed);
        (TierCtx::default().now)() + Duration::from_secs(later)
    };
    let wait = || LATER.fetch_add(61, std::sync::atomic::Ordering::Relaxed);
    let below = dir.path().join("cache");
    let mut tier = TABLE.open(&TierCtx { home: None, now }, &common::settings(&below)).unwrap().0;
    let chain = common::chain_of(5);
    let mut save =
        |n: usize| tier.save(&chain[n], vec![1; 100]).then(|| (tier.flush(LONG), tier.note().is_some()));
    assert_eq!(save(0), Some((true, false)));
    fs::remove_dir_all(&below).unwrap();
    assert_eq!(save(1), Some((false, true)));
    assert_eq!(save(1), None, "nothing is tried for a while");
    wait();
    assert_eq!(save(1), Some((false, false)), "said once");
    wait();
    fs::create_dir(&below).unwrap();
    assert_eq!(save(1), Some((true, false)));
    assert_eq!(files(&below).len(), 1);
    fs::remove_dir_all(&below).unwrap();
    assert_eq!(save(2), Some((false, true)), "news again");
}

#[test]
fn no_folder_at_all_is_refused_with_the_knob_to_set() {
    let mut settings = Settings::default();
    settings.add_use("kv.tier=disk", "test").unwrap();
    let e = TABLE.open(&TierCtx::default(), &settings).err().unwrap().to_string();
    assert_eq!(e, "`kv.tier.disk` cannot act here: no folder is known for it; set kv.tier.disk.dir");
    let dir = tempfile::tempdir().unwrap();
    let home = TierCtx { home: Some(dir.path().join("kv")), ..TierCtx::default() };
    assert!(TABLE.open(&home, &settings).is_ok());
}

#[test]
fn two_on_one_folder_read_each_others_pages() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (World::new(64, common::disk(dir.path())), World::new(64, common::disk(dir.path())));
    a.tell(&tokens(1, 80));
    b.tell(&tokens(1, 80));
    b.tell(&tokens(2, 80));
    assert!(a.kv.flush(&Fake, LONG) && b.kv.flush(&Fake, LONG));
    assert_eq!(files(dir.path()).len(), 10);
    let mut c = World::new(64, common::disk(dir.path()));
    for p in [1, 2] {
        assert_eq!(c.kv.restore(&Fake, &key(), &tokens(p, 80), usize::MAX), 80);
        c.check(&tokens(p, 80), 80);
    }
    // One's removals are the other's misses.
    files(dir.path()).iter().for_each(|f| fs::remove_file(f).unwrap());
    assert_eq!(b.kv.restore(&Fake, &key(), &tokens(1, 80), usize::MAX), 80, "memory has them");
    let mut d = World::new(64, common::disk(dir.path()));
    assert_eq!(d.kv.restore(&Fake, &key(), &tokens(1, 80), usize::MAX), 0);
}

#[test]
fn what_was_hot_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(64, common::disk(dir.path()));
    for i in 0..4 {
        world.tell(&[tokens(1, 48), tokens(50 + i, 32)].concat());
    }
    assert!(world.kv.flush(&Fake, LONG));
    let before = world.kv.hot(4);
    assert_eq!(before[0].tokens, tokens(1, 48));
    let mut again = World::new(64, common::disk(dir.path()));
    let hot = again.kv.hot(4);
    assert_eq!((&hot[0].tokens, hot[0].root, hot.len()), (&before[0].tokens, key(), before.len()));
    assert!((hot[0].uses - 4.0).abs() < 0.1, "{}", hot[0].uses);
    // Uses of now count on from there, and outlast the next restart.
    (0..3).for_each(|i| again.tell(&[tokens(1, 48), tokens(90 + i, 32)].concat()));
    assert!((again.kv.hot(1)[0].uses - 7.0).abs() < 0.1);
    again.kv.flush(&Fake, LONG);
    let third = World::new(64, common::disk(dir.path()));
    assert!((third.kv.hot(1)[0].uses - 7.0).abs() < 0.1);
    drop((world, again, third));
    let file = dir.path().join("hot.json");
    let good = fs::read(&file).unwrap();
    for i in 0..200 {
        let mut bad = good.clone();
        let at = i * 7919 % bad.len();
        bad[at] ^= 1 << (i % 8);
        fs::write(&file, &bad).unwrap();
        let world = World::new(64, common::disk(dir.path()));
        // A flip in the first line may leave its meaning as it was.
        assert!(world.kv.hot(9).is_empty() || at < 120, "flip at {at}");
    }
}

#[test]
fn a_full_queue_refuses_and_nothing_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(512, common::disk(dir.path()));
    world.tell(&tokens(1, 16 * 400));
    let given = world.kv.spill_idle(&Fake, usize::MAX);
    assert!((1..=400).contains(&given), "{given}");
    assert_eq!(world.kv.spill_idle(&Fake, 0), 0);
    assert!(world.kv.flush(&Fake, LONG));
    assert_eq!(files(dir.path()).len(), 400);
}
