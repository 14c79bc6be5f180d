//! What this machine can do at best right now: the ceilings that every figure is printed beside.
//!
//! A ceiling is the best of many samples over several ways of reading, because a figure above it would mean nothing.
//! Machines drift: probe in the process and at the time of the measurement, before and after, and take the higher.

use std::hint::black_box;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tamp_os::mem::Aligned;

use crate::pool::{Pool, Worker};

/// Buffer (bytes) that no last-level cache of a present laptop or small server holds.
pub const BEYOND_CACHES: usize = 256 << 20;

/// Everything the probe knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Ceiling {
    /// Memory read, 10⁹ bytes/s.
    pub read_gb_s: f64,
    /// Which way of reading won, for people.
    pub best: String,
    /// u8 × s8 multiply-add into i32, 10¹² operations/s; a multiply-add counts two.
    pub int8_tops: f64,
    /// One barrier of all workers, µs; 0 for a pool of one, or when the pool never got all its workers.
    pub barrier_us: f64,
}

/// The best read rate found, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// 10⁹ bytes/s.
    pub gb_s: f64,
    /// Threads × streams × prefetch distance, for people.
    pub best: String,
}

/// Probes reading over `bytes` for about `budget`, then arithmetic and the barrier for some ten milliseconds.
///
/// An error when there is no memory for the buffer.
pub fn ceiling(pool: &Pool, bytes: usize, budget: Duration) -> io::Result<Ceiling> {
    let read = read_bandwidth(pool, bytes, budget)?;
    Ok(Ceiling {
        read_gb_s: read.gb_s,
        best: read.best,
        int8_tops: int8_peak(pool),
        barrier_us: barrier_time(pool).as_nanos() as f64 / 1e3,
    })
}

/// The read ceiling over a working set of `bytes`: the best of {1, all threads} × {1, 4 streams} × prefetch distances
/// {0, 4, 8, 12 KB}.
///
/// Give [`BEYOND_CACHES`] for the memory itself. For the ceiling of a model give the weight bytes read per token: the
/// weights of a small one stay in the last-level cache, and only a buffer of the same size is as fast.
///
/// Takes about `budget`, and at least one sample of each way within three times that. The buffer is backed by huge
/// pages where there are any. An error when there is no memory for it.
pub fn read_bandwidth(pool: &Pool, bytes: usize, budget: Duration) -> io::Result<Read> {
    let lane = Lane::detect();
    let units = bytes.div_ceil(UNIT * 8).max(1);
    let buffer = filled(pool, units * UNIT)?;
    let size = (buffer.len() * 8) as f64;
    // A sample must be long beside the fork-join that starts it.
    let passes = (SAMPLE_BYTES / (buffer.len() * 8)).max(1);
    let mut tries: Vec<Try> =
        ways(pool.threads(), lane).map(|way| Try { way, best: 0.0, threads: 1 }).collect();
    let start = Instant::now();
    let mut round = 0;
    while round == 0 || start.elapsed() < budget {
        for (i, t) in tries.iter_mut().enumerate() {
            let over = start.elapsed();
            if (over >= budget && round > 0) || (over >= budget * 3 && i > 0) {
                break;
            }
            let at = Instant::now();
            let (_, threads) = read(pool, &buffer, lane, &t.way, passes);
            let rate = size * passes as f64 / at.elapsed().as_secs_f64() / 1e9;
            if rate > t.best {
                t.best = rate;
                t.threads = threads;
            }
        }
        tries.sort_by(|a, b| b.best.total_cmp(&a.best));
        round += 1;
        // The first rounds tell which ways are worth the rest of the time.
        if round == 2 {
            tries.truncate(4);
        }
    }
    let first = &tries[0];
    Ok(Read { gb_s: first.best, best: Way { threads: first.threads, ..first.way }.describe(lane) })
}

/// Peak rate of u8 × s8 multiply-adds of all workers together, 10¹² operations/s, a multiply-add counting two.
///
/// VNNI `vpdpbusd` where the processor has it at 512 bits; else AVX2 `vpmaddubsw` with the fewest widenings that
/// 4-bit weights allow; else what the compiler makes of a plain loop.
pub fn int8_peak(pool: &Pool) -> f64 {
    let lane = Lane::detect();
    let mut best: f64 = 0.0;
    for _ in 0..30 {
        let done = AtomicU64::new(0);
        let at = Instant::now();
        pool.run(|_| {
            done.fetch_add(lane.multiply(black_box(MULTIPLIES)), Ordering::Relaxed);
        });
        best = best.max(2.0 * done.into_inner() as f64 / at.elapsed().as_secs_f64() / 1e12);
    }
    best
}

