//! What the tests share: a metadata reader for GGUF files that are trusted, and test data fetched by the package
//! clients a person would use.
#![allow(dead_code, clippy::unwrap_used)] // Each test binary uses its own part.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use tamp_base::meta::{Array, IntKind, Meta, Value};
use tamp_text::{Bytes, Tokenizer};

/// Where fetched data stays between runs.
pub fn cache() -> PathBuf {
    let dir = std::env::var_os("TAMP_TEST_CACHE")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-data"));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

static FETCH: Mutex<()> = Mutex::new(());

fn run(cmd: &mut Command) -> bool {
    cmd.stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// The `models` folder of the llama.cpp sources inside a published source distribution; none (with a line) when it
/// cannot be fetched.
pub fn llama_cpp_models() -> Option<PathBuf> {
    let _one = FETCH.lock().unwrap_or_else(|e| e.into_inner());
    let base = cache().join("llama-cpp-python-0.3.36");
    let models = base.join("vendor/llama.cpp/models");
    if models.is_dir() {
        return Some(models);
    }
    let sdist = cache().join("llama_cpp_python-0.3.36.tar.gz");
    if !sdist.is_file() {
        run(Command::new("pip")
            .args(["download", "--no-deps", "--no-binary", "llama-cpp-python", "-d"])
            .arg(cache())
            .arg("llama-cpp-python==0.3.36"));
    }
    let part = cache().join(format!("unpack-{}", std::process::id()));
    let _ = std::fs::create_dir(&part);
    let ok = sdist.is_file()
        && run(Command::new("tar").args(["-xzf"]).arg(&sdist).arg("-C").arg(&part).args([
            "--strip-components=1",
            "--wildcards",
            "*/vendor/llama.cpp/models/*",
        ]))
        && (std::fs::rename(&part, &base).is_ok() || models.is_dir());
    let _ = std::fs::remove_dir_all(&part);
    if !ok {
        println!(
            "SKIPPED: the source distribution with the vocabulary sets and templates could not be fetched"
        );
        return None;
    }
    Some(models)
}

/// A file of an npm package; none (with a line) when it cannot be fetched.
pub fn npm_file(package: &str, file: &str) -> Option<Vec<u8>> {
    let _one = FETCH.lock().unwrap_or_else(|e| e.into_inner());
    let dir = cache().join(package.replace(['@', '/'], "_"));
    let path = dir.join("package").join(file);
    if !path.is_file() {
        let _ = std::fs::create_dir_all(&dir);
        let packed = run(Command::new("npm").current_dir(&dir).args(["pack", package]));
        let tgz = packed.then(|| {
            std::fs::read_dir(&dir)
                .ok()?
                .flatten()
                .map(|e| e.path())
                .find(|p| p.extension().is_some_and(|e| e == "tgz"))
        });
        if let Some(Some(tgz)) = tgz {
            run(Command::new("tar").arg("-xzf").arg(tgz).arg("-C").arg(&dir));
        }
    }
    let data = std::fs::read(&path).ok();
    if data.is_none() {
        println!("SKIPPED: {package} could not be fetched");
    }
    data
}

/// Metadata of a trusted GGUF file.
pub fn gguf_meta(path: &Path) -> Meta {
    let data = std::fs::read(path).unwrap();
    let mut r = Reader(&data);
    assert_eq!(r.take(4), b"GGUF");
    r.u32();
    r.u64();
    let n = r.u64();
    let mut meta = Meta::default();
    for _ in 0..n {
        let key = r.string();
        let kind = r.u32();
        let value = r.value(kind);
        meta.set(key, value);
    }
    meta
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (a, b) = self.0.split_at(n);
        self.0 = b;
        a
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }
    fn string(&mut self) -> String {
        let n = self.u64() as usize;
        String::from_utf8_lossy(self.take(n)).into_owned()
    }
    fn value(&mut self, kind: u32) -> Value {
        match kind {
            0 => Value::U8(self.take(1)[0]),
            1 => Value::I8(self.take(1)[0] as i8),
            2 => Value::U16(u16::from_le_bytes(self.take(2).try_into().unwrap())),
            3 => Value::I16(i16::from_le_bytes(self.take(2).try_into().unwrap())),
            4 => Value::U32(self.u32()),
            5 => Value::I32(self.u32() as i32),
            6 => Value::F32(f32::from_bits(self.u32())),
            7 => Value::Bool(self.take(1)[0] != 0),
            8 => Value::Str(self.string()),
            10 => Value::U64(self.u64()),
            11 => Value::I64(self.u64() as i64),
            12 => Value::F64(f64::from_bits(self.u64())),
            9 => {
                let of = self.u32();
                let n = self.u64();
                Value::Array(match of {
                    8 => Array::Str((0..n).map(|_| self.string()).collect()),
                    6 => Array::F32((0..n).map(|_| f32::from_bits(self.u32())).collect()),
                    5 => Array::Int(IntKind::B32, (0..n).map(|_| self.u32() as i32 as i64).collect()),
                    4 => Array::Uint(IntKind::B32, (0..n).map(|_| self.u32() as u64).collect()),
                    0 | 1 | 7 => Array::Uint(IntKind::B8, (0..n).map(|_| self.take(1)[0] as u64).collect()),
                    t => panic!("array of type {t}"),
                })
            }
            t => panic!("type {t}"),
        }
    }
}

/// The same tokenizer compiled, in the middle of a larger block at an odd offset, opened.
pub fn reopened(t: &Tokenizer) -> Tokenizer {
    let mut file = vec![0xa5; 12_345];
    let compiled = t.compile();
    file.extend_from_slice(&compiled);
    file.extend_from_slice(&[0x5a; 77]);
    let range = 12_345..12_345 + compiled.len();
    let start = std::time::Instant::now();
    let again = Tokenizer::from_compiled(Bytes::new(Arc::new(file), range).unwrap()).unwrap();
    println!("{} tokens in {} bytes, opened in {:?}", t.len(), compiled.len(), start.elapsed());
    assert_eq!(again.compile(), compiled);
    assert_eq!((again.len(), again.bos(), again.eos()), (t.len(), t.bos(), t.eos()));
    assert!(again.ends().eq(t.ends()) && again.adds_bos() == t.adds_bos());
    again
}

/// A small deterministic generator (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A byte-level tokenizer: every byte, a few longer words, control tokens and two end tokens (`<|end|>`, `<|im_end|>`).
pub fn small_tokenizer() -> Arc<Tokenizer> {
    small_tokenizer_with(&["<|end|>", "<|im_end|>", "[TOOL_CALLS]", "<|python_tag|>"])
}

/// The same with these control tokens; the first is the declared end.
pub fn small_tokenizer_with(control: &[&str]) -> Arc<Tokenizer> {
    // GPT-2's spelling of bytes.
    let spell = |b: u8| match b {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(b),
        0..=0x20 => char::from_u32(0x100 + u32::from(b)).unwrap(),
        0x7f..=0xa0 => char::from_u32(0x121 + u32::from(b) - 0x7f).unwrap(),
        0xad => '\u{143}',
    };
    let mut tokens: Vec<String> = (0..=255).map(|b| spell(b).to_string()).collect();
    let mut merges = vec![];
    for word in
        ["{\"", "\":", " \"", "\"}", "na", "name", "ar", "arg", "tr", "true", "\",", "},", "00", "<t", "ĊĊ"]
    {
        let spelled: String =
            if word.starts_with('Ċ') { word.into() } else { word.bytes().map(spell).collect() };
        let cut = (1..spelled.len())
            .filter(|&i| spelled.is_char_boundary(i))
            .find(|&i| [&spelled[..i], &spelled[i..]].iter().all(|p| tokens.iter().any(|t| t == p)));
        if let Some(i) = cut {
            merges.push(format!("{} {}", &spelled[..i], &spelled[i..]));
        }
        tokens.push(spelled);
    }
    let mut types = vec![1u64; tokens.len()];
    for c in control {
        tokens.push((*c).into());
        types.push(3);
    }
    let end = (types.len() - control.len()) as u32;
    let mut meta = Meta::default();
    meta.set("tokenizer.ggml.model", Value::Str("gpt2".into()));
    meta.set("tokenizer.ggml.pre", Value::Str("gpt-2".into()));
    meta.set("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens.into_iter().collect())));
    meta.set("tokenizer.ggml.token_type", Value::Array(Array::Uint(IntKind::B32, types)));
    meta.set("tokenizer.ggml.merges", Value::Array(Array::Str(merges.into_iter().collect())));
    meta.set("tokenizer.ggml.eos_token_id", Value::U32(end));
    Arc::new(Tokenizer::from_meta(&meta).unwrap())
}

/// The tokenizer of a model in the local store (`TAMP_STORE`); none, with a line, when it is not there.
pub fn stored_tokenizer(name: &str) -> Option<Arc<Tokenizer>> {
    let path = std::env::var_os("TAMP_STORE").map(|s| PathBuf::from(s).join(format!("{name}.gguf")));
    match path.filter(|p| p.is_file()) {
        Some(path) => Some(Arc::new(Tokenizer::from_meta(&gguf_meta(&path)).unwrap())),
        None => {
            println!("SKIPPED: TAMP_STORE has no {name}.gguf");
            None
        }
    }
}
