//! What this process uses and what it may use, in bytes.

use crate::cgroup;

/// Resident memory in bytes; all 0 where the system does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rss {
    /// Pages of its own: heap, stacks, private copies.
    pub anonymous: u64,
    /// Pages of mapped files (shared memory included), which the system can take back and other processes share.
    pub file: u64,
    /// Most of both together since the start or the last [`reset_peak`].
    pub peak: u64,
}

/// Resident memory now, from the kernel's running counters: some microseconds, but the counters may lag by some
/// hundred kilobytes per thread. Linux only.
pub fn rss() -> Rss {
    parse_status(&read("/proc/self/status"))
}

/// Like [`rss`], but counted page by page: exact, and some milliseconds per resident gigabyte. Linux only.
pub fn rss_exact() -> Rss {
    let counted = read("/proc/self/smaps_rollup");
    let quick = rss();
    match (kilobytes(&counted, "Rss:"), kilobytes(&counted, "Anonymous:")) {
        (Some(all), Some(anonymous)) => {
            Rss { anonymous, file: all.saturating_sub(anonymous), peak: quick.peak }
        }
        _ => quick,
    }
}

/// Starts [`Rss::peak`] anew from the present use; false where the system cannot.
pub fn reset_peak() -> bool {
    cfg!(target_os = "linux") && std::fs::write("/proc/self/clear_refs", b"5").is_ok()
}

/// The strictest memory limit of the control groups this process is in; `None` without one.
pub fn limit() -> Option<u64> {
    cgroup::dirs("memory").iter().filter_map(limit_of).min()
}

/// Gives memory that the allocator keeps free back to the system, so that [`rss`] counts what is in use; without
/// effect where the C library cannot.
pub fn give_back() {
    // SAFETY: takes no pointer, locks the allocator itself and releases whole pages of free blocks only.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Memory that can still be taken without swapping: what the system has free or can free, and what the control groups
/// leave. 0 where the system does not say.
pub fn available() -> u64 {
    let Some(free) = kilobytes(&read("/proc/meminfo"), "MemAvailable:") else { return 0 };
    cgroup::dirs("memory").iter().filter_map(headroom).fold(free, u64::min)
}

fn limit_of(dir: &cgroup::Dir) -> Option<u64> {
    let limit = cgroup::number(dir, if dir.v2 { "memory.max" } else { "memory.limit_in_bytes" })?;
    // Version 1 writes "none" as the largest count of pages.
    (limit < 1 << 60).then_some(limit)
}

fn headroom(dir: &cgroup::Dir) -> Option<u64> {
    let limit = limit_of(dir)?;
    let used = cgroup::number(dir, if dir.v2 { "memory.current" } else { "memory.usage_in_bytes" })?;
    let stat = std::fs::read_to_string(dir.path.join("memory.stat")).unwrap_or_default();
    // The page cache counts as use, but its inactive part goes first when memory runs short.
    let cache =
        cgroup::field(&stat, if dir.v2 { "inactive_file" } else { "total_inactive_file" }).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

fn read(path: &str) -> String {
    if cfg!(target_os = "linux") { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() }
}

fn parse_status(text: &str) -> Rss {
    let of = |key| kilobytes(text, key).unwrap_or(0);
    Rss { anonymous: of("RssAnon:"), file: of("RssFile:") + of("RssShmem:"), peak: of("VmHWM:") }
}

/// Bytes of a line "Key:   123 kB".
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_become_bytes() {
        let text = "VmHWM:\t    1668 kB\nVmRSS:\t 1 kB\nRssAnon:\t     108 kB\nRssFile:\t    1560 kB\nRssShmem:\t  4 kB\n";
        assert_eq!(parse_status(text), Rss { anonymous: 108 << 10, file: 1564 << 10, peak: 1668 << 10 });
        assert_eq!(parse_status("RssAnon: x kB"), Rss::default());
        assert_eq!(kilobytes("A: 18446744073709551615 kB", "A:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn touched_memory_shows_as_anonymous_and_in_the_peak() {
        let _alone = crate::HEAVY.lock();
        let before = rss_exact();
        let mut a = crate::mem::Aligned::<u8>::zeroed(96 << 20).unwrap();
        a.fill(3);
        let during = rss_exact();
        assert!(during.anonymous >= before.anonymous + (60 << 20), "{before:?} {during:?}");
        assert!(during.peak >= 96 << 20, "{during:?}");
        assert!(rss().anonymous > 60 << 20);
        drop(a);
        if reset_peak() {
            assert!(rss().peak < during.peak.max(96 << 20), "{:?} {during:?}", rss());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn available_memory_is_below_the_limit() {
        let have = available();
        assert!(have > 0);
        assert!(limit().is_none_or(|l| have <= l && l > 0));
    }
}