/// The shortest mean time of one barrier of all workers; zero for a pool of one, or when no run had all workers.
pub fn barrier_time(pool: &Pool) -> Duration {
    const BARRIERS: u32 = 1000;
    let mut best = Duration::MAX;
    if pool.threads() > 1 {
        for _ in 0..20 {
            let count = AtomicUsize::new(0);
            let at = Instant::now();
            pool.run(|w: &Worker<'_>| {
                for _ in 0..BARRIERS {
                    w.barrier();
                }
                count.store(w.count(), Ordering::Relaxed);
            });
            if count.into_inner() == pool.threads() {
                best = best.min(at.elapsed() / BARRIERS);
            }
        }
    }
    if best == Duration::MAX { Duration::ZERO } else { best }
}

/// u64s handed out together: 4 KB.
const UNIT: usize = 512;
/// Units per stolen chunk: 256 KB, some microseconds of reading.
const GRAIN: usize = 64;
/// Bytes read per sample at least.
const SAMPLE_BYTES: usize = 16 << 20;
/// Loops of multiply-adds per sample; about a millisecond.
const MULTIPLIES: usize = 100_000;

/// One way of reading the buffer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Way {
    threads: usize,
    streams: usize,
    /// Prefetch distance in bytes; 0 leaves it to the processor.
    ahead: usize,
}

struct Try {
    way: Way,
    best: f64,
    /// Workers that took part in the best sample; a disturbed pool may give fewer than the way asked for.
    threads: usize,
}

impl Way {
    fn describe(&self, lane: Lane) -> String {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let ahead = match self.ahead {
            0 => "no prefetch".to_owned(),
            n => format!("prefetch {} KB ahead", n >> 10),
        };
        format!(
            "{} × {}, {ahead}, {}",
            count(self.threads, "thread"),
            count(self.streams, "stream"),
            lane.name()
        )
    }
}

/// All ways, the likeliest winners first, in case the budget ends early.
fn ways(threads: usize, lane: Lane) -> impl Iterator<Item = Way> {
    let counts = if threads > 1 { vec![threads, 1] } else { vec![1] };
    // Plain Rust has no portable prefetch.
    let distances = if lane == Lane::Portable { &[0][..] } else { &[8 << 10, 0, 4 << 10, 12 << 10][..] };
    counts.into_iter().flat_map(move |threads| {
        distances.iter().flat_map(move |&ahead| [1, 4].map(|streams| Way { threads, streams, ahead }))
    })
}

/// A buffer whose every page is its own memory, near the worker that will read most of it.
fn filled(pool: &Pool, len: usize) -> io::Result<Aligned<u64>> {
    let mut buffer = Aligned::<u64>::zeroed(len)?;
    let part = len.div_ceil(pool.threads());
    let parts: Vec<Mutex<&mut [u64]>> = buffer.chunks_mut(part).map(Mutex::new).collect();
    pool.run(|w| {
        for part in parts.iter().skip(w.index()).step_by(w.count()) {
            if let Ok(mut part) = part.lock() {
                part.fill(1);
            }
        }
    });
    drop(parts);
    Ok(buffer)
}

/// Reads the whole buffer `passes` times; the sum of all it read, and how many workers took part.
fn read(pool: &Pool, buffer: &[u64], lane: Lane, way: &Way, passes: usize) -> (u64, usize) {
    let (total, threads) = (AtomicU64::new(0), AtomicUsize::new(1));
    let all = |pass: usize, w: Option<&Worker<'_>>| {
        let part = |range: std::ops::Range<usize>| {
            let sum =
                lane.sum(black_box(&buffer[range.start * UNIT..range.end * UNIT]), way.streams, way.ahead);
            total.fetch_add(sum, Ordering::Relaxed);
        };
        let units = buffer.len() / UNIT;
        match w {
            Some(w) => w.share(pass, units, GRAIN.min(units / 16).max(1), part),
            None => part(0..units),
        }
    };
    if way.threads == 1 {
        (0..passes).for_each(|pass| all(pass, None));
    } else {
        pool.run(|w| {
            threads.store(w.count(), Ordering::Relaxed);
            (0..passes).for_each(|pass| all(pass, Some(w)));
        });
    }
    (black_box(total.into_inner()), threads.into_inner())
}

