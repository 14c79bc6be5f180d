#!/usr/bin/env python3
"""llama.cpp's HTTP server through the PyPI package xllamacpp, with the words that `lab/engines.toml` needs.

    python3 bench/peers/serve_xllamacpp.py MODEL --port 8080 --threads 2 --ctx 2048

Serves until it is killed. A package that is not installed is said in one line, with code 3.
"""

import argparse
import sys
import threading


def main():
    a = argparse.ArgumentParser(description="llama.cpp's server from the package xllamacpp")
    a.add_argument("model", nargs="?")
    a.add_argument("--port", type=int, default=8080)
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--ctx", type=int, default=2048)
    a.add_argument("--version", action="store_true")
    o = a.parse_args()
    try:
        import xllamacpp as x
    except ImportError as e:
        print(f"xllamacpp is not installed ({e}); pip install xllamacpp", file=sys.stderr)
        sys.exit(3)
    if o.version:
        print(f"version: xllamacpp {x.__version__}, llama.cpp {x.BUILD_INFO['commit']}")
        return
    p = x.CommonParams()
    p.model.path, p.hostnames, p.port = o.model, ["127.0.0.1"], o.port
    p.n_ctx, p.n_parallel, p.n_gpu_layers, p.cache_ram_mib = o.ctx, 1, 0, 0
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = o.threads
    server = x.Server(p)
    print(f"serving {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
