//! Phase B: attention of every row over its own path, cut into tasks that any worker may take.

use tamp_base::ids::{PAGE, PageId};

use super::Cpu;
use super::buf::{Buf, Member, SPLIT_ROWS, TASK_VECTORS, Task};
use super::memory::Pages;
use super::parts::Rows;
use crate::attend::{Block, KEY_BLOCK, KEY_CHUNK, QUERIES};
use crate::device::{AttnShape, RowMap, Slot};
use crate::rung::Rung;
use crate::shared::SharedMut;

/// Cuts the batch into attention tasks: runs of rows of one sequence, or of several where these have their first keys in
/// the same pages; split by key chunks when rows are few.
pub fn plan(rows: &RowMap, workers: usize, buf: &mut Buf) {
    buf.tasks.clear();
    buf.merges.clear();
    buf.members.clear();
    buf.spared = 0;
    let split = workers > 1 && rows.rows() <= SPLIT_ROWS;
    let mut plan = Plan { rows, workers, split, parts: 0, buf };
    for alike in &rows.alike {
        plan.together(&alike.seqs, alike.keys);
    }
    for seq in 0..rows.seqs.len() {
        if !rows.alike.iter().any(|a| a.seqs.contains(&(seq as u32))) {
            plan.alone(seq);
        }
    }
}

/// Whether row `r + 1` attends what row `r` does and one key more.
fn follows(rows: &RowMap, r: usize) -> bool {
    r + 1 < rows.rows()
        && rows.seq[r] == rows.seq[r + 1]
        && rows.path_at[r].is_none()
        && rows.path_at[r + 1].is_none()
}

/// The cutting of one batch.
struct Plan<'a> {
    rows: &'a RowMap,
    workers: usize,
    split: bool,
    /// slots of parts that are taken
    parts: usize,
    buf: &'a mut Buf,
}

