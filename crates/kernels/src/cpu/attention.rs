//! Phase B: attention of every row over its own path, cut into tasks that any worker may take.

use tamp_base::ids::{PAGE, PageId};

use super::Cpu;
use super::buf::{Buf, SPLIT_ROWS, TASK_VECTORS, Task};
use super::memory::Pages;
use super::parts::Rows;
use crate::attend::{Block, KEY_BLOCK, KEY_CHUNK, QUERIES};
use crate::device::{AttnShape, RowMap, Slot};
use crate::rung::Rung;
use crate::shared::SharedMut;

/// Cuts the batch into attention tasks: runs of rows of one sequence, split by key chunks when rows are few.
pub fn plan(rows: &RowMap, workers: usize, buf: &mut Buf) {
    let per_head = buf.shape.heads / buf.shape.kv_heads;
    let together = (TASK_VECTORS / per_head).max(1);
    buf.tasks.clear();
    buf.merges.clear();
    let mut parts = 0;
    let split = workers > 1 && rows.rows() <= SPLIT_ROWS;
    for (seq, s) in rows.seqs.iter().enumerate() {
        let mut row = s.first;
        while row < s.first + s.count {
            let mut n = 1;
            while n < together
                && row + n < s.first + s.count
                && rows.path_at[row].is_none()
                && rows.path_at[row + n].is_none()
            {
                n += 1;
            }
            let chunks = (rows.pos[row + n - 1] as usize + 1).div_ceil(KEY_CHUNK);
            if split && chunks > 1 && parts + n * chunks <= buf.part_room {
                for r in row..row + n {
                    let chunks = (rows.pos[r] as usize + 1).div_ceil(KEY_CHUNK);
                    for chunk in 0..chunks {
                        buf.tasks.push(Task {
                            seq,
                            row: r,
                            rows: 1,
                            chunk,
                            chunks: 1,
                            part: Some(parts + chunk),
                        });
                    }
                    buf.merges.push((r, parts, chunks));
                    parts += chunks;
                }
            } else {
                buf.tasks.push(Task { seq, row, rows: n, chunk: 0, chunks, part: None });
            }
            row += n;
        }
    }
}

/// Phase B: attention of every row over its own path.
pub fn attend(cpu: &Cpu, shape: &AttnShape, rows: &RowMap, layer: usize, pages: &Pages, buf: &mut Buf) {
    let (hd, kv_heads) = (shape.head_dim, shape.kv_heads);
    let q = Rows::new(&mut buf.q);
    let att = Rows::new(&mut buf.att);
    let parts = SharedMut::new(&mut buf.parts);
    let scratch = SharedMut::new(&mut buf.scratch);
    let len = buf.scratch_len;
    let (tasks, merges) = (&buf.tasks, &buf.merges);
    cpu.pool.run(|worker| {
        // SAFETY: each worker has its own scratch.
        let scratch = unsafe { scratch.slice(worker.index() * len, len) };
        worker.share(0, tasks.len() * kv_heads, 1, |range| {
            for unit in range {
                let (task, head) = (&tasks[unit / kv_heads], unit % kv_heads);
                let job = AttendJob { rung: cpu.rung, shape, rows, layer, pages, task, head };
                job.run(q, att, parts, scratch);
            }
        });
        if merges.is_empty() {
            return;
        }
        worker.barrier();
        worker.share(1, merges.len() * shape.heads, 1, |range| {
            for unit in range {
                let ((row, first, count), h) = (merges[unit / shape.heads], unit % shape.heads);
                let line = hd + 2;
                // SAFETY: a row's head is handed out once; parts are read by it alone.
                unsafe {
                    let at = |i: usize| parts.slice(((first + i) * shape.heads + h) * line, line);
                    let own = at(0);
                    let (mut m, mut l) = (own[hd], own[hd + 1]);
                    for i in 1..count {
                        let other = at(i);
                        let (m2, l2) = (other[hd], other[hd + 1]);
                        (cpu.rung.merge)(&mut m, &mut l, own.as_mut_ptr(), m2, l2, other.as_ptr(), hd);
                    }
                    (cpu.rung.finish)(l, own.as_ptr(), hd, att.part(row, h * hd, hd).as_mut_ptr());
                }
            }
        });
    });
}

