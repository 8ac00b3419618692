"""The memory that the facts of an artifact promise is what its C interface asks for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import nomul
from nomul.ir.parser import parse_module
from nomul.memory import scratch_bytes
from nomul.runtime.loader import Artifact

MODEL = """\
nomul.ir 1
dim B in [1, 8]
dim S in [1, 512]
func @main(%x: f32[B, S, 40], %y: f32[B, 40, S + 3]) -> (f32[B, S, S + 3]) {
  %a = nn.softmax %x {axis=2} : f32[B, S, 40]
  %b = nn.matmul %a, %y : f32[B, S, S + 3]
  %c = nn.softmax %b {axis=2} : f32[B, S, S + 3]
  return %c
}
"""


@pytest.fixture(scope="module")
def artifact() -> Iterator[Artifact]:
    with nomul.compile(parse_module(MODEL)) as compiled:
        yield compiled


@pytest.mark.parametrize("dims", [{"B": 1, "S": 1}, {"B": 3, "S": 17}, {"B": 8, "S": 512}])
def test_facts_and_library_agree(dims: dict[str, int], artifact: Artifact) -> None:
    for threads in (1, 2, 5):
        assert scratch_bytes(artifact.facts, dims, threads) == artifact.scratch_bytes(dims, threads=threads)


def test_the_arena_grows_with_the_sizes(artifact: Artifact) -> None:
    small, large = ({"B": 1, "S": size} for size in (1, 512))
    assert 64 <= scratch_bytes(artifact.facts, small) < scratch_bytes(artifact.facts, large)
    (result,) = artifact(np.zeros((1, 2, 40), np.float32), np.zeros((1, 40, 5), np.float32))
    assert result.shape == (1, 2, 5)
