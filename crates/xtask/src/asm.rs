//! Reads the compiled kernels: an inner loop that keeps a vector on the stack has run out of registers, and pays a load
//! and a store for every multiplication it does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::chores::{cargo, root};

/// What the inner loops of a function may do with vectors on the stack.
struct Allowed {
    function: &'static str,
    /// at most so many reads and writes of fixed places
    spills: usize,
    /// at most so many writes into arrays
    array_stores: usize,
    /// why that is no loss
    why: &'static str,
}

const ALLOWED: &[Allowed] = &[
    Allowed { function: "rung::avx512::attend_f16", spills: 0, array_stores: 8, why: SOFTMAX },
    Allowed { function: "rung::avx512::attend_f32", spills: 0, array_stores: 8, why: SOFTMAX },
    Allowed { function: "rung::avx512::quantise", spills: 31, array_stores: 0, why: ROWS },
];
const ROWS: &str =
    "eight blocks of an activation row at a time; a row is quantised once and multiplied with a whole matrix";
const SOFTMAX: &str = "the softmax runs once per query and 64 keys and leaves its weights in an array for the values; \
                       the loops over dimensions and keys keep to registers";

/// Functions that must be found with an inner loop: a check that looks at nothing would always pass.
const WANTED: &[&str] = &["rung::avx512::multiply::", "rung::avx512::attend_f16", "rung::avx512::attend_f32"];

/// One innermost loop that multiplies.
#[derive(Debug, Default, PartialEq)]
struct Loop {
    /// demangled, without the crate
    function: String,
    /// which of the function's, from 1
    number: usize,
    /// instructions
    length: usize,
    /// multiplications on 512-bit registers
    hot: usize,
    /// whole vectors read from fixed places of the stack
    loads: usize,
    /// whole vectors written there
    stores: usize,
    /// whole vectors read from arrays on the stack
    array_loads: usize,
    /// whole vectors written to arrays there
    array_stores: usize,
    /// scalars read or written at fixed places there: pointers and broadcast values
    scalars: usize,
}

/// Compiles the kernels to assembly, prints the loops with vectors on the stack, and fails if one is not allowed.
pub fn run() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        println!("asm: skipped, this machine does not build the AVX-512 kernels");
        return Ok(());
    }
    let file = build()?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let loops = loops(&text);
    print!("{}", table(&loops));
    let faults = judge(&loops);
    for f in &faults {
        eprintln!("asm: {f}");
    }
    if !faults.is_empty() {
        bail!("{} fault(s) in the kernels' inner loops", faults.len());
    }
    Ok(())
}

