"""A LayerNorm with a shared intermediate: the dump alone, or `nomul why`, tells why it is not fused whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from pass_graphs import Graph, built

import nomul
from nomul.cli import main
from nomul.ir.graph import Module, Value
from nomul.nir import write_nir


def shared_norm() -> Module:
    """A block whose normed values, without scale, also feed a second branch; and one of another variance."""

    def make(g: Graph) -> tuple[Value, ...]:
        b, x = g.b, g.input("x", "S", 8)
        b.loc = "block.norm"
        centred = b.ew.sub(x, b.reduce.mean(x, axes=(1,), keepdims=True), name="centred")
        variance = b.reduce.mean(b.ew.mul(centred, centred), axes=(1,), keepdims=True, name="variance")
        normed = b.ew.div(centred, b.ew.sqrt(b.ew.add(variance, 1e-5)), name="normed")
        scaled = b.ew.mul(normed, g.weight("gamma", 8), name="scaled")
        b.loc = "block.gate"
        return b.ew.add(scaled, g.weight("beta", 8), name="out"), b.ew.tanh(normed, name="gate")

    return built(make)


REASON = "the norm's result is used by ew.tanh %gate too, at %normed"


def test_the_dump_says_why(tmp_path: Path) -> None:
    nomul.lower(shared_norm(), dump=tmp_path)
    lines = (tmp_path / "why.txt").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("scale_into_norm")]
    assert line == f"scale_into_norm at %scaled (block.norm): {REASON} [90% matched]"
    index = (tmp_path / "index.txt").read_text()
    assert "layer_norm x1" in index  # what could be fused was


def test_nomul_why_says_so_of_the_model_and_of_a_dumped_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nir(shared_norm(), tmp_path / "m.nir")
    assert main(["why", str(tmp_path / "m.nir"), "--rule", "scale_into_norm"]) == 0
    assert REASON in capsys.readouterr().out
    nomul.lower(shared_norm(), dump=tmp_path / "dump")
    (fused,) = (tmp_path / "dump").glob("*.fuse.nir")
    assert main(["why", str(fused), "--rule", "scale_into_norm", "--at", "%scaled"]) == 0
    assert capsys.readouterr().out == f"scale_into_norm at %scaled (block.norm): {REASON} [90% matched]\n"
    assert main(["why", str(fused), "--at", "scaled", "--rule", "layer_norm"]) == 0
    assert "layer_norm at %scaled (block.norm): needs" in capsys.readouterr().out


def test_a_rule_that_would_fire_and_one_for_other_ops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.nir"
    write_nir(shared_norm(), path)
    before = path.read_text()
    assert main(["why", str(path), "--at", "%normed", "--rule", "layer_norm"]) == 0
    assert capsys.readouterr().out == "layer_norm would fire at %normed\n"
    assert main(["why", str(path), "--at", "%normed", "--rule", "bias_into_convolution"]) == 0
    assert "looks at ew.add, not at ew.div" in capsys.readouterr().out
    assert path.read_text() == before


def test_unknown_values_and_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.nir"
    write_nir(shared_norm(), path)
    assert main(["why", str(path), "--at", "%normd"]) == 1
    assert "near: %normed" in capsys.readouterr().err
    assert main(["why", str(path), "--rule", "layer_nrom"]) == 1
    assert "error[NM014]" in capsys.readouterr().err
