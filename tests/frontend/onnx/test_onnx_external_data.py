"""Weights beside the model: mapped when they lie in its folder, refused when they do not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import model, normal

from nomul.frontend import import_onnx
from nomul.ir.errors import NomulError

TEXT = "g (float[N, 64] x) => (float[] y) { y = MatMul (x, w) }"


def saved(folder: Path, location: str = "weights.bin", **entries: str) -> Path:
    """A model in `folder` with its weight in `weights.bin`; then told to look at `location` instead."""
    folder.mkdir(exist_ok=True)
    proto, path = model(TEXT, weights={"w": normal(64, 64)}), folder / "model.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = {"location": location, **entries}.get(entry.key, entry.value)
    path.write_bytes(proto.SerializeToString())
    return path


def error(path: Path) -> NomulError:
    with pytest.raises(NomulError) as caught:
        import_onnx(path)
    return caught.value


def test_data_in_the_folder_is_mapped_not_read(tmp_path: Path) -> None:
    weight = import_onnx(saved(tmp_path)).weights["w"]
    assert isinstance(weight.array().base, np.memmap) or isinstance(weight.array(), np.memmap)
    np.testing.assert_array_equal(weight.array(), normal(64, 64))


def test_data_in_a_folder_below(tmp_path: Path) -> None:
    path = saved(tmp_path, "data/./w.bin")
    (tmp_path / "data").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "data/w.bin")
    np.testing.assert_array_equal(import_onnx(path).weights["w"].array(), normal(64, 64))


@pytest.mark.parametrize(
    "location",
    ["../weights.bin", "a/../../weights.bin", "/etc/passwd", "C:\\weights.bin", "..\\weights.bin", "", ".", "w\0.bin"],
)
def test_paths_that_lead_outside_are_refused(tmp_path: Path, location: str) -> None:
    path = saved(tmp_path / "inside", location)
    (tmp_path / "weights.bin").write_bytes(bytes(64 * 64 * 4))
    assert error(path).code == "NM205"


def test_links_that_lead_outside_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "inside")
    secret = tmp_path / "secret.bin"
    (path.parent / "weights.bin").rename(secret)
    (path.parent / "weights.bin").symlink_to(secret)
    found = error(path)
    assert found.code == "NM205" and "link" in found.message


def test_a_linked_folder_that_leads_outside_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "inside", "data/weights.bin")
    outside = tmp_path / "outside"
    outside.mkdir()
    (path.parent / "weights.bin").rename(outside / "weights.bin")
    (path.parent / "data").symlink_to(outside)
    assert error(path).code == "NM205"


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    assert error(path).code == "NM205"


def test_missing_short_and_misplaced_data(tmp_path: Path) -> None:
    path = saved(tmp_path, "other.bin")
    assert error(path).code == "NM200"
    (tmp_path / "other.bin").write_bytes(b"short")
    assert "has 5" in error(path).message
    for entries in ({"offset": "1000000"}, {"offset": "-4"}, {"offset": "x"}, {"length": "12"}, {"length": "9" * 30}):
        assert error(saved(tmp_path, **entries)).code == "NM200"


def test_a_model_without_a_folder_has_no_data_beside_it(tmp_path: Path) -> None:
    proto = onnx.load(saved(tmp_path), load_external_data=False)
    with pytest.raises(NomulError, match="did not come from a file") as caught:
        import_onnx(proto)
    assert caught.value.code == "NM205"
