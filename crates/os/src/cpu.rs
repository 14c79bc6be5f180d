//! Which cores this process may use, and on which one a thread runs.

use std::sync::OnceLock;
use std::time::Duration;

use crate::cgroup;

/// Ids of the logical processors this process may run on, ascending and never empty.
///
/// Asked of the system once, before this crate pins any thread, so that a pinned thread still sees all of them.
/// Where the system has no affinity, `0..n` for the n it offers.
pub fn allowed_cpus() -> Vec<usize> {
    process_cpus().to_vec()
}

fn process_cpus() -> &'static [usize] {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    CPUS.get_or_init(|| {
        affinity().filter(|c| !c.is_empty()).unwrap_or_else(|| {
            (0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).collect()
        })
    })
}

/// CPU time as a number of cores that the control groups grant; `None` without a limit. Linux only.
pub fn cgroup_quota() -> Option<f64> {
    let of = |dir: &cgroup::Dir| {
        if dir.v2 {
            cgroup::parse_cpu_max(&std::fs::read_to_string(dir.path.join("cpu.max")).ok()?)
        } else {
            let quota = cgroup::number(dir, "cpu.cfs_quota_us")?;
            let period = cgroup::number(dir, "cpu.cfs_period_us").filter(|&p| p > 0)?;
            (quota > 0).then(|| quota as f64 / period as f64)
        }
    };
    cgroup::dirs("cpu").iter().filter_map(of).reduce(f64::min)
}

/// One allowed logical processor per physical core, ascending: the places where threads do not share an arithmetic
/// unit. Where the system does not tell siblings apart, every allowed processor counts as a core.
pub fn core_cpus() -> Vec<usize> {
    let siblings = |cpu: usize| {
        let base = format!("/sys/devices/system/cpu/cpu{cpu}/topology/");
        let read = |name: &str| std::fs::read_to_string(format!("{base}{name}")).ok();
        let text = if cfg!(target_os = "linux") {
            read("core_cpus_list").or_else(|| read("thread_siblings_list"))
        } else {
            None
        };
        text.map(|t| parse_cpu_list(&t)).unwrap_or_default()
    };
    first_of_each_core(process_cpus(), siblings)
}

fn first_of_each_core(allowed: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
    let mut taken = std::collections::HashSet::new();
    let mut out = Vec::new();
    for &cpu in allowed {
        if taken.insert(cpu) {
            out.push(cpu);
            taken.extend(siblings(cpu));
        }
    }
    out
}

/// Physical cores this process may really keep busy: affinity, siblings counted once, whole cores of the quota.
/// At least 1.
///
/// A quota of 1.5 cores counts as 1: two threads that wait for each other would be throttled together.
pub fn usable_cores() -> usize {
    let cores = core_cpus().len();
    let granted = cgroup_quota().map_or(usize::MAX, |q| q.floor() as usize);
    cores.min(granted).max(1)
}

/// Keeps the calling thread on one logical processor; false where the system refuses or has no such call.
///
/// Threads that this one starts afterwards inherit the restriction; [`unpin`] lifts it.
pub fn pin_to(cpu: usize) -> bool {
    process_cpus();
    set_affinity(&[cpu])
}

/// Lets the calling thread run on every processor the process may use; false where the system refuses.
pub fn unpin() -> bool {
    set_affinity(process_cpus())
}

/// Puts the calling thread behind all others: it gets a processor only where nobody else wants one. False where the
/// system refuses or has no such call. There is no way back.
pub fn stand_back() -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: an all-zero sched_param is a value of it, and the call only reads it; 0 is the calling thread.
        unsafe {
            let param: libc::sched_param = std::mem::zeroed();
            libc::sched_setscheduler(0, libc::SCHED_IDLE, &param) == 0
        }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// The logical processor the calling thread runs on at this moment; `None` where the system does not say.
