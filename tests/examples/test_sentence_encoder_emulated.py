"""The main example on other machines: MiniLM-L3 cross-compiled, under qemu, beside this machine's artifact."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from emulate import emulated, opened_for_macos

import nomul
from nomul.backends.macho_check import problems
from nomul.ir.graph import Module
from nomul.options import Options
from nomul.pipeline import lower_to_plan
from nomul.source import read_model

EXAMPLES = str(Path(__file__).parents[2] / "examples")
sys.path.insert(0, EXAMPLES)  # for this import only, as the names of examples are not ours alone
from real_models import PackageMissing, minilm_l3  # noqa: E402

sys.path.remove(EXAMPLES)


@cache
def encoder() -> Module:
    try:
        return read_model(minilm_l3(), None, {"batch_size": (1, 8), "sequence_length": (1, 512)})
    except PackageMissing as missing:
        pytest.skip(str(missing))


def sentences() -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(1000, 30000, (2, 11))
    mask = np.ones_like(ids)
    mask[1, 6:] = 0
    return ids, mask


@cache
def here() -> tuple[np.ndarray, ...]:
    with nomul.compile(encoder()) as artifact:
        return artifact(*sentences())


def check(results: tuple[np.ndarray, ...]) -> None:
    for given, wanted in zip(results, here(), strict=True):
        assert np.abs(given - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "cpu"),
    [("aarch64-linux", "cortex-a53"), ("rpi5", "cortex-a76"), ("arm-linux", "cortex-a7"), ("riscv64-linux", "rv64")],
)
def test_linux(target: str, cpu: str, tmp_path: Path) -> None:
    program = emulated(encoder(), target, tmp_path)
    check(program(*sentences(), cpu=cpu))
    check(program(*sentences(), cpu=cpu, threads=2))


@pytest.mark.slow
def test_macos(tmp_path: Path) -> None:
    library = nomul.build(encoder(), target="apple-m1", output=tmp_path / "encoder.dylib")
    assert problems(library.read_bytes(), library.name) == []
    plan = lower_to_plan(encoder(), Options(targets=("apple-m1",))).plan
    check(opened_for_macos(library, plan, tmp_path)(*sentences(), cpu="max"))
