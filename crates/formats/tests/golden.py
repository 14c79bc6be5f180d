"""Writes golden.txt: random blocks and what the PyPI package `gguf` (0.19.0, numpy) decodes them to.

    pip install gguf==0.19.0 && python golden.py > golden.txt

Each line: kind, block bytes in hex, decoded numbers as hex of little-endian f32. Scales are finite: NaN has no
one bit pattern. The first block of each format has a subnormal and a negative scale.
"""

import gguf
import numpy as np

# byte offsets of the f16 fields of a block
F16 = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "F32": [], "BF16": [],
}

rng = np.random.default_rng(20240607)
for name, fields in F16.items():
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    for n in range(3):
        data = rng.integers(0, 256, (8 if block == 1 else 1) * size, dtype=np.uint8)
        for at in fields:
            for start in range(0, len(data), size):
                half = data[start + at : start + at + 2].view(np.uint16)
                half &= 0xFBFF  # not all exponent bits: finite
                if n == 0:
                    half &= 0x83FF if at == fields[0] else 0xFFFF
                    half |= 0x8000 if at == fields[-1] else 0
        if block == 1 and size == 4:
            data[3::4] &= 0xBF
        if name == "BF16":
            data[1::2] &= 0xBF
        raw = data.view(np.float32) if name == "F32" else data.view(np.float16) if name == "F16" else data
        out = gguf.quants.dequantize(raw, kind).astype("<f4")
        assert np.isfinite(out).all()
        print(name.lower(), data.tobytes().hex(), out.tobytes().hex())
