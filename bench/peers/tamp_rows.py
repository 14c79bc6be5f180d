"""What the peers share: they take token ids and print the JSON rows of `tamp bench`.

    python3 bench/peers/peer_llama_cpp.py MODEL --work decode --ids ids.json --tokens 64 --threads 2

`ids.json` holds one list of token ids (`tamp tokenize MODEL --file TEXT --json`), or one per stream for --work batch.
With --serve a peer loads the model once, says that it is ready, and answers one request per line of stdin; this is
how `tamp bench vs` talks to it. With --sample ASK it reads a question of the lab (`tamp.lab.ask`, see
`lab/engines.toml`), answers it greedily, prints one `tamp.bench.sample` row and ends. A peer that is not installed says
so in one line and ends with code 3.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
import time


class Unsupported(Exception):
    """The engine cannot do this work."""


def milliseconds(seconds):
    return [s * 1e3 for s in seconds]


def quantile(samples, p):
    ordered = sorted(samples)
    return ordered[max(1, math.ceil(p * len(ordered))) - 1]


def decode_row(base, prefill_s, steps_s, prompt, total_s=None):
    """`steps_s`: time of each token after the first; or `total_s` and their number where an engine says no more."""
    count = len(steps_s) if total_s is None else steps_s
    total = sum(steps_s) if total_s is None else total_s
    row = {"kind": "tamp.bench.decode", "v": 1, **base, "decode_tok_s": count / total, "ttft_ms": prefill_s * 1e3,
           "prefill_ms": prefill_s * 1e3, "prompt_tokens": prompt, "tokens": count + 1}
    if total_s is None:
        ms = milliseconds(steps_s)
        row |= {"median_token_ms": statistics.median(ms), "p95_token_ms": quantile(ms, 0.95), "samples": ms}
    return row


def prefill_row(base, seconds, prompt):
    return {"kind": "tamp.bench.prefill", "v": 1, **base, "prefill_tok_s": prompt / seconds,
            "median_token_ms": seconds * 1e3 / prompt, "ttft_ms": seconds * 1e3, "prompt_tokens": prompt,
            "samples": [seconds * 1e3]}


def batch_row(base, steps_s, streams):
    step = statistics.median(steps_s)
    point = {"batch": streams, "total_tok_s": streams / step, "per_sequence_tok_s": 1 / step, "step_ms": step * 1e3,
             "samples": milliseconds(steps_s)}
    return {"kind": "tamp.bench.batch", "v": 1, **base, "points": [point]}


def one(peer, base, ask):
    """One request of one setting as a row."""
    work, n = ask["work"], ask.get("tokens", 1)
    if work == "batch":
        same, steps = peer.together(ask["lists"], n)
        return batch_row({**base, "same_ids": same}, steps, len(ask["lists"]))
    ids = ask["ids"]
    if work == "prefill":
        same, prefill, _, _ = peer.request(ids, ask.get("text", ""), 1)
        return prefill_row({**base, "same_ids": same}, prefill, len(ids))
    same, prefill, steps, total = peer.request(ids, ask.get("text", ""), n)
    return decode_row({**base, "same_ids": same}, prefill, steps, len(ids), total)


def rate(row):
    return row.get("decode_tok_s") or row.get("prefill_tok_s") or row["points"][0]["total_tok_s"]


def answer(peer, name, ask):
    """The best row over the settings that this work is measured with."""
    rows = []
    for setting in peer.settings(ask["work"]):
        peer.use(setting)
        rows.append(one(peer, {"engine": name, "engine_version": peer.version, "setting": setting}, ask))
    return max(rows, key=rate)


def code_hash():
    """sha256 over name and content of every file with code in this process; None where the system does not tell."""
    try:
        with open("/proc/self/maps") as f:
            rows = [line.split(None, 5) for line in f]
    except OSError:
        return None
    files = {r[5].strip() for r in rows if len(r) == 6 and "x" in r[1] and r[5].startswith("/")}
    total = hashlib.sha256()
    for path in sorted(files, key=lambda p: (os.path.basename(p), p)):
        try:
            with open(path, "rb") as f:
                one = hashlib.sha256(f.read()).digest()
        except OSError:
            return None
        total.update(os.path.basename(path).encode() + b"\0" + one)
    return total.hexdigest()


def memory_peak():
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def shares(seconds, n):
    """`n` equal parts in ns that add up."""
    whole = round(seconds * 1e9)
    return [whole // n + (i < whole % n) for i in range(n)] if n else []


def sampled(peer, prompt, n):
    """One request of a sample, whether the ids were the same, and whether each token has a time of its own."""
    peer.tokens, peer.text = [], ""
    same, prefill, steps, total = peer.request(prompt["ids"], prompt["text"], n)
    each = total is None
    gaps = [round(s * 1e9) for s in steps] if each else shares(total, steps)
    first = round(prefill * 1e9)
    run = {"prompt": prompt["name"], "prompt_hash": prompt["hash"], "prompt_tokens": len(prompt["ids"]),
           "cached_tokens": 0, "tokens": [int(t) for t in peer.tokens], "text": peer.text, "first_token_ns": first,
           "prefill_ns": first, "token_ns": gaps, "total_ns": first + sum(gaps), "finish": "length"}
    return run, same, each


def sample_row(peer, name, ask, load_s):
    if ask["kind"] != "tamp.lab.ask" or ask["v"] != 1:
        raise Unsupported(f"the question is `{ask['kind']}` version {ask['v']}, not `tamp.lab.ask` version 1")
    if ask["temperature"] != 0:
        raise Unsupported("this adapter answers greedily only (temperature 0)")
    setting = peer.settings("decode")[0]
    peer.use(setting)
    for _ in range(ask["warmup"]):
        for prompt in ask["prompts"]:
            sampled(peer, prompt, ask["max_tokens"])
    runs = [sampled(peer, prompt, ask["max_tokens"]) for prompt in ask["prompts"]]
    each = all(e for _, _, e in runs)
    observed = {"same_ids": all(s for _, s, _ in runs), "ids_told": all(r["tokens"] for r, _, _ in runs),
                "chunked": not each, "token_times": "each" if each else "mean", "engine_code_sha256": code_hash()}
    row = {"kind": "tamp.bench.sample", "v": 1, "engine": {"name": name, "version": peer.version},
           "settings": [f"setting={setting}"], "threads": ask["threads"], "phases_ms": {"load": load_s * 1e3},
           "requests": [r for r, _, _ in runs], "observed": {k: v for k, v in observed.items() if v is not None}}
    peak = memory_peak()
    return row if peak is None else {**row, "memory_peak": peak}


def main(name, package, open_peer):
    """`open_peer(model, threads, ctx, streams)` imports the engine and loads the model. A peer has `version`,
    `settings(work)`, `use(setting)`, `request(ids, text, n) -> (ids were the same, prefill seconds, seconds of each
    later token, None)` (or their number and their total), `together(lists, n) -> (same, seconds of each step)`. After a request `tokens`
    holds the new ids and `text` the new text, where the engine tells them."""
    a = argparse.ArgumentParser(description=f"{name} beside tamp: the rows of `tamp bench`, on the same token ids")
    a.add_argument("model")
    a.add_argument("--work", choices=["decode", "prefill", "batch", "context"], default="decode")
    a.add_argument("--ids")
    a.add_argument("--text", default="", help="the text of the ids, for an engine that takes nothing else")
    a.add_argument("--tokens", type=int, default=64)
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--ctx", type=int, default=4096)
    a.add_argument("--streams", type=int, default=1)
    a.add_argument("--repeats", type=int, default=3)
    a.add_argument("--serve", action="store_true")
    a.add_argument("--sample", metavar="ASK", help="the file of a question of the lab")
    o = a.parse_args()
    # Rows go to the real stdout; what libraries print there goes to stderr.
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value):
        rows.write(json.dumps(value) + "\n")
        rows.flush()

    ask = None
    if o.sample:
        with open(o.sample) as f:
            ask = json.load(f)
        o.threads, o.ctx, o.streams = ask["threads"], ask["ctx"], 1
    start = time.perf_counter()
    try:
        peer = open_peer(o.model, o.threads, o.ctx, o.streams)
    except ImportError as e:
        say({"missing": f"{name} is not installed ({e}); pip install {package}"})
        sys.exit(3)
    except Exception as e:
        say({"failed": f"{name} does not load {os.path.basename(o.model)}: {e}"})
        sys.exit(1)
    if ask:
        try:
            say(sample_row(peer, name, ask, time.perf_counter() - start))
        except Exception as e:
            say({"failed": f"{name}: {e}"})
            sys.exit(1)
        return
    if o.serve:
        say({"ready": name, "version": peer.version})
        for line in sys.stdin:
            try:
                say(answer(peer, name, json.loads(line)))
            except Exception as e:
                say({"failed": f"{name}: {e}"})
        return
    with open(o.ids) as f:
        ids = json.load(f)
    ids = ids["tokens"] if isinstance(ids, dict) else ids
    ask = {"work": o.work, "ids": ids, "text": o.text, "lists": ids, "tokens": o.tokens}
    for _ in range(o.repeats):
        try:
            say(answer(peer, name, ask))
        except Unsupported as e:
            say({"failed": f"{name}: {e}"})
            sys.exit(1)
