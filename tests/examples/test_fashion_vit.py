"""The example that trains a vision transformer, on a few random images."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import fashion_vit  # noqa: E402 - it stands in examples/


def _write(folder: Path, part: str, count: int) -> None:
    """Images whose brightness tells the class, in the files of the data set."""
    labels = np.arange(count) % 10
    images = np.repeat(labels[:, None] * 25, 28 * 28, axis=1)
    for name, head, array in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
        with gzip.open(folder / f"{part}-{name}-ubyte.gz", "wb") as file:
            file.write(bytes(head) + array.astype(np.uint8).tobytes())


def test_it_trains_and_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path, "train", 2 * fashion_vit.BATCH)
    _write(tmp_path, "t10k", 50)
    monkeypatch.setattr(sys, "argv", ["fashion_vit.py", "--data", str(tmp_path), "--epochs", "1"])
    assert fashion_vit.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "f32",
        "ternary<group=64>, before training",
        "ternary<group=64>, two epochs later, compiled",
    ]


def test_data_that_is_absent_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fashion_vit.py", "--data", str(tmp_path)])
    assert fashion_vit.main() == 1
    assert "train-images-idx3-ubyte.gz is absent" in capsys.readouterr().err