/// One task on one KV head.
struct AttendJob<'a> {
    rung: &'static Rung,
    shape: &'a AttnShape,
    rows: &'a RowMap,
    layer: usize,
    pages: &'a Pages,
    task: &'a Task,
    head: usize,
}

impl AttendJob<'_> {
    fn run(&self, q: Rows<'_>, att: Rows<'_>, parts: SharedMut<'_, f32>, scratch: &mut [f32]) {
        let (hd, task) = (self.shape.head_dim, self.task);
        let per_head = self.shape.heads / self.shape.kv_heads;
        let n = task.rows * per_head;
        let (queries, rest) = scratch.split_at_mut(n * hd);
        let (o, rest) = rest.split_at_mut(n * hd);
        let (total, rest) = rest.split_at_mut(n * hd);
        let (m, rest) = rest.split_at_mut(n);
        let (l, rest) = rest.split_at_mut(n);
        let (total_m, rest) = rest.split_at_mut(n);
        let (total_l, gathered) = rest.split_at_mut(n);
        for i in 0..n {
            let (r, h) = (task.row + i / per_head, self.head * per_head + i % per_head);
            // SAFETY: queries are only read in this phase.
            let from = unsafe { q.part(r, h * hd, hd) };
            for (to, v) in queries[i * hd..][..hd].iter_mut().zip(from) {
                *to = *v * self.shape.scale;
            }
        }
        total_l.fill(0.0);
        let last = self.rows.pos[task.row + task.rows - 1] as usize;
        for chunk in task.chunk..task.chunk + task.chunks {
            m.fill(f32::NEG_INFINITY);
            l.fill(0.0);
            o.fill(0.0);
            for key in (chunk * KEY_CHUNK..((chunk + 1) * KEY_CHUNK).min(last + 1)).step_by(KEY_BLOCK) {
                let (k, v) = self.block(key, last, gathered);
                let next = self.next(key + KEY_BLOCK, last).unwrap_or([k, v]);
                let seen = |i: usize| {
                    let pos = self.rows.pos[task.row + i / per_head] as usize;
                    (pos + 1).saturating_sub(key).min(KEY_BLOCK)
                };
                let mut at = 0;
                while at < n {
                    let (i, keys) = (at, seen(at));
                    // Only queries that see the same keys go together: the weight 0 of a later row's value does not
                    // keep it from an earlier row if it is infinite or not a number.
                    let mut alike = 1;
                    while i + alike < n && seen(i + alike) == keys {
                        alike += 1;
                    }
                    // As even as can be: 7 as 4 + 3, not 6 + 1.
                    let count = alike.div_ceil(alike.div_ceil(self.rung.queries));
                    at += count;
                    if keys == 0 {
                        continue;
                    }
                    let block = Block {
                        q: queries[i * hd..].as_ptr(),
                        n: count,
                        head_dim: hd,
                        seen: [keys; QUERIES],
                        k,
                        v,
                        next,
                        m: m[i..].as_mut_ptr(),
                        l: l[i..].as_mut_ptr(),
                        o: o[i * hd..].as_mut_ptr(),
                    };
                    let f = if self.pages.size() == 4 { self.rung.attend_f32 } else { self.rung.attend_f16 };
                    // SAFETY: the state holds `count` queries of `hd` floats from i on; `block` gave pages that hold
                    // every key that is seen.
                    unsafe { f(&block) };
                }
            }
            for i in 0..n {
                if l[i] == 0.0 && m[i] == f32::NEG_INFINITY {
                    continue; // the row ends before this chunk
                }
                let (part, whole) = (&o[i * hd..][..hd], &mut total[i * hd..][..hd]);
                if total_l[i] == 0.0 {
                    whole.copy_from_slice(part);
                    (total_m[i], total_l[i]) = (m[i], l[i]);
                } else {
                    let (tm, tl) = (&mut total_m[i], &mut total_l[i]);
                    // SAFETY: both hold `hd` floats.
                    unsafe { (self.rung.merge)(tm, tl, whole.as_mut_ptr(), m[i], l[i], part.as_ptr(), hd) };
                }
            }
        }
        for i in 0..n {
            let (r, h) = (task.row + i / per_head, self.head * per_head + i % per_head);
            let whole = &total[i * hd..][..hd];
            // SAFETY: this row's head, and its part, belong to this task alone.
            unsafe {
                match task.part {
                    Some(part) => {
                        let to = parts.slice((part * self.shape.heads + h) * (hd + 2), hd + 2);
                        to[..hd].copy_from_slice(whole);
                        (to[hd], to[hd + 1]) = (total_m[i], total_l[i]);
                    }
                    None => {
                        let to = att.part(r, h * hd, hd);
                        (self.rung.finish)(total_l[i], whole.as_ptr(), hd, to.as_mut_ptr());
                    }
                }
            }
        }
    }

    /// The four pages of the block of keys from `key` on: in place when slots follow positions, else gathered into
    /// position order.
    fn block(&self, key: usize, last: usize, gathered: &mut [f32]) -> ([*const u8; 4], [*const u8; 4]) {
        let seq = &self.rows.seqs[self.task.seq];
        let end = (key + KEY_BLOCK).min(last + 1);
        if self.rows.path_at[self.task.row].is_some() && end > seq.committed {
            return self.gather(key, end, gathered);
        }
        let table = &self.rows.table[seq.table..];
        // Past the end the last page stands in; its keys are not seen.
        let page = |i: usize| table[(key / PAGE + i).min((end - 1) / PAGE)];
        let ptr = |f: &dyn Fn(PageId) -> *const u8| [f(page(0)), f(page(1)), f(page(2)), f(page(3))];
        (ptr(&|p| self.pages.k(self.layer, p, self.head)), ptr(&|p| self.pages.v(self.layer, p, self.head)))
    }

    /// The pages in place of the block from `key` on, if this task has one.
    fn next(&self, key: usize, last: usize) -> Option<[[*const u8; 4]; 2]> {
        let end = ((self.task.chunk + self.task.chunks) * KEY_CHUNK).min(last + 1);
        let table = &self.rows.table[self.rows.seqs[self.task.seq].table..];
        let page = |i: usize| table.get((key / PAGE + i).min((end - 1) / PAGE)).copied();
        (key < end).then_some(())?;
        let pages = [page(0)?, page(1)?, page(2)?, page(3)?];
        Some([
            pages.map(|p| self.pages.k(self.layer, p, self.head)),
            pages.map(|p| self.pages.v(self.layer, p, self.head)),
        ])
    }

    fn gather(&self, key: usize, end: usize, to: &mut [f32]) -> ([*const u8; 4], [*const u8; 4]) {
        let (hd, size) = (self.shape.head_dim, self.pages.size());
        let half = KEY_BLOCK * hd * size;
        let page = PAGE * hd * size;
        assert!(2 * half <= std::mem::size_of_val(to), "gather scratch");
        let base = to.as_mut_ptr().cast::<u8>();
        for p in key..end {
            let Slot { page: from, offset } = self.rows.slot_at(self.task.row, p);
            let (i, lane, at) = (p - key, (p - key) % PAGE, offset as usize);
            let (k, v) =
                (self.pages.k(self.layer, from, self.head), self.pages.v(self.layer, from, self.head));
            // SAFETY: offsets stay within a head of a page on one side and within the asserted room on the other.
            unsafe {
                let kt = base.add(i / PAGE * page);
                for d in 0..hd {
                    let (src, dst) = (k.add((d * PAGE + at) * size), kt.add((d * PAGE + lane) * size));
                    std::ptr::copy_nonoverlapping(src, dst, size);
                }
                let vt = base.add(half + i * hd * size);
                std::ptr::copy_nonoverlapping(v.add(at * hd * size), vt, hd * size);
            }
        }
        let at = |from: usize, i: usize| base.wrapping_add(from + i * page).cast_const();
        (std::array::from_fn(|i| at(0, i)), std::array::from_fn(|i| at(half, i)))
    }
}
