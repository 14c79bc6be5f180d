#!/usr/bin/env python3
"""How close are the numbers? KL divergence and perplexity of tamp and llama.cpp against an f32 forward.

The reference is tamp's own f32-activation forward of the same weights (`--use weights.decode=f32 --use kv.codec=f32`),
itself checked against llama.cpp on an F32 file with `--check`. Windows are those of llama-perplexity: full windows of
--ctx tokens, BOS first where the model asks for it, the second half of each scored.

Needs numpy and llama-cpp-python. Writes one JSON line per model and text.

    python bench/peers/kl.py --tamp target/release/tamp --model M.gguf --text prose.txt --windows 20
"""

import argparse
import json
import math
import os
import subprocess
import tempfile

import numpy as np


def tamp_logits(tamp, model, text, ctx, windows, use, out):
    args = [tamp, "eval", "ppl", model, "--text", text, "--ctx", str(ctx), "--chunks", str(windows), "--json",
            "--logits", out]
    for u in use:
        args += ["--use", u]
    last = subprocess.run(args, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
    return json.loads(last)


def tamp_tokens(tamp, model, text):
    args = [tamp, "tokenize", model, "--file", text, "--json"]
    out = subprocess.run(args, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
    return json.loads(out)["tokens"]


class Llama:
    """llama.cpp with full logits, one window at a time."""

    def __init__(self, model, ctx, threads, f32_cache):
        import llama_cpp

        self.ctx = ctx
        kind = {"type_k": 0, "type_v": 0} if f32_cache else {}
        self.llm = llama_cpp.Llama(model, n_ctx=ctx, n_batch=ctx, n_threads=threads, n_threads_batch=threads,
                                   logits_all=True, verbose=False, **kind)
        add = llama_cpp.llama_vocab_get_add_bos(llama_cpp.llama_model_get_vocab(self.llm.model))
        self.bos = self.llm.token_bos() if add else None

    def window(self, ids):
        self.llm.reset()
        self.llm.eval(ids)
        return self.llm.scores[self.ctx // 2: self.ctx - 1]


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


class Tally:
    """KL to the reference, agreement, and negative log likelihood of the text."""

    def __init__(self):
        self.kl, self.same, self.nll = [], [], []

    def add(self, ref, own, targets):
        p = np.exp(ref)
        self.kl.extend((p * (ref - own)).sum(axis=1))
        self.same.extend(ref.argmax(axis=1) == own.argmax(axis=1))
        self.nll.extend(-own[np.arange(len(targets)), targets])


def stderr(x):
    return float(np.std(x, ddof=1) / math.sqrt(len(x)))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--tamp", default="target/release/tamp")
    a.add_argument("--model", required=True)
    a.add_argument("--text", required=True)
    a.add_argument("--ctx", type=int, default=512)
    a.add_argument("--windows", type=int, default=20)
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--check", action="store_true",
                   help="the model is an F32 file: compare the reference itself with llama.cpp, F32 cache on both")
    a.add_argument("--scratch", default=None, help="folder for logits (gigabytes for large vocabularies)")
    o = a.parse_args()

    ids = tamp_tokens(o.tamp, o.model, o.text)
    windows = min(o.windows, len(ids) // o.ctx)
    peer = Llama(o.model, o.ctx, o.threads, o.check)
    reference = ["weights.decode=f32", "kv.codec=f32"]
    arms = {"f32": reference} if o.check else {"f32": reference, "tamp": []}
    per = o.ctx - 1 - o.ctx // 2
    with tempfile.TemporaryDirectory(dir=o.scratch) as scratch:
        maps, reports = {}, {}
        for name, use in arms.items():
            path = os.path.join(scratch, name)
            reports[name] = tamp_logits(o.tamp, o.model, o.text, o.ctx, windows, use, path)
            flat = np.memmap(path, dtype=np.float32, mode="r")
            maps[name] = flat.reshape(windows * per, -1)
        tallies = {n: Tally() for n in [*arms, "llama.cpp"]}
        for w in range(windows):
            window = list(ids[w * o.ctx:(w + 1) * o.ctx])
            targets = np.array(window[o.ctx // 2 + 1:])
            if peer.bos is not None:
                window[0] = peer.bos
            ref = log_softmax(maps["f32"][w * per:(w + 1) * per])
            for name in arms:
                tallies[name].add(ref, log_softmax(maps[name][w * per:(w + 1) * per]), targets)
            tallies["llama.cpp"].add(ref, log_softmax(np.array(peer.window(window))), targets)

    base = np.array(tallies["f32"].nll)
    row = {"kind": "tamp.peers.kl", "v": 1, "model": os.path.basename(o.model), "text": os.path.basename(o.text),
           "ctx": o.ctx, "positions": len(base), "check": o.check, "arms": {}}
    for name, t in tallies.items():
        nll = np.array(t.nll)
        delta = nll - base
        row["arms"][name] = {
            "kl": float(np.mean(t.kl)), "kl_stderr": stderr(t.kl), "same_top": float(np.mean(t.same)),
            "ppl": float(np.exp(nll.mean())), "d_ln_ppl": float(delta.mean()), "d_ln_ppl_stderr": stderr(delta),
        }
    if not o.check:
        ours, theirs = row["arms"]["tamp"], row["arms"]["llama.cpp"]
        pair = np.array(tallies["tamp"].nll) - np.array(tallies["llama.cpp"].nll)
        row["kl_ratio"] = ours["kl"] / theirs["kl"]
        row["pass_kl"] = ours["kl"] <= theirs["kl"]
        row["pass_ppl"] = abs(ours["d_ln_ppl"]) <= abs(theirs["d_ln_ppl"]) + 2 * stderr(pair)
    else:
        row["pass_kl"] = row["arms"]["llama.cpp"]["kl"] <= 1e-5
    print(json.dumps(row))


if __name__ == "__main__":
    main()