pub fn current_cpu() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: takes no argument and touches no memory of ours.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Bytes of the last-level cache that the first allowed processor sees; `None` where the system does not say.
pub fn last_level_cache() -> Option<u64> {
    let cpu = process_cpus().first()?;
    let size = |index: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/cache/index{index}/size");
        let text = std::fs::read_to_string(path).ok()?;
        let text = text.trim();
        let (digits, unit) = match text.as_bytes().last()? {
            b'K' => (&text[..text.len() - 1], 1 << 10),
            b'M' => (&text[..text.len() - 1], 1 << 20),
            _ => (text, 1),
        };
        digits.parse::<u64>().ok()?.checked_mul(unit)
    };
    (0..8).filter_map(size).max()
}

/// The processor's name as its maker writes it, or the architecture's name.
pub fn model_name() -> String {
    let named = brand().or_else(system_name).unwrap_or_default();
    let words: Vec<&str> = named.split_whitespace().collect();
    if words.is_empty() { ARCH.to_owned() } else { words.join(" ") }
}

const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "x86-64"
} else if cfg!(target_arch = "aarch64") {
    "aarch64"
} else {
    "unknown processor"
};

#[cfg(target_arch = "x86_64")]
fn brand() -> Option<String> {
    use std::arch::x86_64::__cpuid;
    let leaf = |l| __cpuid(l);
    if leaf(0x8000_0000).eax < 0x8000_0004 {
        return None;
    }
    let mut bytes = Vec::with_capacity(48);
    for l in 0x8000_0002..=0x8000_0004 {
        let r = leaf(l);
        for word in [r.eax, r.ebx, r.ecx, r.edx] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

#[cfg(not(target_arch = "x86_64"))]
fn brand() -> Option<String> {
    None
}

/// The name that the system rather than the processor knows.
fn system_name() -> Option<String> {
    #[cfg(target_os = "macos")]
    {
        let mut buf = [0u8; 256];
        let mut len = buf.len();
        // SAFETY: the name is a C string, `buf` has `len` writable bytes, and nothing is set.
        let rc = unsafe {
            libc::sysctlbyname(
                c"machdep.cpu.brand_string".as_ptr(),
                buf.as_mut_ptr().cast(),
                &mut len,
                std::ptr::null_mut(),
                0,
            )
        };
        let text = std::ffi::CStr::from_bytes_until_nul(&buf).ok()?;
        return (rc == 0).then(|| text.to_string_lossy().into_owned());
    }
    #[cfg(not(target_os = "macos"))]
    {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        let value = |key: &str| {
            text.lines()
                .find_map(|l| Some(l.strip_prefix(key)?.trim_start().strip_prefix(':')?.trim().to_owned()))
        };
        value("model name").or_else(|| {
            let (maker, part) = (value("CPU implementer")?, value("CPU part")?);
            Some(format!("{ARCH} maker {maker} part {part}"))
        })
    }
}

/// The processor time one thread has used, readable from any thread while that thread lives.
///
/// It tells a thread that works from one that waits for its turn on a processor.
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock {
    #[cfg(target_os = "linux")]
    id: libc::clockid_t,
}

impl ThreadClock {
    /// The clock of the calling thread; `None` where the system has none.
    pub fn of_this_thread() -> Option<ThreadClock> {
        #[cfg(target_os = "linux")]
        {
            let mut id = 0;
            // SAFETY: pthread_self is always a live thread, and `id` is ours to write.
            let rc = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut id) };
            (rc == 0).then_some(ThreadClock { id })
        }
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Processor time used so far; `None` once the thread has ended.
    pub fn read(&self) -> Option<Duration> {
        #[cfg(target_os = "linux")]
        {
            let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: `at` is ours to write; an id of an ended thread is refused with an error.
            let rc = unsafe { libc::clock_gettime(self.id, &mut at) };
            (rc == 0).then(|| Duration::new(at.tv_sec as u64, at.tv_nsec as u32))
        }
        #[cfg(not(target_os = "linux"))]
        None
    }
}

/// Bits of the largest mask asked for; Linux is built for at most 8192 processors.
#[cfg(target_os = "linux")]
const MASK_WORDS: usize = 8192 / 64;

#[cfg(target_os = "linux")]
fn affinity() -> Option<Vec<usize>> {
    let mut mask = [0u64; MASK_WORDS];
    // SAFETY: the kernel writes at most the given number of bytes into `mask`, which has them.
    let rc = unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
    (rc == 0).then(|| (0..MASK_WORDS * 64).filter(|&c| mask[c / 64] >> (c % 64) & 1 == 1).collect())
}

#[cfg(not(target_os = "linux"))]
fn affinity() -> Option<Vec<usize>> {
    None
}

#[cfg(target_os = "linux")]
fn set_affinity(cpus: &[usize]) -> bool {
    let mut mask = [0u64; MASK_WORDS];
    for &c in cpus {
        match mask.get_mut(c / 64) {
            Some(word) => *word |= 1 << (c % 64),
            None => return false,
        }
    }
    // SAFETY: the kernel reads the given number of bytes of `mask`, which has them.
    unsafe { libc::sched_setaffinity(0, size_of_val(&mask), mask.as_ptr().cast()) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn set_affinity(_cpus: &[usize]) -> bool {
    false
}

/// Reads "0-3,8,10-11"; parts that are no ranges are left out.
fn parse_cpu_list(text: &str) -> Vec<usize> {
    let mut out = Vec::new();
    for part in text.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<usize>(), to.parse::<usize>()) {
            out.extend((from..=to).take(8192));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read_and_nonsense_is_left_out() {
        assert_eq!(parse_cpu_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_cpu_list(""), []);
        assert_eq!(parse_cpu_list("x,-,3-1,5"), [5]);
        assert!(parse_cpu_list("0-18446744073709551615").len() <= 8192);
    }

    #[test]
    fn siblings_count_as_one_core() {
        let pairs = |cpu: usize| vec![cpu % 4, cpu % 4 + 4];
        assert_eq!(first_of_each_core(&[0, 1, 2, 3, 4, 5, 6, 7], pairs), [0, 1, 2, 3]);
        assert_eq!(first_of_each_core(&[1, 5, 6], pairs), [1, 6]);
        assert_eq!(first_of_each_core(&[0, 9], |_| vec![]), [0, 9]);
    }

    #[test]
    fn there_is_always_a_core_and_never_more_than_allowed() {
        let allowed = allowed_cpus();
        assert!(!allowed.is_empty());
        assert!((1..=allowed.len()).contains(&usable_cores()));
        assert!(cgroup_quota().is_none_or(|q| q > 0.0));
        assert!(!model_name().is_empty());
        assert!(last_level_cache().is_none_or(|b| b >= 1 << 10));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pinned_thread_runs_there_and_still_sees_all_allowed() {
        std::thread::spawn(|| {
            let all = allowed_cpus();
            for &cpu in &all {
                if pin_to(cpu) {
                    std::thread::yield_now();
                    assert_eq!(current_cpu(), Some(cpu));
                    assert_eq!(affinity().unwrap(), [cpu]);
                }
            }
            assert_eq!(allowed_cpus(), all);
            assert!(unpin());
            assert_eq!(affinity().unwrap(), all);
            assert!(!pin_to(usize::MAX));
            assert!(!pin_to(8191));
        })
        .join()
        .unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_stands_back_stands_back_alone() {
        // SAFETY: 0 is the calling thread; nothing is written.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let mine = policy();
        std::thread::spawn(move || {
            assert!(stand_back());
            assert_eq!(policy(), libc::SCHED_IDLE);
        })
        .join()
        .unwrap();
        assert_eq!(policy(), mine);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_clock_runs_while_its_thread_works_and_rests_while_it_sleeps() {
        let clock = ThreadClock::of_this_thread().unwrap();
        let at = std::time::Instant::now();
        let start = clock.read().unwrap();
        while at.elapsed() < Duration::from_millis(20) {}
        let worked = clock.read().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let slept = std::thread::spawn(move || clock.read()).join().unwrap().unwrap();
        assert!(worked > start);
        assert!(slept - worked < Duration::from_millis(5), "{slept:?} {worked:?}");
    }
}
