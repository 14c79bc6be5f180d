//! Control groups of Linux, versions 1 and 2: which files speak for this process.

use std::path::{Path, PathBuf};

/// One directory that limits this process, and the version of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dir {
    pub path: PathBuf,
    pub v2: bool,
}

/// The directories of `controller` from this process's own up to the root of the mount; empty without cgroups.
///
/// Every one of them limits the process: a child may be given more than its parent has.
pub(crate) fn dirs(controller: &str) -> Vec<Dir> {
    let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
    find(controller, &read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
}

fn find(controller: &str, groups: &str, mounts: &str) -> Vec<Dir> {
    let mut out = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let v2 = names.is_empty();
        if !v2 && !names.split(',').any(|n| n == controller) {
            continue;
        }
        let Some((root, point)) = mount_of(mounts, controller, v2) else { continue };
        // Inside a container the path may be written from the host's root while the mount shows a part of it.
        let below = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
        if below.components().any(|c| matches!(c, std::path::Component::ParentDir)) {
            continue;
        }
        for dir in below.ancestors() {
            out.push(Dir { path: point.join(dir), v2 });
        }
    }
    out
}

/// Root and mount point of the hierarchy that holds `controller`.
fn mount_of(mounts: &str, controller: &str, v2: bool) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind = right.next()?;
        let matches = match (v2, kind) {
            (true, "cgroup2") => true,
            (false, "cgroup") => right.nth(1)?.split(',').any(|o| o == controller),
            _ => false,
        };
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        matches.then(|| (unescape(root).into(), unescape(point).into()))
    })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(s: &str) -> String {
    let mut out = s.to_owned();
    for (code, c) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, c);
    }
    out
}

/// First number in a file of this directory; `None` when missing or "max".
pub(crate) fn number(dir: &Dir, file: &str) -> Option<u64> {
    std::fs::read_to_string(dir.path.join(file)).ok()?.split_whitespace().next()?.parse().ok()
}

/// Cores granted by version 2's `cpu.max` ("quota period" in µs, or "max period").
pub(crate) fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut parts = text.split_whitespace();
    let quota: f64 = parts.next()?.parse::<u64>().ok()? as f64;
    let period: f64 = parts.next().map_or(Some(100_000), |p| p.parse::<u64>().ok())? as f64;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// The value of `key` in a file of "key value" lines.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dirs: &[Dir]) -> Vec<String> {
        dirs.iter().map(|d| format!("{}{}", if d.v2 { "2:" } else { "1:" }, d.path.display())).collect()
    }

    #[test]
    fn version_2_walks_from_the_own_group_to_the_root() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let got = find("cpu", "0::/user.slice/a b.scope\n", mounts);
        let want =
            ["2:/sys/fs/cgroup/user.slice/a b.scope", "2:/sys/fs/cgroup/user.slice", "2:/sys/fs/cgroup/"];
        assert_eq!(paths(&got), want);
    }

    #[test]
    fn version_1_takes_the_hierarchy_of_its_controller_below_the_mounts_root() {
        let mounts = "32 31 0:29 /docker/x /sys/fs/cgroup/cpu\\040acct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let groups = "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x/in\n";
        assert_eq!(
            paths(&find("cpu", groups, mounts)),
            ["1:/sys/fs/cgroup/cpu acct/in", "1:/sys/fs/cgroup/cpu acct/"]
        );
        assert_eq!(paths(&find("memory", groups, mounts)).len(), 3);
        assert!(find("cpuset", groups, mounts).is_empty());
    }

    #[test]
    fn nonsense_gives_nothing() {
        for text in ["", ":", "::", "0::", "a:b:c\n\n", "0::/../..", " - ", "1 2 3 - cgroup2", "x - cgroup y"]
        {
            for other in ["", "0::/a", "30 23 0:26 / /m rw - cgroup2 c rw", "1 - cgroup"] {
                let _ = (find("cpu", text, other), find("cpu", other, text));
            }
        }
        assert!(find("cpu", "0::/../x", "30 23 0:26 / /m rw - cgroup2 c rw").is_empty());
    }

    #[test]
    fn quotas_are_read_as_cores() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("50000"), Some(0.5));
        for none in ["max 100000", "", "-1 100000", "0 100000", "5 0", "x y"] {
            assert_eq!(parse_cpu_max(none), None, "{none}");
        }
        assert_eq!(field("cache 1\ninactive_file 42\n", "inactive_file"), Some(42));
        assert_eq!(field("inactive_file_x 42\n", "inactive_file"), None);
    }
}
