"""The benchmark of linear layers computes what it says, measures all systems in one run, and finds its encodings."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import limits  # noqa: E402 - these stand in benchmarks/
import linear  # noqa: E402
import linear_plot  # noqa: E402
import linear_table  # noqa: E402
from linear_case import Loaded, Shape, System, Work, check, inputs, leaves_caches  # noqa: E402
from linear_systems import nomul_artifact  # noqa: E402

COMMAND = ["--shapes", "320x256", "--m", "1,3", "--threads", "2", "--seconds", "0.01"]
LIMITS = limits.Limits(2, gflops=200, read_gbs=30, int8_gops=800, lookup_gbs=0, lookup2_gbs=0)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run, through its file."""
    folder = tmp_path_factory.mktemp("linear")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "measure", lambda threads: replace(LIMITS, threads=threads))
        chosen = ["--encodings", "int8,ternary<group=64, pack=3of4>", "--json", str(folder / "linear.json")]
        assert linear.main([*COMMAND, *chosen, "--plot", str(folder / "roof.svg")]) == 0
    ElementTree.parse(folder / "roof.svg")
    return json.loads((folder / "linear.json").read_text())


def test_rows_of_all_systems(result: Any) -> None:
    rows = result["rows"]
    ours = {(row["encoding"], row["m"]) for row in rows if row["system"] == "nomul"}
    assert ours == {(name, m) for name in ("int8", "ternary<group=64, pack=3of4>") for m in (1, 3)}
    assert sum(row["system"] == "onnxruntime" for row in rows) == 2 * 8 and len(result["limits"]) == 4
    for row in rows:
        assert row["low_ms"] <= row["ms"] <= row["p90_ms"]
        assert row["gops"] == pytest.approx(2e-6 * row["m"] * 320 * 256 / row["ms"], rel=2e-3)
        assert row["fraction_of_int8_peak"] == pytest.approx(row["gops"] / 800, abs=1e-3)
        assert row["fraction_of_read_bandwidth"] == pytest.approx(row["gbps"] / 30, abs=1e-3)
        assert row["kernel"] or row["system"] != "nomul"


def test_runs_can_be_joined(result: Any) -> None:
    again = [row | {"ms": 7.0} for row in result["rows"][:3]]
    whole = linear.joined(result, result | {"rows": again, "skipped": {"x": "y"}})
    assert len(whole["rows"]) == len(result["rows"]) and len(whole["limits"]) == 2 * len(result["limits"])
    assert sum(row["ms"] == 7 for row in whole["rows"]) == 3 and whole["skipped"]["x"] == "y"


def test_bits_count_what_a_system_stores(result: Any) -> None:
    bits = {row["encoding"]: row["bits_per_weight"] for row in result["rows"]}
    assert bits["f32"] == 32 and bits["2 bits block 128"] == 2.25 and bits["4 bits block 32"] == 5
    assert 8 <= bits["int8"] < 11 and 1.25 <= bits["ternary<group=64, pack=3of4>"] < 3


def test_tables(result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{linear_table.START}\nold\n{linear_table.END}\nafter\n")
    monkeypatch.setattr(linear_table, "PAGE", page)
    linear_table.update_docs(result)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert text.count("| onnxruntime |") == 16 and "2 threads: 200 GFLOPS, 800 int8 GOPS, 30.0 GB/s read" in text


def test_wrong_results_are_found() -> None:
    work = Work(Shape(5, 8), in_memory=False, threads=1, max_rows=2)
    dense = work.shape.matrix
    right = Loaded(1.0, 1, dense, lambda values: [values[0] @ dense.T])
    check(System("right", "f32", lambda _: right, 1e-6), right, inputs(work, 2, 1), work)
    wrong = replace(right, run=lambda values: [values[0] @ dense.T * np.float32(1.01)])
    with pytest.raises(ValueError, match="results differ by"):
        check(System("wrong", "f32", lambda _: wrong, 1e-3), wrong, inputs(work, 2, 1), work)


def test_copies_leave_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linear_case.last_cache", lambda: 32 << 20)
    assert leaves_caches(Shape(4096, 4096)) and not leaves_caches(Shape(384, 1536))
    assert Work(Shape(4096, 4096), True, 1, 1).copies(4 << 20) == 32
    assert Work(Shape(4096, 4096), False, 1, 1).copies(4 << 20) == 1
    assert Work(Shape(384, 1536), False, 1, 1).copies(1) == 8


def test_names_of_encodings() -> None:
    assert linear.chosen_encodings(["int8"]) == ["int8"]
    assert linear.chosen_encodings(["int4"]) == ["int4<group=128>", "int4<group=32>"]
    assert linear.split_list("int4<group=32, zero=1> act=f32,int8") == ["int4<group=32, zero=1> act=f32", "int8"]
    encoding, attributes = nomul_artifact.parse("nm<n=1, m=4, value=int4<group=16>> act=i8-static act_scale=0.5")
    assert str(encoding) == "nm<n=1, value=int4<group=16>>"
    assert attributes == {"act": "i8-static", "act_scale": "0.5"}
    with pytest.raises(ValueError, match="KEY=VALUE"):
        nomul_artifact.parse("ternary<group=128")


def test_roofline_has_a_point_for_each_row(result: Any) -> None:
    root = ElementTree.fromstring(linear_plot.roofline(result))
    assert len(root.findall(".//{*}title")) == len(result["rows"])
    assert len(root.findall(".//{*}path[@class='roof']")) == 1
