#!/usr/bin/env python3
"""Small numpy twins of the operations that `tamp bench ops` times: the same mathematics at the same shapes.

One JSON line per operation: {"module", "operation", "us"} (median). `tamp bench ops --vs numpy` runs this file.
"""

import hashlib
import json
import os
import queue
import sys
import tempfile
import threading
import time

try:
    import numpy as np
except ImportError:
    sys.exit("numpy is not installed (pip install numpy)")

RNG = np.random.default_rng(1)


def f32(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def tree_verify():
    """Gumbel-max with counter noise over all logits at the root and after each of four accepted guesses, among three branches of four."""
    vocab, branches, depth, temperature = 4096, 3, 4, 0.8
    logits = f32(1 + branches * depth, vocab)

    def draw(at, position):
        noise = np.random.Generator(np.random.Philox(key=[7, position])).gumbel(size=vocab)
        return int(np.argmax(logits[at] / temperature + noise))

    tree, draws, at = {}, [], 0
    for d in range(depth + 1):
        draws.append(draw(at, d))
        at = 1 + (branches - 1) * depth + d
    for b in range(branches):
        for i in range(depth):
            token = draws[i] if b == branches - 1 else vocab
            parent = 0 if i == 0 else b * depth + i
            tree.setdefault(parent, []).append((token, 1 + b * depth + i))

    def run():
        at, kept = 0, []
        while True:
            token = draw(at, len(kept))
            kept.append(token)
            child = [node for guess, node in tree.get(at, []) if guess == token]
            if not child:
                return kept
            at = child[0]

    assert len(run()) == depth + 1
    return run


def flash_prefill():
    """Causal attention of 256 rows in chunks of 64 with the online softmax, 4 heads of 32."""
    seq, chunk, heads, d = 256, 64, 4, 32
    q, k, v = f32(heads, seq, d), f32(heads, seq, d), f32(heads, seq, d)
    scale = np.float32(1 / np.sqrt(d))
    mask = np.triu(np.full((chunk, chunk), -np.inf, dtype=np.float32), 1)

    def run():
        out = np.empty_like(q)
        for i in range(0, seq, chunk):
            m = np.full((heads, chunk, 1), -np.inf, dtype=np.float32)
            l = np.zeros((heads, chunk, 1), dtype=np.float32)
            o = np.zeros((heads, chunk, d), dtype=np.float32)
            for j in range(0, i + chunk, chunk):
                s = q[:, i:i + chunk] @ k[:, j:j + chunk].transpose(0, 2, 1) * scale
                if i == j:
                    s = s + mask
                top = np.maximum(m, s.max(axis=2, keepdims=True))
                p = np.exp(s - top)
                fade = np.exp(m - top)
                l = l * fade + p.sum(axis=2, keepdims=True)
                o = o * fade + p @ v[:, j:j + chunk]
                m = top
            out[:, i:i + chunk] = o / l
        return out

    s = q @ k.transpose(0, 2, 1) * scale + np.triu(np.full((seq, seq), -np.inf, dtype=np.float32), 1)
    p = np.exp(s - s.max(axis=2, keepdims=True))
    assert np.allclose(run(), p / p.sum(axis=2, keepdims=True) @ v, atol=1e-4)
    return run


def pack(count, shortest, longest):
    """Prompts laid out one after another: tokens, positions, sequence of each row, first rows."""
    def prepare():
        lengths = [shortest + (longest - shortest) * s // (count - 1) for s in range(count)]
        prompts = [np.arange(n, dtype=np.int32) for n in lengths]

        def run():
            tokens = np.concatenate(prompts)
            positions = np.concatenate([np.arange(len(p), dtype=np.int32) for p in prompts])
            sequence = np.repeat(np.arange(count, dtype=np.int32), [len(p) for p in prompts])
            first = np.cumsum([0] + [len(p) for p in prompts])
            return tokens, positions, sequence, first

        return run

    return prepare


def products(*rows):
    """f32 matrix-vector products of 4096 columns, one after another; more than one row count means a head behind."""
    def prepare():
        x = f32(4096)
        weights = [f32(n, 4096) for n in rows]

        def run():
            y = x
            for w in weights:
                y = w @ y[:4096]
            return y

        return run

    return prepare


def dedupe(same):
    """Page tables of 16 sequences of 32 pages compared with the first of each group."""
    def prepare():
        tables = [np.concatenate([np.arange(same // 16), s * 1000 + np.arange(same // 16, 33)]) for s in range(16)]

        def run():
            groups = []
            for s, table in enumerate(tables):
                for g in groups:
                    if np.array_equal(tables[g[0]][:32], table[:32]):
                        g.append(s)
                        break
                else:
                    groups.append([s])
            return groups

        assert len(run()) == (1 if same else 16)
        return run

    return prepare


def next_request():
    """Two tenants in order of what each was charged over its weight, both charged a row."""
    served, weight = {0: 0.0, 1: 0.0}, {0: 1.0, 1: 2.0}
    lines = [{"tenant": t, "left": 1} for t in (0, 1)]

    def run():
        order = sorted(lines, key=lambda l: served[l["tenant"]])
        turn = [(l["tenant"], l["left"]) for l in order]
        for tenant, rows in turn:
            served[tenant] += 2.0 * rows / weight[tenant]
        return turn

    return run


def submit():
    """A request into a bounded queue and out of it."""
    box, prompt = queue.Queue(64), [1] * 64

    def run():
        box.put_nowait({"prompt": list(prompt), "tenant": 1, "received": time.monotonic()})
        return box.get_nowait()

    return run


def record_access():
    """Decayed use of a cached prefix of 8 tokens."""
    cached, tokens = {tuple(range(16)): [1.0, 0.0]}, list(range(8))

    def run():
        found = next(k for k in cached if list(k[:8]) == tokens)
        now, entry = time.monotonic(), cached[found]
        entry[0] = entry[0] * 2.0 ** (-(now - entry[1]) / 3600) + 1.0
        entry[1] = now
        return found

    return run


def candidates():
    """The 8 of 64 prefixes with the most decayed uses times length, and whether they are cached."""
    prefixes = [tuple(i * 1009 + t for t in range(16)) for i in range(64)]
    uses, at, cached = np.full(64, 3.0), np.zeros(64), set(prefixes)

    def run():
        worth = uses * np.exp2(-(time.monotonic() - at) / 3600) * 16
        top = np.argsort(-worth, kind="stable")[:8]
        return [prefixes[i] for i in top if prefixes[i] not in cached]

    return run


def tick():
    """A token reserved and settled under a lock."""
    lock, budget = threading.Lock(), {"free": 1 << 60, "reserved": 0, "spent": 0}

    def run():
        with lock:
            got = min(1, budget["free"])
            budget["free"] -= got
            budget["reserved"] += got
        with lock:
            budget["reserved"] -= got
            budget["spent"] += got

    return run


def reset():
    """A request's end settled, and whether the next one may begin."""
    lock, budget, grants, over, seq = threading.Lock(), {"free": 1 << 60}, {}, {}, [0]

    def run():
        grants.pop(seq[0], None)
        over.pop(seq[0], None)
        seq[0] += 1
        with lock:
            return budget["free"] > 0

    return run


def ring():
    return np.zeros((65536, 5), dtype=np.uint64), [0]


def span():
    """A span of five words into a ring."""
    slots, at = ring()

    def run():
        slots[at[0] % 65536] = (3, 1, at[0] * 9000, 8000, 1 << 32 | 1)
        at[0] += 1

    return run


def lifecycle():
    """A turn of one sequence, laid, kept and ended: two spans into a ring."""
    slots, at = ring()

    def run():
        laid = [[1, 1, 0]]
        for l in laid:
            if l[0] == 1:
                l[2] = 1
        for l in laid:
            slots[at[0] % 65536] = (3, l[0], at[0] * 9000, 8000, l[1] << 32 | l[2])
            at[0] += 1
        slots[at[0] % 65536] = (5, 0, at[0] * 9000, 8000, 1 << 32 | len(laid))
        at[0] += 1

    return run


def marks(tokens, start):
    """Chained hashes of the full pages of a prompt from a page on."""
    out, chain = [], 0
    for i in range(len(tokens) // 16):
        chain = hash((chain, tuple(tokens[16 * i:16 * i + 16])))
        if i >= start:
            out.append((i, chain))
    return out


def held(prompts, there):
    def run():
        started, fresh, out = set(), set(), []
        for tokens, committed in prompts:
            if committed:
                started.update(marks(tokens, committed // 16))
        for tokens, committed in prompts:
            if committed:
                out.append(False)
                continue
            own = marks(tokens, there // 16)
            wait = bool(own) and (own[0] in started or own[0] in fresh)
            if not wait:
                fresh.update(own)
            out.append(wait)
        return out

    return run


def buffering():
    """A newcomer is held behind a prompt under way that begins alike."""
    run = held([(list(range(64)), 16), (list(range(64)), 0)], 16)
    assert run() == [False, True]
    return run


def coalesced():
    """Of four newcomers with 20 tokens in common the first starts."""
    run = held([(list(range(20)) + list(range(1000 * i, 1000 * i + 20)), 0) for i in range(1, 5)], 0)
    assert run() == [False, True, True, True]
    return run


def evaluate(share):
    """Levels reached by a share of memory in use, with a margin on the way back, and what they ask for."""
    def prepare():
        at, state = np.array([0.85, 0.90, 0.93, 0.96]), {"level": 0}

        def run():
            up, stays = int((share >= at).sum()), int((share >= at - 0.04).sum())
            level = max(up, min(stays, state["level"]))
            state["level"] = level
            return {"level": level, "no_draft": level >= 2, "most": 4 if level >= 3 else 0, "refuse": level >= 4}

        return run

    return prepare


def estimate():
    """Prefill, decode and page time of 512 and 128 tokens from four rates."""
    base, prompt, token, key = 9e6, 1.1e6, 0.6e6, 8e4

    def run():
        rows, said, chunk = 512.0, 127.0, 256.0
        passes = -(-rows // chunk)
        prefill = base + rows / passes * prompt + rows * (rows + 1) / 2 / passes / 1e3 * key
        decode = base + token + (rows + (said + 1) / 2) / 1e3 * key
        pages = rows / 2 / 16 * passes * prefill + (rows + said / 2) / 16 * said * decode
        return passes * prefill, said * decode, pages / 1e6

    return run


FOLDER = None


def folder():
    global FOLDER
    FOLDER = FOLDER or tempfile.TemporaryDirectory()
    return FOLDER.name


def write(path, page):
    body = page.tobytes()
    with open(path + ".tmp", "wb") as f:
        f.write(hashlib.blake2b(body, digest_size=32).digest())
        f.write(body)
    os.replace(path + ".tmp", path)


PAGE = (2, 16, 8, 64)


def put():
    """A page of 16 positions hashed, written to a file, renamed, the eldest of 31 removed."""
    page, at, where = np.full(PAGE, 3, dtype=np.float16), [0], folder()

    def run():
        at[0] += 1
        write(os.path.join(where, f"put-{at[0]}"), page)
        if at[0] > 31:
            os.remove(os.path.join(where, f"put-{at[0] - 31}"))

    return run


def get():
    """The same page read back and checked."""
    path = os.path.join(folder(), "get")
    write(path, np.full(PAGE, 3, dtype=np.float16))

    def run():
        with open(path, "rb") as f:
            seen, body = f.read(32), f.read()
        assert hashlib.blake2b(body, digest_size=32).digest() == seen
        return np.frombuffer(body, dtype=np.float16).reshape(PAGE)

    return run


EDGES = np.geomspace(1e-6, 1e3, 256)


def record_request():
    """A time into the histogram of its slice, its tallies, and an end."""
    times, tallies, ends = np.zeros((30, 257), np.uint64), np.zeros((30, 3), np.uint64), np.zeros((30, 2), np.uint64)
    now = [0.0]

    def run():
        now[0] += 1e-4
        i = int(now[0]) % 30
        times[i, np.searchsorted(EDGES, 0.18)] += 1
        tallies[i] += np.array([1, 0.18 > 1.0, 0.18 > 3.0], np.uint64)
        ends[i, 0] += 1

    return run


def overall_health():
    """Four times and failures of 30 slices, each against what chance explains."""
    tallies, ends = np.tile(np.array([10, 0, 0], np.uint64), (30, 4, 1)), np.tile(np.array([10, 0], np.uint64), (30, 1))

    def run():
        sums, (ended, failed) = tallies.sum(axis=0), ends.sum(axis=0)
        allowed = 0.01 * sums[:, 0]
        slow = sums[:, 1:] > (allowed + 3 * np.sqrt(allowed) + 2)[:, None]
        fails = failed > 0.02 * ended + 3 * np.sqrt(0.02 * ended) + 2
        return bool(slow.any() or fails)

    return run


def acquire():
    """A counted lease of a loaded model under a lock."""
    lock, models = threading.Lock(), {"m": {"model": object(), "users": 0, "used": 0.0}}

    def run():
        with lock:
            entry = models["m"]
            entry["users"] += 1
            model = entry["model"]
        with lock:
            entry["users"] -= 1
            entry["used"] = time.monotonic()
        return model

    return run


def stream(tokens):
    """Tokens written as events of four."""
    def prepare():
        def run():
            out, text, waiting, since = [], "", 0, time.monotonic()
            for _ in range(tokens):
                text += " word"
                waiting += 1
                if waiting == 4 or time.monotonic() - since > 0.1:
                    out.append("data: " + json.dumps({"choices": [{"index": 0, "text": text}]}) + "\n\n")
                    text, waiting, since = "", 0, time.monotonic()
            return "".join(out)

        assert run().count("\n\n") == tokens // 4
        return run

    return prepare


def sla_record():
    """A time counted into a tenant's slice and minute."""
    slices, minute, now = np.zeros((61, 2), np.uint64), [0, 0], [0.0]

    def run():
        now[0] += 1e-4
        i, missed = int(now[0] / 10) % 61, 0.4 > 0.5
        slices[i, 0] += 1
        slices[i, 1] += missed
        minute[0] += 1
        minute[1] += missed

    return run


def sla_check():
    """Burn rates of four objectives over the short and the long window."""
    slices = np.zeros((4, 61, 2), np.uint64)
    slices[[0, 3], :5, 0] = 20
    may = np.array([0.01, 0.01, 0.01, 0.01])

    def run():
        def burn(window):
            sums = window.sum(axis=1)
            return np.where(sums[:, 0] > 0, sums[:, 1] / np.maximum(sums[:, 0], 1), 0.0) / may

        both = np.minimum(burn(slices[:, :6]), burn(slices))
        return np.where(both >= 10, 2, np.where(both >= 2, 1, 0)).max()

    return run


OPS = {
    "TreeVerifier|verify() 3-branch 4-draft vocab=4096": tree_verify,
    "FlashPrefillKernel|prefill() seq=256 chunk=64 h=4 d=32": flash_prefill,
    "SeqPacking|pack() 32 short seqs (8–64 tokens)": pack(32, 8, 64),
    "SeqPacking|pack() 8 long seqs (128–512 tokens)": pack(8, 128, 512),
    "AttentionDeduplicator|lookup() cache=512 d=64 (miss)": dedupe(0),
    "AttentionDeduplicator|store() FIFO evict": dedupe(512),
    "TenantScheduler|next_request() WFQ 2 tenants": next_request,
    "TenantScheduler|submit() single request": submit,
    "CacheWarmupPredictor|record_access() 8 tokens": record_access,
    "CacheWarmupPredictor|get_warmup_candidates() top_k=8": candidates,
    "TokenBudgetGate|tick() hard mode": tick,
    "TokenBudgetGate|reset() new request": reset,
    "SpanCollector|record() DECODE span": span,
    "SpanCollector|record()+finish() full lifecycle": lifecycle,
    "PrefixCoalescer|add_request() buffering": buffering,
    "PrefixCoalescer|add×4+coalesce() 20-tok prefix": coalesced,
    "InferenceHealthMonitor|record_request() latency=180ms": record_request,
    "InferenceHealthMonitor|overall_health() p99+error": overall_health,
    "FaultHandler|evaluate() pressure=0.95 batch=8": evaluate(0.95),
    "FaultHandler|evaluate() pressure=0.50 batch=8": evaluate(0.50),
    "ModelPool|acquire()+release() cache hit 512MB": acquire,
    "ChunkedStreamer|stream() 64 tokens chunk_size=4": stream(64),
    "ChunkedStreamer|stream() 16 tokens chunk_size=4": stream(16),
    "RequestCostEstimator|estimate() prefill=512 decode=128": estimate,
    "SLAMonitor|record() latency=400ms": sla_record,
    "SLAMonitor|check() window=100": sla_check,
    "PersistentContextCache|put() 8 tokens kv=(8,8,64)": put,
    "PersistentContextCache|get() hit_rate=100.0%": get,
    "PIPO|run_layer() in=out=4096": products(4096),
    "FRSpec|head.forward() top-25% vocab": products(8192),
    "LongSpec|LongSpecHead.forward() h=4096": products(4096, 32000),
}


def measure(run):
    """Median of samples long enough to be read off a clock."""
    run()
    start = time.perf_counter()
    run()
    calls = max(1, min(10_000, int(5e-4 / max(time.perf_counter() - start, 1e-7))))
    samples, begun = [], time.perf_counter()
    while len(samples) < 5 or (len(samples) < 301 and time.perf_counter() - begun < 0.5):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        samples.append((time.perf_counter() - start) / calls)
    return sorted(samples)[len(samples) // 2] * 1e6


def main():
    for key, prepare in OPS.items():
        module, operation = key.split("|", 1)
        print(json.dumps({"module": module, "operation": operation, "us": measure(prepare())}), flush=True)


if __name__ == "__main__":
    main()
