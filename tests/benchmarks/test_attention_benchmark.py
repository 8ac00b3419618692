"""benchmarks/attention.py on one small size: its rows, and that it compares before it times."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nomul.ir import interpreter
from nomul.ir.op import all_ops

pytest.importorskip("torch", reason="the benchmark compares with torch")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import attention
import limits


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.json"
    names = ["causal", "tiles 25 %", "linear", "decode", "decode, int4 keys and values"]
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
    assert rows[4]["read_gbs"] > 0 and rows[4]["torch_ms"] is None


@pytest.mark.parametrize("kind", ["i8", "i4"])
def test_stored_keys_and_values_are_those_of_the_float_variant(kind: str) -> None:
    stored, plain = (
        next(one for one in attention.VARIANTS if one.decodes and one.stored == name) for name in (kind, "")
    )
    (given,) = interpreter.run(attention.module_of(stored, 300), *attention.numbers(stored, 300))
    whole = all_ops()["nn.attention"].function
    wanted = whole(*attention.numbers(plain, 300), scale=attention.SIZE**-0.5, keys_values=kind)
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_a_wrong_result_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.by_torch
    monkeypatch.setattr(attention, "by_torch", lambda *arguments: (job := right(*arguments)) and (lambda: job() + 1))
    with pytest.raises(SystemExit, match="away from torch"):
        attention.measure(attention.VARIANTS[0], 16, 1, 0.0, tmp_path, limits.Limits(1, 100.0, 10.0, 0.0, 0.0, 0.0))
