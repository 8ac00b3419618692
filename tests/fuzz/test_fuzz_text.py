"""Mutated text and weights files: a module or a NomulError, never another exception, never a long wait."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fuzz.text_promises import hold

from nomul.ir.docs import EXAMPLE
from nomul.ir.encodings import get_encoding
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Weight
from nomul.ir.parser import parse_module
from nomul.ir.types import Tensor
from nomul.ir.verifier import verify
from nomul.ir.weights_file import load_weights, save_weights

IMAGE = """\
nomul.ir 1
dim H in [8, 640]
dim W in [8, inf]
weight @"conv/w:0" : f32[8, 3, 3, 3]
weight @bias : f32[8]
func @main(%x: f32[1, 3, H, W], %i: i64[2]) -> (f32[1, 8, 2], i64[1, 8, (H + 1)//2]) {
  %c = nn.conv2d %x, @"conv/w:0", @bias {strides=[2, 2], pads=[1, 1, 1, 1]} : f32[1, 8, (H + 1)//2, (W + 1)//2]
  %r = reduce.max %c {axes=[3]} : f32[1, 8, (H + 1)//2]
  %v, %k = index.top_k %r {k=2, axis=2, largest=false} : f32[1, 8, 2], i64[1, 8, 2] loc("head.topk")
  %s = ew.clip %v {low=-1.5, high=inf} : f32[1, 8, 2]
  %h = ew.cast %s {dtype=f16} : f16[1, 8, 2]
  %m = ew.mul %h, 0.5:f16 : f16[1, 8, 2]
  %f = ew.cast %m {dtype=f32} : f32[1, 8, 2]
  %n = make.full {shape=[1, 8, (H + 1)//2], value=1.0, dtype=i64} : i64[1, 8, (H + 1)//2]
  return %f, %n
}
"""
SEEDS = (EXAMPLE, IMAGE)
ODD = [
    "//0",
    "(",
    ")",
    '"',
    "\\",
    "%",
    "@",
    "-",
    "9" * 30,
    "inf",
    "nan:f16",
    "\0",
    "\u2028",
    "é",
    ";",
    "{",
    "}",
    "[",
    "]",
]
ODD += ["*S*S*S*S*S", "f64", "i8", "as bf16", "as f16<a=1>", "=", ",", "\n", "_", "true", "0x1", "1e999", "(" * 300]


def mutate(text: str, random_source: random.Random) -> str:
    """The text with one to four changes: a letter, a piece moved or lost, a line doubled, lost or cut, an odd piece."""
    for _ in range(random_source.randint(1, 4)):
        kind, at = random_source.randrange(7), random_source.randrange(len(text) or 1)
        end = at + random_source.randint(1, 12)
        lines = text.split("\n")
        line = random_source.randrange(len(lines))
        changed = [
            text[:at] + chr(random_source.randrange(32, 127)) + text[at + 1 :],
            text[:at] + text[end:],
            text[:at] + random_source.choice(ODD) + text[at:],
            "\n".join(lines[:line] + [lines[line]] * random_source.randint(0, 2) + lines[line + 1 :]),
            text[:at] + text[end:] + text[at:end],
            text[:at],
            text.replace(random_source.choice(("8", "2", "f32", "%c", "64", "S")), random_source.choice("1S0"), 3),
        ]
        text = changed[kind]
    return text


def test_mutated_text() -> None:
    source, outcomes, slowest = random.Random(7), Counter[str](), 0.0
    for round_number in range(2000):
        text = mutate(SEEDS[round_number % len(SEEDS)], source)
        start = time.process_time()
        found = hold(text)
        outcomes.update({p.code for p in found.problems} if isinstance(found, NomulError) else ["module"])
        slowest = max(slowest, time.process_time() - start)
    assert slowest < 2.0
    assert outcomes["module"] > 50  # harmless changes are read
    assert {"NM303", "NM304", "NM305", "NM320", "NM321", "NM322", "NM323", "NM324", "NM325"} <= outcomes.keys()


@pytest.mark.parametrize(
    "size",
    [
        "(" * 5000 + "S" + ")" * 5000,
        "+".join("abcdefghij") + "*(" + "+".join("klmnopqrst") + ")" * 1,
        "*".join(["(A + B + C + D + E + F + G)"] * 40),
        "(" * 400 + "S" + "+1)//2" * 400,
        "-" * 5000 + "S",
        "9" * 5000,
        "S//" + "9" * 10,
    ],
)
def test_hostile_sizes_end_quickly(size: str) -> None:
    start = time.process_time()
    with pytest.raises(NomulError):
        parse_module(f"nomul.ir 1\ndim S in [1, 9]\nfunc @main(%x: f32[{size}, S]) -> (f32[1]) {{\n  return %x\n}}\n")
    assert time.process_time() - start < 2.0


def _weighted() -> Module:
    module = Module()
    module.add_weight(Weight.dense("a/b:0", np.arange(6, dtype=np.float32).reshape(2, 3)))
    module.add_weight(Weight.dense("ids", np.arange(4, dtype=np.int64)))
    encoding = get_encoding("bf16")
    packed = encoding.pack(np.linspace(-1, 1, 8, dtype=np.float32))
    module.add_weight(Weight("half", Tensor(Tensor.of("f32").dtype, Tensor.of("f32", 8).shape, encoding), packed))
    return module


def test_damaged_weights_files(tmp_path: Path) -> None:
    module, path, source = _weighted(), tmp_path / "w.safetensors", random.Random(3)
    save_weights(module, path)
    whole, outcomes = path.read_bytes(), Counter[str]()
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        path.write_bytes(damaged[: source.randrange(len(damaged))] if source.random() < 0.3 else damaged)
        try:
            load_weights(module, path)
            verify(module)
            outcomes["loaded"] += 1
        except NomulError as error:
            outcomes[error.code] += 1
    assert outcomes["NM340"] > 100 and outcomes["NM341"] > 0
