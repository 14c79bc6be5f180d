#!/usr/bin/env python3
"""Small numpy twins of the operations that `tamp bench ops` times: the same mathematics at the same shapes.

One JSON line per operation: {"module", "operation", "us"} (median). `tamp bench ops --vs numpy` runs this file.
"""

import json
import sys
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


OPS = {
    "TreeVerifier|verify() 3-branch 4-draft vocab=4096": tree_verify,
    "FlashPrefillKernel|prefill() seq=256 chunk=64 h=4 d=32": flash_prefill,
    "SeqPacking|pack() 32 short seqs (8–64 tokens)": pack(32, 8, 64),
    "SeqPacking|pack() 8 long seqs (128–512 tokens)": pack(8, 128, 512),
    "PIPO|run_layer() in=out=4096": products(4096),
    "FRSpec|head.forward() top-25% vocab": products(8192),
    "LongSpec|LongSpecHead.forward() h=4096": products(4096, 32000),
}


def measure(run):
    run()
    samples, begun = [], time.perf_counter()
    while len(samples) < 5 or (len(samples) < 301 and time.perf_counter() - begun < 0.5):
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    return sorted(samples)[len(samples) // 2] * 1e6


def main():
    for key, prepare in OPS.items():
        module, operation = key.split("|", 1)
        print(json.dumps({"module": module, "operation": operation, "us": measure(prepare())}), flush=True)


if __name__ == "__main__":
    main()