/// The kernels' assembly, compiled as they are for a release.
fn build() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let out = cargo()
        .args(["rustc", "--release", "-p", "tamp-kernels", "--lib", "--message-format=json", "--target-dir"])
        .arg(target.join("asm"))
        .args(["--", "--emit", "asm", "-C", "debuginfo=0", "-C", "symbol-mangling-version=v0"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo rustc did not start")?;
    if !out.status.success() {
        bail!("cargo rustc failed ({})", out.status);
    }
    // The assembly lies beside the library of the same hash.
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
        .filter(|m| m["reason"] == "compiler-artifact" && m["target"]["name"] == "tamp_kernels")
        .flat_map(|m| m["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|f| assembly(Path::new(f.as_str()?)))
        .find(|f| f.is_file())
        .context("cargo named no assembly of the kernels")
}

/// `libtamp_kernels-0123.rlib` → `tamp_kernels-0123.s`.
fn assembly(library: &Path) -> Option<PathBuf> {
    let stem = library.file_stem()?.to_str()?.strip_prefix("lib")?;
    Some(library.with_file_name(format!("{stem}.s")))
}

/// The innermost multiplying loops of every function.
fn loops(assembly: &str) -> Vec<Loop> {
    let mut out = vec![];
    let mut function: Option<(&str, Vec<&str>)> = None;
    for line in assembly.lines() {
        if let Some(label) = line.strip_suffix(':').filter(|l| l.starts_with("_R")) {
            function = Some((label, vec![]));
        } else if line.trim() == ".cfi_endproc" {
            if let Some((name, body)) = function.take() {
                out.extend(loops_of(name, &body));
            }
        } else if let Some((_, body)) = &mut function {
            body.push(line);
        }
    }
    out.sort_by(|a, b| (&a.function, a.number).cmp(&(&b.function, b.number)));
    out
}

fn loops_of(name: &str, body: &[&str]) -> Vec<Loop> {
    let is_code = |l: &str| l.starts_with('\t') && !l.trim_start().starts_with(['.', '#']);
    let labels: HashMap<&str, usize> =
        body.iter().enumerate().filter_map(|(i, l)| l.strip_suffix(':').map(|l| (l, i))).collect();
    // A loop is a label and the last jump back to it.
    let mut ends: HashMap<usize, usize> = HashMap::new();
    for (i, l) in body.iter().enumerate().filter(|(_, l)| is_code(l)) {
        let mut words = l.split_whitespace();
        let jumps = words.next().is_some_and(|op| op.starts_with('j'));
        if let Some(&to) = words.next().filter(|_| jumps).and_then(|to| labels.get(to))
            && to < i
        {
            ends.entry(to).and_modify(|e| *e = i.max(*e)).or_insert(i);
        }
    }
    let hot = |range: (usize, usize)| body[range.0..=range.1].iter().filter(|l| is_hot(l)).count();
    let mut hot_loops: Vec<(usize, usize)> = ends.into_iter().filter(|&r| hot(r) > 0).collect();
    hot_loops.sort_unstable();
    let inner = |r: &&(usize, usize)| !hot_loops.iter().any(|o| o != *r && r.0 <= o.0 && o.1 <= r.1);
    // `%rbp` is a stack pointer only where the function says so.
    let framed = body.iter().any(|l| l.split_whitespace().eq(["movq", "%rsp,", "%rbp"]));
    let function = format!("{:#}", rustc_demangle::demangle(name));
    let function = function.strip_prefix("tamp_kernels::").unwrap_or(&function).replace("tamp_kernels::", "");
    hot_loops
        .iter()
        .filter(inner)
        .enumerate()
        .map(|(i, &r)| {
            let code: Vec<&str> = body[r.0..=r.1].iter().copied().filter(|l| is_code(l)).collect();
            let count = |what: Stack| code.iter().filter(|l| stack(l, framed) == Some(what)).count();
            Loop {
                function: function.clone(),
                number: i + 1,
                length: code.len(),
                hot: hot(r),
                loads: count(Stack::Load),
                stores: count(Stack::Store),
                array_loads: count(Stack::ArrayLoad),
                array_stores: count(Stack::ArrayStore),
                scalars: count(Stack::Scalar),
            }
        })
        .collect()
}

fn is_hot(line: &str) -> bool {
    let op = line.split_whitespace().next().unwrap_or("");
    line.contains("%zmm") && ["vpdp", "vfmadd", "vfnmadd", "vdpbf16"].iter().any(|p| op.starts_with(p))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stack {
    /// a whole vector read
    Load,
    /// a whole vector written
    Store,
    /// a whole vector read at an index: an array decoded before the loop, such as scales
    ArrayLoad,
    /// a whole vector written at an index: what sums look like that were not unrolled into registers
    ArrayStore,
    /// anything smaller at a fixed place
    Scalar,
}

/// What an instruction does to the stack.
fn stack(line: &str, framed: bool) -> Option<Stack> {
    let op = line.split_whitespace().next()?;
    let at = line.find("(%rsp").or_else(|| line.find("(%rbp").filter(|_| framed))?;
    let rest = line[at..].split_once(')')?.1.trim();
    let indexed = line[at + 5..].starts_with(',');
    let vector = ["%zmm", "%ymm", "%xmm"].iter().any(|r| line.contains(r));
    let scalar = rest.starts_with("{1to")
        || op.contains("broadcast")
        || ["vmovss", "vmovsd", "vmovd", "vmovq"].contains(&op)
        || op.ends_with("ss") && op.starts_with('v')
        || op.starts_with("vpinsr")
        || op.starts_with("vpextr");
    // The destination comes last, with its mask.
    let store = rest.is_empty() || rest.starts_with("{%k");
    Some(match (vector && !scalar, indexed) {
        _ if op.starts_with("lea") => return None,
        (false, true) => return None,
        (false, false) => Stack::Scalar,
        (true, false) if store => Stack::Store,
        (true, false) => Stack::Load,
        (true, true) if store => Stack::ArrayStore,
        (true, true) => Stack::ArrayLoad,
    })
}

fn table(loops: &[Loop]) -> String {
    let mut out = String::new();
    let bad: Vec<&Loop> = loops.iter().filter(|l| l.loads + l.stores + l.array_stores > 0).collect();
    if !bad.is_empty() {
        out += "| function | loop | instructions | multiplications | vectors read | written | in arrays read | written | scalars |\n\
                |---|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    }
    for l in &bad {
        out += &format!(
            "| `{}` | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            l.function,
            l.number,
            l.length,
            l.hot,
            l.loads,
            l.stores,
            l.array_loads,
            l.array_stores,
            l.scalars
        );
    }
    for a in ALLOWED.iter().filter(|a| bad.iter().any(|l| l.function == a.function)) {
        out += &format!("allowed in `{}`: {}\n", a.function, a.why);
    }
    out + &format!("asm: {} inner loops, {} with vectors on the stack\n", loops.len(), bad.len())
}

fn judge(loops: &[Loop]) -> Vec<String> {
    let mut faults = vec![];
    for w in WANTED {
        if !loops.iter().any(|l| l.function.starts_with(w)) {
            faults.push(format!(
                "no inner loop of `{w}…` was found; does this check still read what it should?"
            ));
        }
    }
    for l in loops {
        let allowed = ALLOWED.iter().find(|a| a.function == l.function);
        let (spills, array_stores) = allowed.map_or((0, 0), |a| (a.spills, a.array_stores));
        let found = l.loads + l.stores;
        if found > spills {
            faults.push(format!(
                "loop {} of `{}` spills: vectors at fixed places of the stack {found} times, at most {spills} are allowed; \
                 keep fewer sums at a time, or say in xtask's `ALLOWED` why it is no loss",
                l.number, l.function
            ));
        }
        if l.array_stores > array_stores {
            faults.push(format!(
                "loop {} of `{}` writes {} vectors to arrays on the stack, at most {array_stores} are allowed; \
                 unroll its sums into registers, or say in xtask's `ALLOWED` why it is no loss",
                l.number, l.function, l.array_stores
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "_RNvNtNtCs3nbbZSsC9Hz_12tamp_kernels4rung6avx51210attend_f16";

    fn one(body: &str) -> Vec<Loop> {
        loops(&format!("{NAME}:\n\t.cfi_startproc\n\tmovq\t%rsp, %rbp\n{body}\n\tretq\n\t.cfi_endproc\n"))
    }

    #[test]
    fn spills_count_in_the_innermost_multiplying_loop_only() {
        let l = one("\
\tvmovups\t%zmm1, 64(%rsp)
.LBB0_1:
\tvmovups\t128(%rsp), %zmm3
.LBB0_2:
\tmovq\t8(%rsp), %rax
\tvmovups\t%zmm2, -64(%rbp)
\tvpdpbusd\t192(%rsp), %zmm2, %zmm4
\tvpdpbusd\t12(%rsp){1to16}, %zmm2, %zmm4
\tvfmadd231ps\t(%rsp,%rax,4){1to16}, %zmm2, %zmm4
\tvmovups\t(%rsp,%rcx), %zmm5
\tvmovaps\t%zmm5, -64(%rsp,%r10,8) {%k1}
\tjne\t.LBB0_2
.LBB0_3:
\tvmovups\t%zmm1, 64(%rsp)
\tjne\t.LBB0_3
\tjne\t.LBB0_1
\tje\t.LBB0_4
.LBB0_4:");
        let want = Loop {
            function: "rung::avx512::attend_f16".into(),
            number: 1,
            length: 8,
            hot: 3,
            loads: 1,
            stores: 1,
            array_loads: 1,
            array_stores: 1,
            scalars: 2,
        };
        assert_eq!(l, [want]);
        let l = l.into_iter().map(|l| Loop { function: "rung::avx512::multiply::<F32, 9>".into(), ..l });
        let l: Vec<Loop> = l.collect();
        assert!(judge(&l).iter().any(|f| f.contains("F32, 9>` writes 1 vectors to arrays")));
        assert!(judge(&l).iter().any(|f| f.contains("multiply::<F32, 9>` spills") && f.contains("2 times")));
    }

    #[test]
    fn a_loop_that_keeps_to_registers_is_no_fault_and_finding_nothing_is() {
        let l = one(".LBB0_2:\n\tvfmadd231ps\t(%rax), %zmm2, %zmm4\n\tjne\t.LBB0_2");
        assert_eq!((l.len(), l[0].loads + l[0].stores + l[0].array_stores + l[0].scalars), (1, 0));
        let faults = judge(&l);
        assert!(
            faults.iter().all(|f| f.contains("was found")) && faults.len() == WANTED.len() - 1,
            "{faults:?}"
        );
    }
}