/// The widest instructions there are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lane {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Lane {
    fn detect() -> Lane {
        Lane::available().last().copied().unwrap_or(Lane::Portable)
    }

    /// What this processor can run, best last.
    fn available() -> Vec<Lane> {
        #[allow(unused_mut)]
        let mut lanes = vec![Lane::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                lanes.push(Lane::Avx2);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
                lanes.push(Lane::Avx512);
            }
        }
        lanes
    }

    fn name(self) -> &'static str {
        match self {
            Lane::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Lane::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Lane::Avx512 => "AVX-512",
        }
    }

    /// Wrapping sum of `data`, read as `streams` (1 or 4) equal parts in turn.
    fn sum(self, data: &[u64], streams: usize, ahead: usize) -> u64 {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = ahead;
        match self {
            Lane::Portable if streams == 1 => sum_portable::<1>(data),
            Lane::Portable => sum_portable::<4>(data),
            // SAFETY: a lane is made by `available` only, which has asked for its features.
            #[cfg(target_arch = "x86_64")]
            Lane::Avx2 => unsafe {
                match (streams, ahead) {
                    (1, 0) => x86::sum_avx2::<1, false>(data, 0),
                    (1, _) => x86::sum_avx2::<1, true>(data, ahead),
                    (_, 0) => x86::sum_avx2::<4, false>(data, 0),
                    _ => x86::sum_avx2::<4, true>(data, ahead),
                }
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Lane::Avx512 => unsafe {
                match (streams, ahead) {
                    (1, 0) => x86::sum_avx512::<1, false>(data, 0),
                    (1, _) => x86::sum_avx512::<1, true>(data, ahead),
                    (_, 0) => x86::sum_avx512::<4, false>(data, 0),
                    _ => x86::sum_avx512::<4, true>(data, ahead),
                }
            },
        }
    }

    /// Does some multiply-adds per loop and returns how many they were.
    fn multiply(self, loops: usize) -> u64 {
        match self {
            Lane::Portable => multiply_portable(loops),
            // SAFETY: a lane is made by `available` only, which has asked for its features.
            #[cfg(target_arch = "x86_64")]
            Lane::Avx2 => unsafe { x86::multiply_avx2(loops) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Lane::Avx512 => unsafe { x86::multiply_avx512(loops) },
        }
    }
}

/// u64s per stream and turn: 256 bytes.
const TURN: usize = 32;

/// Length of each of `S` streams, a whole number of turns; what is left over is read after them.
fn stream_len<const S: usize>(len: usize) -> usize {
    len / S / TURN * TURN
}

fn sum_rest(data: &[u64]) -> u64 {
    data.iter().fold(0, |a, &b| a.wrapping_add(b))
}

fn sum_portable<const S: usize>(data: &[u64]) -> u64 {
    let each = stream_len::<S>(data.len());
    let mut sums = [0u64; TURN];
    for at in (0..each).step_by(TURN) {
        for s in 0..S {
            let from = s * each + at;
            for (sum, x) in sums.iter_mut().zip(&data[from..from + TURN]) {
                *sum = sum.wrapping_add(*x);
            }
        }
    }
    sum_rest(&sums).wrapping_add(sum_rest(&data[S * each..]))
}

fn multiply_portable(loops: usize) -> u64 {
    const N: usize = 1024;
    // Widened beforehand: a dot product of i16 is the shape that compilers know as one instruction.
    let (a, b) = (black_box([3i16; N]), black_box([-2i16; N]));
    let mut sum = 0i32;
    let rounds = loops.div_ceil(N / 16);
    for _ in 0..rounds {
        let dot: i32 = black_box(&a).iter().zip(&b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum();
        sum = sum.wrapping_add(dot);
    }
    black_box(sum);
    (rounds * N) as u64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{TURN, stream_len, sum_rest};

    #[target_feature(enable = "avx512f")]
    pub fn sum_avx512<const S: usize, const P: bool>(data: &[u64], ahead: usize) -> u64 {
        let each = stream_len::<S>(data.len());
        let mut sums = [_mm512_setzero_si512(); 4];
        for at in (0..each).step_by(TURN) {
            for s in 0..S {
                let from = data.as_ptr().wrapping_add(s * each + at);
                for (i, sum) in sums.iter_mut().enumerate() {
                    let p = from.wrapping_add(i * 8);
                    if P {
                        prefetch(p.wrapping_byte_add(ahead));
                    }
                    // SAFETY: at + TURN ≤ each and S · each ≤ data.len(), so the 8 values from p are inside.
                    *sum = _mm512_add_epi64(*sum, unsafe { _mm512_loadu_si512(p.cast()) });
                }
            }
        }
        let [a, b, c, d] = sums;
        let all = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
        (_mm512_reduce_add_epi64(all) as u64).wrapping_add(sum_rest(&data[S * each..]))
    }

    #[target_feature(enable = "avx2")]
    pub fn sum_avx2<const S: usize, const P: bool>(data: &[u64], ahead: usize) -> u64 {
        let each = stream_len::<S>(data.len());
        let mut sums = [_mm256_setzero_si256(); 8];
        for at in (0..each).step_by(TURN) {
            for s in 0..S {
                let from = data.as_ptr().wrapping_add(s * each + at);
                for (i, sum) in sums.iter_mut().enumerate() {
                    let p = from.wrapping_add(i * 4);
                    if P && i % 2 == 0 {
                        prefetch(p.wrapping_byte_add(ahead));
                    }
                    // SAFETY: at + TURN ≤ each and S · each ≤ data.len(), so the 4 values from p are inside.
                    *sum = _mm256_add_epi64(*sum, unsafe { _mm256_loadu_si256(p.cast()) });
                }
            }
        }
        let mut out = [0u64; 32];
        for (i, sum) in sums.iter().enumerate() {
            // SAFETY: 4 values at 4 · i fit into the 32.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(i * 4).cast(), *sum) };
        }
        sum_rest(&out).wrapping_add(sum_rest(&data[S * each..]))
    }

    #[inline]
    fn prefetch(p: *const u64) {
        // SAFETY: a hint that reads nothing and never faults, wherever it points; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) };
    }

    /// Independent sums: more than latency × instructions per cycle (5 × 2), fewer than there are registers.
    const CHAINS: usize = 12;

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn multiply_avx512(loops: usize) -> u64 {
        let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(-2)));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..loops {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        (loops * CHAINS * 64) as u64
    }

    #[target_feature(enable = "avx2")]
    pub fn multiply_avx2(loops: usize) -> u64 {
        // One load serves four columns, as in a kernel; from L1, because operands that never change would be hoisted.
        const COLUMNS: usize = 4;
        const LOADS: usize = 8;
        let ones = _mm256_set1_epi16(1);
        let a = black_box([[3u8; 32]; 16 * LOADS]);
        let b: [__m256i; COLUMNS] = std::array::from_fn(|i| black_box(_mm256_set1_epi8(i as i8 - 2)));
        let mut sums = [_mm256_setzero_si256(); COLUMNS];
        let rounds = loops.div_ceil(64);
        for _ in 0..rounds {
            for part in black_box(&a).as_chunks::<LOADS>().0 {
                let mut narrow = [_mm256_setzero_si256(); COLUMNS];
                for bytes in part {
                    // SAFETY: the 32 bytes are there.
                    let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
                    for c in 0..COLUMNS {
                        narrow[c] = _mm256_add_epi16(narrow[c], _mm256_maddubs_epi16(bytes, b[c]));
                    }
                }
                for c in 0..COLUMNS {
                    sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(narrow[c], ones));
                }
            }
        }
        black_box(sums);
        (rounds * a.len() * 32 * COLUMNS) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_reads_every_byte_once_per_pass() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads, false);
            for units in [1, 2, 3, 17, 300] {
                let mut buffer = filled(&pool, units * UNIT).unwrap();
                assert!(buffer.iter().all(|&x| x == 1));
                for (i, x) in buffer.iter_mut().enumerate() {
                    *x = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                }
                let want = sum_rest(&buffer).wrapping_mul(3);
                for lane in Lane::available() {
                    for way in ways(threads, lane) {
                        assert_eq!(read(&pool, &buffer, lane, &way, 3).0, want, "{way:?} {lane:?} {units}");
                    }
                }
            }
        }
    }

    #[test]
    fn all_ways_of_the_plan_are_tried() {
        let all: Vec<Way> = ways(8, Lane::detect()).collect();
        let distances = if Lane::detect() == Lane::Portable { 1 } else { 4 };
        assert_eq!(all.len(), 2 * 2 * distances);
        assert_eq!(ways(1, Lane::detect()).count(), 2 * distances);
    }

    #[test]
    fn the_probe_gives_figures_that_a_machine_can_have() {
        let pool = Pool::new(2, true);
        for bytes in [0, 1, 1 << 20, 20 << 20] {
            let c = ceiling(&pool, bytes, Duration::from_millis(20)).unwrap();
            assert!(c.read_gb_s > 0.1 && c.read_gb_s < 100_000.0, "{c:?}");
            assert!(c.int8_tops > 1e-4 && c.int8_tops < 1e4, "{c:?}");
            assert!(c.barrier_us >= 0.0 && c.best.contains("stream"), "{c:?}");
        }
        assert!(read_bandwidth(&pool, usize::MAX, Duration::ZERO).is_err());
    }

    #[test]
    fn multiplies_are_counted_as_done() {
        for lane in Lane::available() {
            assert!(lane.multiply(4000) > 0, "{lane:?}");
        }
    }
}
