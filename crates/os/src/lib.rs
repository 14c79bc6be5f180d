//! The only place that talks to the operating system: maps, huge memory, affinity, cgroups, locks.
//!
//! Nothing outside this crate uses `libc`, `cfg(target_os)` or unsafe calls to the system. Every call has a
//! portable fallback: where the system cannot answer, the answer is `None`, `false` or 0, as each item documents,
//! and nothing else changes.

pub mod arena;
mod cgroup;
pub mod cpu;
pub mod held;
pub mod lock;
pub mod map;
pub mod mem;
pub mod memory;
pub mod private;
pub mod process;

/// Held by tests that count the memory of the whole process, so that they do not count each other's.
#[cfg(test)]
static HEAVY: std::sync::Mutex<()> = std::sync::Mutex::new(());
