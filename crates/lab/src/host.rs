//! The machine a process ran on, and what else went on there meanwhile. Read from `/proc` and `/sys`; where they are
//! not, a fact is absent, and the gates that need it say that they could not look.

use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// processor, as it calls itself
    pub cpu: String,
    /// cores this process may use
    pub cores: usize,
    /// memory, 10⁹ bytes, rounded
    pub memory_gb: u64,
    /// operating system and kernel
    pub kernel: String,
    /// frequency governor of the first core; empty when it is not told
    pub governor: String,
}

impl Host {
    /// Looks around.
    pub fn here() -> Host {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|l| l.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        let kb =
            field(&text("/proc/meminfo"), "MemTotal").and_then(|v| v.split(' ').next()?.parse::<u64>().ok());
        Host {
            cpu: field(&text("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory_gb: (kb.unwrap_or(0) as f64 * 1024.0 / 1e9).round() as u64,
            kernel: [text("/proc/sys/kernel/ostype"), text("/proc/sys/kernel/osrelease")]
                .map(|t| t.trim().to_string())
                .join(" "),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim().to_string(),
        }
    }

    /// What figures may be carried between: processor, cores, memory.
    pub fn class(&self) -> String {
        format!("{} · {} cores · {} GB", self.cpu, self.cores, self.memory_gb)
    }
}

/// What else went on while a process ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quiet {
    /// processor time of programs that are not ours ÷ elapsed time: 1 is one whole core
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign_cpu: Option<f64>,
    /// processor time the hypervisor gave to others ÷ elapsed time × cores
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal: Option<f64>,
    /// thermal throttle events
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<u64>,
    /// 1-minute load when it started
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
}

/// Ticks of `/proc/stat` per second; fixed at 100 on every Linux that userland sees.
const HZ: f64 = 100.0;

/// A reading to compare a later one with.
#[derive(Clone, Debug)]
pub struct Reading {
    at: Instant,
    busy: Option<f64>,
    steal: Option<f64>,
    own: Option<f64>,
    throttled: Option<u64>,
    load: Option<f64>,
}

impl Reading {
    /// Reads the counters.
    pub fn now() -> Reading {
        let stat = fs::read_to_string("/proc/stat").ok().and_then(|t| times(&t));
        let load = fs::read_to_string("/proc/loadavg").ok().and_then(|t| t.split(' ').next()?.parse().ok());
        Reading {
            at: Instant::now(),
            busy: stat.map(|s| s.0),
            steal: stat.map(|s| s.1),
            own: fs::read_to_string("/proc/self/stat").ok().and_then(|t| own(&t)),
            throttled: throttled(),
            load,
        }
    }

    /// What went on since. Time of our own processes counts once they have been waited for.
    pub fn since(&self) -> Quiet {
        let now = Reading::now();
        let elapsed = (now.at - self.at).as_secs_f64().max(1e-3);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get()) as f64;
        let grew = |a: Option<f64>, b: Option<f64>| Some((b? - a?).max(0.0));
        let foreign = grew(self.busy, now.busy).zip(grew(self.own, now.own)).map(|(b, o)| (b - o).max(0.0));
        Quiet {
            foreign_cpu: foreign.map(|f| f / elapsed),
            steal: grew(self.steal, now.steal).map(|s| s / elapsed / cores),
            throttled: self.throttled.zip(now.throttled).map(|(a, b)| b.saturating_sub(a)),
            load: self.load,
        }
    }
}

/// Busy and stolen seconds of the first line of `/proc/stat`.
fn times(stat: &str) -> Option<(f64, f64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let t: Vec<f64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    let busy = t.first()? + t.get(1)? + t.get(2)? + t.get(5)? + t.get(6)?;
    Some((busy / HZ, t.get(7).copied().unwrap_or(0.0) / HZ))
}

/// Seconds of this process and of the children it has waited for, out of `/proc/self/stat`.
fn own(stat: &str) -> Option<f64> {
    // The name in parentheses may hold spaces and parentheses.
    let rest: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let ticks: f64 = rest.get(11..15)?.iter().filter_map(|n| n.parse::<f64>().ok()).sum();
    Some(ticks / HZ)
}

fn throttled() -> Option<u64> {
    let text =
        fs::read_to_string("/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count").ok()?;
    text.trim().parse().ok()
}

/// What counts as quiet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// cores' worth of foreign processor time
    pub foreign_cpu: f64,
    /// share of time given to other machines
    pub steal: f64,
}

impl Default for Gate {
    fn default() -> Self {
        // A quarter of a core is what a terminal, a cron job and the kernel take together on a desktop.
        Gate { foreign_cpu: 0.25, steal: 0.05 }
    }
}

impl Gate {
    /// Why it was not quiet.
    pub fn broken(&self, q: &Quiet) -> Option<String> {
        if let Some(f) = q.foreign_cpu.filter(|f| *f > self.foreign_cpu) {
            return Some(format!("other programs used {f:.2} of a core, {:.2} is allowed", self.foreign_cpu));
        }
        if let Some(s) = q.steal.filter(|s| *s > self.steal) {
            return Some(format!("the hypervisor took {:.1} % of the time", 100.0 * s));
        }
        q.throttled.filter(|n| *n > 0).map(|n| format!("the processor throttled {n} times"))
    }

    /// Waits until half a second passes quietly; `Err` with the reason after `patience`.
    pub fn wait(&self, patience: Duration, stop: &dyn Fn() -> bool) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let before = Reading::now();
            std::thread::sleep(Duration::from_millis(500));
            match self.broken(&before.since()) {
                None => return Ok(()),
                Some(why) if start.elapsed() > patience || stop() => return Err(why),
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_leaves_out_idle_waiting_and_stolen_time() {
        let (busy, steal) = times("cpu  100 20 30 900 50 6 4 70 0 0\ncpu0 1 2").unwrap();
        assert_eq!((busy, steal), (1.6, 0.7));
        assert!(times("nonsense").is_none() && times("cpu 1 2").is_none());
    }

    #[test]
    fn own_time_is_read_past_a_name_with_parentheses() {
        let stat = "12 (a (b) c) S 1 1 1 0 -1 4 0 0 0 0 100 50 30 20 20 0 1 0";
        assert_eq!(own(stat), Some(2.0));
        assert_eq!(own("12 (x) S 1"), None);
    }

    #[test]
    fn the_gate_names_what_broke_it_and_passes_what_it_cannot_see() {
        let gate = Gate::default();
        assert!(gate.broken(&Quiet::default()).is_none());
        let q = |f, s, t| Quiet { foreign_cpu: Some(f), steal: Some(s), throttled: Some(t), load: None };
        assert!(gate.broken(&q(0.1, 0.01, 0)).is_none());
        assert!(gate.broken(&q(0.9, 0.0, 0)).unwrap().contains("0.90"));
        assert!(gate.broken(&q(0.0, 0.2, 0)).unwrap().contains("20.0 %"));
        assert!(gate.broken(&q(0.0, 0.0, 2)).unwrap().contains("throttled"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_foreign_program_is_seen_and_our_own_is_not() {
        let spin = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done";
        // Ours: started here and waited for.
        let before = Reading::now();
        std::process::Command::new("sh").args(["-c", spin]).status().unwrap();
        let ours = before.since();
        assert!(own(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap() > 0.0);
        assert!(ours.foreign_cpu.is_some());
    }
}
