//! Processes: what this one has taken, and asking another to end.

use std::time::Duration;

/// Processor time that all threads of this process have taken, in user and kernel; its children not counted. `None`
/// where the system does not say.
pub fn cpu_time() -> Option<Duration> {
    #[cfg(unix)]
    {
        // SAFETY: an all-zero rusage is a value of it, and the call writes one whole through a pointer that is valid.
        let (done, used) = unsafe {
            let mut used: libc::rusage = std::mem::zeroed();
            (libc::getrusage(libc::RUSAGE_SELF, &mut used) == 0, used)
        };
        let of = |t: libc::timeval| {
            Some(Duration::new(t.tv_sec.try_into().ok()?, u32::try_from(t.tv_usec).ok()?.checked_mul(1000)?))
        };
        if done { of(used.ru_utime)?.checked_add(of(used.ru_stime)?) } else { None }
    }
    #[cfg(not(unix))]
    None
}

/// Asks a process to end (SIGTERM); false where there is no such process, no right to do so, or no such request. The id
/// must be of a child that was not waited for, so that it cannot be another's by now.
pub fn terminate(id: u32) -> bool {
    #[cfg(unix)]
    {
        // Ids of 0 and below mean groups.
        let Some(id) = libc::pid_t::try_from(id).ok().filter(|&id| id > 0) else { return false };
        // SAFETY: takes numbers only.
        unsafe { libc::kill(id, libc::SIGTERM) == 0 }
    }
    #[cfg(not(unix))]
    {
        let _ = id;
        false
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn work_shows_as_processor_time_and_sleep_does_not() {
        let before = cpu_time().unwrap();
        let mut x = 1u64;
        while cpu_time().unwrap() - before < Duration::from_millis(20) {
            (0..10_000).for_each(|i| x = std::hint::black_box(x.wrapping_mul(i | 1)));
        }
        assert!(x != 0 || cpu_time().unwrap() > before);
    }

    #[test]
    fn a_child_that_is_asked_to_end_ends_by_that_signal() {
        use std::os::unix::process::ExitStatusExt;
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(terminate(child.id()));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert!(!terminate(0), "a group of processes is not a child");
    }
}
