#!/usr/bin/env python3
"""tamp beside a `llama-bench` binary, turn by turn on the same file: paired ratios with tamp's share of the read ceiling.

    python3 bench/peers/pairs.py --llama-bench PATH/llama-bench --pairs 7 smollm2.gguf qwen-coder-1.5b.gguf
"""

import argparse
import json
import os
import statistics
import subprocess


def last_json(args):
    out = subprocess.run(args, check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--tamp", default="target/release/tamp")
    a.add_argument("--llama-bench", required=True)
    a.add_argument("--pairs", type=int, default=7)
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("models", nargs="+")
    o = a.parse_args()
    for model in o.models:
        for work, tokens in (("decode", 64), ("prefill", 512)):
            ours, theirs, share, ceiling = [], [], [], []
            for _ in range(o.pairs):
                sizes = ["-p", "0", "-n", str(tokens)] if work == "decode" else ["-p", str(tokens), "-n", "0"]
                run = [o.llama_bench, "-m", model, "-t", str(o.threads), "-r", "1", "-o", "json", *sizes]
                theirs.append(json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)[0]["avg_ts"])
                row = last_json([o.tamp, "bench", work, model, "--tokens", str(tokens), "--threads", str(o.threads), "--json"])
                ours.append(row[f"{work}_tok_s"])
                share.append(row["ceiling_fraction"])
                ceiling.append(row["ceiling_gb_s"])
            ratios = [x / y for x, y in zip(ours, theirs)]
            print(json.dumps({
                "kind": "tamp.peers.pairs", "v": 1, "model": os.path.basename(model), "work": work, "pairs": o.pairs,
                "threads": o.threads, "tamp_tok_s": statistics.median(ours), "peer_tok_s": statistics.median(theirs),
                "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
                "ceiling_gb_s": statistics.median(ceiling), "ceiling_fraction": statistics.median(share),
            }), flush=True)


if __name__ == "__main__":
    main()
