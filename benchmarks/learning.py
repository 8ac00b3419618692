"""How long FlexRound takes for one layer of an encoder, 384 wide, beside the default fitter: `python
benchmarks/learning.py [--encoding E]`. Calibration data are four batches of 1,024 tokens."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from nomul.api import lower

WIDTH, HEADS, BATCH, TOKENS, BATCHES = 384, 12, 8, 128, 4
ROWS = {"default": {}, "by layer": {"fitter": "flexround"}, "by block": {"fitter": "flexround", "scope": "block"}}


def encoder_layer() -> torch.nn.Module:
    """[8, 128, 384] to the same; 1.8 million weights."""
    return torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, activation="gelu", batch_first=True).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoding", default="int4<group=128>")
    encoding = parser.parse_args().encoding
    generator = np.random.default_rng(0)
    batches = [generator.standard_normal((BATCH, TOKENS, WIDTH)).astype(np.float32) for _ in range(BATCHES)]
    imported = lower(encoder_layer(), (torch.from_numpy(batches[0]),), until="fuse")
    for name, rule in ROWS.items():
        recipe = {"layers": [{"weights": encoding, **rule}]}
        start = time.perf_counter()
        lower(imported, until="encode", recipe=recipe, calib=batches)
        print(f"{encoding} {name}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
