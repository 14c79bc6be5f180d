#!/bin/sh
# The table of docs/correctness.md: KL and perplexity of tamp and llama.cpp against an f32 forward of the same weights.
# MODELS names GGUF files (default: the store's smollm2); needs numpy, llama-cpp-python and network for the texts.
set -eu
cd "$(dirname "$0")/../.."
if ! python3 -c 'import numpy, llama_cpp' 2>/dev/null; then
    echo "skipped: python3 has no numpy or llama_cpp (pip install numpy llama-cpp-python==0.3.36)"
    exit 0
fi
cargo build --release --quiet
tamp=target/release/tamp
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 bench/peers/texts.py "$work/texts" || { echo "skipped: the texts cannot be fetched"; exit 0; }
if [ -z "${MODELS:-}" ]; then
    $tamp pull smollm2
    MODELS=$($tamp list --json | tail -n 1 | python3 -c '
import json, sys
print(next(m["path"] for m in json.load(sys.stdin) if m["name"] == "smollm2"))')
fi
fail=0
check() {
    row=$(python3 bench/peers/kl.py --tamp $tamp --scratch "$work" "$@")
    echo "$row"
    case $row in *'"pass_kl": false'* | *'"pass_ppl": false'*) fail=1 ;; esac
}
first=$(echo "$MODELS" | cut -d' ' -f1)
$tamp quantize "$first" "$work/f32.gguf" --to f32
check --model "$work/f32.gguf" --text "$work/texts/prose.txt" --check
rm "$work/f32.gguf"
for model in $MODELS; do
    for text in prose code; do
        check --model "$model" --text "$work/texts/$text.txt"
    done
done
exit $fail
