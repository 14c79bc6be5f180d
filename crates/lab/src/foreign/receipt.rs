//! What a running process says of itself through the system: memory, and which files it runs. Read from `/proc`; where
//! there is none, these facts are absent.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Code is hashed up to this many bytes in all; a GPU framework maps more.
const MOST: u64 = 2 << 30;

/// The living processes of a group but for shells, which our guard is one of.
pub(super) fn group(id: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let Ok(all) = fs::read_dir("/proc") else { return found };
    for entry in all.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((_, state, of)) = parse_stat(&stat)
            && of == id
            && !["Z", "X"].contains(&state)
        {
            found.push(pid);
        }
    }
    found
}

/// Name, state and group of a line of `/proc/…/stat`. The name stands in parentheses and may hold any byte.
fn parse_stat(line: &str) -> Option<(&str, &str, u32)> {
    let (head, tail) = line.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split_ascii_whitespace();
    let state = fields.next()?;
    Some((name, state, fields.nth(1)?.parse().ok()?))
}

/// Most bytes resident, summed over the processes of a group but the guard.
pub(super) fn memory_peak(id: u32) -> Option<u64> {
    let peaks = group(id).into_iter().filter_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        if field("Name:") == Some("sh") {
            return None;
        }
        field("VmHWM:")?.strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|k| k * 1024)
    });
    peaks.reduce(|a, b| a + b)
}

/// The file a process runs, and hashes of it and of all code it has mapped (by file name and content, in order of
/// names).
pub(super) struct Code {
    /// name of the program's file, without its folder
    pub program: String,
    /// blake3 of the program's file
    pub program_hash: String,
    /// blake3 over name and blake3 of every other file with code; none when they are too much to read
    pub libraries_hash: Option<String>,
}

/// Reads the code of a running process.
pub(super) fn code(pid: u32) -> Option<Code> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let mut left = MOST;
    // The link itself, which leads to the file that runs even when its name leads elsewhere by now.
    let program_hash = hash(Path::new(&format!("/proc/{pid}/exe")), &mut left)?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let files: BTreeSet<PathBuf> = maps
        .lines()
        .filter(|l| l.split_ascii_whitespace().nth(1).is_some_and(|p| p.contains('x')))
        .filter_map(|l| l.find('/').map(|at| PathBuf::from(&l[at..])))
        .filter(|p| *p != program)
        .collect();
    let mut named: Vec<(String, PathBuf)> = files.into_iter().map(|p| (name(&p), p)).collect();
    named.sort();
    let mut all = Some(blake3::Hasher::new());
    for (name, path) in named {
        all = all.take().zip(hash(&path, &mut left)).map(|(mut h, one)| {
            h.update(name.as_bytes()).update(&[0]).update(one.as_bytes());
            h
        });
    }
    let libraries_hash = all.map(|h| h.finalize().to_hex().to_string());
    Some(Code { program: name(&program), program_hash, libraries_hash })
}

fn name(p: &Path) -> String {
    p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn hash(path: &Path, left: &mut u64) -> Option<String> {
    let file = File::open(path).ok()?;
    let size = file.metadata().ok().filter(|m| m.is_file())?.len();
    *left = left.checked_sub(size)?;
    let mut h = blake3::Hasher::new();
    h.update_reader(file.take(size)).ok()?;
    Some(h.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        assert_eq!(parse_stat("12 (a) b (c) S 1 34 5 0"), Some(("a) b (c", "S", 34)));
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn a_process_has_code_and_memory() {
        let me = std::process::id();
        let Some(code) = code(me) else {
            return assert!(!Path::new("/proc/self/exe").exists());
        };
        assert_eq!(code.program_hash.len(), 64);
        assert!(
            code.libraries_hash.is_some()
                && !code.program.contains('/')
                && memory_peak(std::process::id()).is_none_or(|m| m > 1 << 16)
        );
    }
}
