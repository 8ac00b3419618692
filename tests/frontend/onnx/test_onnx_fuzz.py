"""Damaged files: every mutation of a model gives a module or a NomulError, soon, and without large memory."""

from __future__ import annotations

import random
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from onnx_models import model, normal
from test_onnx_control import LOOP

from nomul.frontend import import_onnx
from nomul.ir.errors import NomulError
from nomul.ir.verifier import verify

NET = """g (float[N, 3, H, 16] x, int64[N, S] ids) => (float[] y, float[] z) {
  a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x, k, c)
  b = BatchNormalization (a, c, c, c, v)
  m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
  scales = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> ()
  u = Resize <mode = "nearest"> (m, , scales)
  shape = Shape (u)
  two = Constant <value_ints = [2]> ()
  head = Slice (shape, zero, two)
  rest = Constant <value_ints = [-1]> ()
  target = Concat <axis = 0> (head, rest)
  y = Reshape (u, target)
  e = Gather (table, ids)
  t = Transpose <perm = [0, 2, 1]> (e)
  s = MatMul (e, t)
  p = Softmax <axis = 2> (s)
  o = MatMul (p, e)
  n = LayerNormalization <axis = -1> (o, g0)
  z = Gemm <transB = 1> (w, w, g0)
}"""
WEIGHTS = {
    "k": normal(4, 3, 3, 3),
    "c": normal(4),
    "v": np.abs(normal(4)),
    "zero": np.array([0]),
    "table": normal(20, 8),
    "w": normal(8, 8),
    "g0": normal(8),
}
SECONDS = 5.0


def sources() -> list[bytes]:
    return [model(NET, weights=WEIGHTS).SerializeToString(), model(LOOP).SerializeToString()]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Cut off, or with a few bits flipped, bytes exchanged, or a piece doubled or dropped."""
    data = bytearray(content)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data))
        if kind == 1:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        else:
            piece = data[place : place + rng.randrange(1, 40)]
            data[place : place + (0 if rng.random() < 0.5 else len(piece))] = piece if rng.random() < 0.5 else b""
    return bytes(data)


def outcome(content: bytes) -> str:
    """`module` or an error code."""
    begin = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verify(import_onnx(content))
        result = "module"
    except NomulError as error:
        assert str(error) and all(problem.code.startswith("NM2") for problem in error.problems)
        result = error.code
    assert time.process_time() - begin < SECONDS
    return result


def run(count: int, seed: int, folder: Path) -> dict[str, int]:
    rng, seen = random.Random(seed), {}
    originals = sources()
    for number in range(count):
        content = mutated(originals[number % len(originals)], rng)
        (folder / "last.onnx").write_bytes(content)  # what to look at when a process dies
        result = outcome(content)
        seen[result] = seen.get(result, 0) + 1
    return seen


@pytest.fixture
def small_memory():
    """A limit on the address space, so that a damaged size that is believed fails the test."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 if Path("/proc/self/statm").exists() else 2**33
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_two_thousand_mutations(tmp_path: Path, small_memory: None) -> None:
    seen = run(2000, 1, tmp_path)
    assert seen["module"] > 100 and seen["NM200"] > 100 and len(seen) >= 4


@pytest.mark.slow
def test_many_mutations(tmp_path: Path, small_memory: None) -> None:
    run(40_000, 2, tmp_path)


def test_every_truncation(tmp_path: Path) -> None:
    content = model(LOOP).SerializeToString()
    for length in range(len(content)):
        assert outcome(content[:length]) != "module" or length > 50
