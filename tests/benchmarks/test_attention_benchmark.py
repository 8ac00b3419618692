"""benchmarks/attention.py on one small size: its rows, and that it compares before it times."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the benchmark compares with torch")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import attention
import limits


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.json"
    names = ["causal", "tiles 25 %", "linear", "decode"]
    arguments = [
        "--tokens",
        "70",
        "--keys",
        "300",
        "--threads",
        "1",
        "--seconds",
        "0",
        "--json",
        str(out),
        "--variants",
        *names,
    ]
    monkeypatch.setattr(sys, "argv", ["attention.py", *arguments])
    attention.main()
    rows = json.loads(out.read_text())["rows"]
    assert [row["variant"] for row in rows] == names
    assert rows[0]["torch_ms"] > 0 and rows[0]["onnxruntime_ms"] > 0 and rows[0]["of_peak"] > 0
    assert rows[1]["torch_ms"] is None and rows[2]["of_peak"] is None
    assert rows[3]["tokens"] == 300 and rows[3]["of_read"] > 0 and rows[0]["of_read"] is None


def test_a_wrong_result_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.by_torch
    monkeypatch.setattr(attention, "by_torch", lambda *arguments: (job := right(*arguments)) and (lambda: job() + 1))
    with pytest.raises(SystemExit, match="away from torch"):
        attention.measure(attention.VARIANTS[0], 16, 1, 0.0, tmp_path, limits.Limits(1, 100.0, 10.0, 0.0, 0.0, 0.0))