impl Plan<'_> {
    /// Rows that one task may have.
    fn most(&self) -> usize {
        (TASK_VECTORS / (self.buf.shape.heads / self.buf.shape.kv_heads)).max(1)
    }

    fn chunks(&self, row: usize) -> usize {
        (self.rows.pos[row] as usize + 1).div_ceil(KEY_CHUNK)
    }

    /// Rows of one sequence: those that follow each other go together.
    fn alone(&mut self, seq: usize) {
        let (s, most) = (&self.rows.seqs[seq], self.most());
        let mut row = s.first;
        while row < s.first + s.count {
            let mut n = 1;
            while n < most && follows(self.rows, row + n - 1) {
                n += 1;
            }
            self.task(&mut (row..row + n), 0);
            row += n;
        }
    }

    /// Rows of sequences that have positions `0..keys` in the same pages. Where that would leave workers idle, fewer rows
    /// go together.
    fn together(&mut self, seqs: &[u32], keys: usize) {
        let of = |&s: &u32| &self.rows.seqs[s as usize];
        let count: usize = seqs.iter().map(|s| of(s).count).sum();
        let shared = seqs.iter().map(|s| of(s).committed).min().unwrap_or(0).min(keys) / KEY_CHUNK;
        let units = count * self.buf.shape.kv_heads * if self.split { shared.max(1) } else { 1 };
        let most = self.most().min(units / (2 * self.workers)).max(1);
        let each = count.div_ceil(count.div_ceil(most).max(1)).max(1);
        let mut all = seqs.iter().flat_map(|s| of(s).first..of(s).first + of(s).count);
        let mut left = count;
        while left > 0 {
            let n = each.min(left);
            self.task(&mut all.by_ref().take(n), shared);
            left -= n;
        }
    }

    /// A task of these rows, of which chunks below `shared` lie in the same pages; or one per part.
    fn task(&mut self, rows: &mut dyn Iterator<Item = usize>, shared: usize) {
        let (first, mut longest, mut slots) = (self.buf.members.len(), 0, 0);
        for row in rows {
            let chunks = self.chunks(row);
            let seq = self.rows.seq[row] as usize;
            self.buf.members.push(Member { row, seq, part: self.parts + slots });
            (longest, slots) = (longest.max(chunks), slots + chunks);
        }
        let count = self.buf.members.len() - first;
        let whole = Task { first, rows: count, chunk: 0, chunks: longest, shared, split: false };
        let alone = (first + 1..first + count)
            .filter(|&i| !follows(self.rows, self.buf.members[i - 1].row) || !self.adjoins(i))
            .count();
        self.buf.spared += alone * shared * KEY_CHUNK;
        if !self.split || longest < 2 || self.parts + slots > self.buf.part_room {
            self.buf.tasks.push(whole);
            return;
        }
        for chunk in 0..shared {
            self.buf.tasks.push(Task { chunk, chunks: 1, split: true, ..whole });
        }
        for i in first..first + count {
            let Member { row, part, .. } = self.buf.members[i];
            let chunks = self.chunks(row);
            for chunk in shared..chunks {
                self.buf.tasks.push(Task { first: i, rows: 1, chunk, chunks: 1, shared: 0, split: true });
            }
            self.buf.merges.push((row, part, chunks));
        }
        self.parts += slots;
    }

    /// Whether member `i` is the row behind member `i - 1`.
    fn adjoins(&self, i: usize) -> bool {
        self.buf.members[i].row == self.buf.members[i - 1].row + 1
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
    let (tasks, merges, members) = (&buf.tasks, &buf.merges, &buf.members);
    cpu.pool.run(|worker| {
        // SAFETY: each worker has its own scratch.
        let scratch = unsafe { scratch.slice(worker.index() * len, len) };
        worker.share(0, tasks.len() * kv_heads, 1, |range| {
            for unit in range {
                let (task, head) = (&tasks[unit / kv_heads], unit % kv_heads);
                let members = &members[task.first..task.first + task.rows];
                let job = AttendJob { rung: cpu.rung, shape, rows, layer, pages, task, members, head };
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
    members: &'a [Member],
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
            let (r, h) = (self.members[i / per_head].row, self.head * per_head + i % per_head);
            // SAFETY: queries are only read in this phase.
            let from = unsafe { q.part(r, h * hd, hd) };
            for (to, v) in queries[i * hd..][..hd].iter_mut().zip(from) {
                *to = *v * self.shape.scale;
            }
        }
        total_l.fill(0.0);
        for chunk in task.chunk..task.chunk + task.chunks {
            m.fill(f32::NEG_INFINITY);
            l.fill(0.0);
            o.fill(0.0);
            let mut run = 0..0;
            while run.end < self.members.len() {
                run = run.end..self.run_end(run.end, chunk);
                let last = self.rows.pos[self.members[run.end - 1].row] as usize;
                for key in (chunk * KEY_CHUNK..((chunk + 1) * KEY_CHUNK).min(last + 1)).step_by(KEY_BLOCK) {
                    let (k, v) = self.block(&self.members[run.start], key, last, gathered);
                    let next = self.next(&self.members[run.start], key + KEY_BLOCK, last).unwrap_or([k, v]);
                    let seen = |i: usize| {
                        let pos = self.rows.pos[self.members[i / per_head].row] as usize;
                        (pos + 1).saturating_sub(key).min(KEY_BLOCK)
                    };
                    let (mut at, end) = (run.start * per_head, run.end * per_head);
                    while at < end {
                        let (i, keys) = (at, seen(at));
                        // Only queries that see the same keys go together: the weight 0 of a later row's value does
                        // not keep it from an earlier row if it is infinite or not a number.
                        let mut alike = 1;
                        while i + alike < end && seen(i + alike) == keys {
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
                        let f =
                            if self.pages.size() == 4 { self.rung.attend_f32 } else { self.rung.attend_f16 };
                        // SAFETY: the state holds `count` queries of `hd` floats from i on; `block` gave pages that
                        // hold every key that is seen.
                        unsafe { f(&block) };
                    }
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
            let (member, h) = (&self.members[i / per_head], self.head * per_head + i % per_head);
            let whole = &total[i * hd..][..hd];
            // SAFETY: this row's head, and its part, belong to this task alone.
            unsafe {
                if task.split {
                    let part = member.part + task.chunk;
                    let to = parts.slice((part * self.shape.heads + h) * (hd + 2), hd + 2);
                    to[..hd].copy_from_slice(whole);
                    (to[hd], to[hd + 1]) = (total_m[i], total_l[i]);
                } else {
                    let to = att.part(member.row, h * hd, hd);
                    (self.rung.finish)(total_l[i], whole.as_ptr(), hd, to.as_mut_ptr());
                }
            }
        }
    }

    /// Behind the last member that has the keys of `chunk` where member `at` has them.
    fn run_end(&self, at: usize, chunk: usize) -> usize {
        if chunk < self.task.shared {
            return self.members.len();
        }
        let more = self.members[at..].windows(2);
        at + 1 + more.take_while(|w| w[1].row == w[0].row + 1 && follows(self.rows, w[0].row)).count()
    }

    /// The four pages of the block of keys from `key` on: in place when slots follow positions, else gathered into
    /// position order.
    fn block(
        &self,
        of: &Member,
        key: usize,
        last: usize,
        gathered: &mut [f32],
    ) -> ([*const u8; 4], [*const u8; 4]) {
        let seq = &self.rows.seqs[of.seq];
        let end = (key + KEY_BLOCK).min(last + 1);
        if self.rows.path_at[of.row].is_some() && end > seq.committed {
            return self.gather(of.row, key, end, gathered);
        }
        let table = &self.rows.table[seq.table..];
        // Past the end the last page stands in; its keys are not seen.
        let page = |i: usize| table[(key / PAGE + i).min((end - 1) / PAGE)];
        let ptr = |f: &dyn Fn(PageId) -> *const u8| [f(page(0)), f(page(1)), f(page(2)), f(page(3))];
        (ptr(&|p| self.pages.k(self.layer, p, self.head)), ptr(&|p| self.pages.v(self.layer, p, self.head)))
    }

    /// The pages in place of the block from `key` on, if this task has one.
    fn next(&self, of: &Member, key: usize, last: usize) -> Option<[[*const u8; 4]; 2]> {
        let end = ((self.task.chunk + self.task.chunks) * KEY_CHUNK).min(last + 1);
        let table = &self.rows.table[self.rows.seqs[of.seq].table..];
        let page = |i: usize| table.get((key / PAGE + i).min((end - 1) / PAGE)).copied();
        (key < end).then_some(())?;
        let pages = [page(0)?, page(1)?, page(2)?, page(3)?];
        Some([
            pages.map(|p| self.pages.k(self.layer, p, self.head)),
            pages.map(|p| self.pages.v(self.layer, p, self.head)),
        ])
    }

    fn gather(&self, row: usize, key: usize, end: usize, to: &mut [f32]) -> ([*const u8; 4], [*const u8; 4]) {
        let (hd, size) = (self.shape.head_dim, self.pages.size());
        let half = KEY_BLOCK * hd * size;
        let page = PAGE * hd * size;
        assert!(2 * half <= std::mem::size_of_val(to), "gather scratch");
        let base = to.as_mut_ptr().cast::<u8>();
        for p in key..end {
            let Slot { page: from, offset } = self.rows.slot_at(row, p);
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
