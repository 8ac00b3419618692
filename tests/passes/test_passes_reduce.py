"""Small parts of modules that still show a fault: by `nomul reduce`, and behind a pass that fails `--check`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pass_graphs import Graph, built

from nomul.cli import main
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Value
from nomul.ir.parser import parse_module
from nomul.ir.text import print_module
from nomul.nir import read_nir, write_nir
from nomul.passes.base import Pass, Report
from nomul.passes.dump import Dump
from nomul.passes.reduce import part_of
from nomul.passes.runner import PassRunner, fault_of, smallest_with


class SquareOfSigmoid(Pass):
    """Wrong on purpose: x * sigmoid(x) becomes x * x."""

    name = "square_of_sigmoid"

    def run(self, module: Module, report: Report) -> None:
        for node in module.main.nodes:
            if node.op == "ew.mul" and node.args[1].producer is not None and node.args[1].producer.op == "ew.sigmoid":
                module.main.set_args(node, (node.args[0], node.args[0]))


class Crash(Pass):
    name = "crash"

    def run(self, module: Module, report: Report) -> None:
        if any(node.op == "nn.softmax" for node in module.main.nodes):
            raise ZeroDivisionError("softmax")


def tall(g: Graph) -> tuple[Value, ...]:
    """Forty layers, one of which has the pattern."""
    x = g.input("x", "S", 8)
    for number in range(40):
        x = g.b.nn.linear(x, g.weight(f"w{number}", 8, 8), name=f"linear{number}")
        x = g.b.ew.mul(x, g.b.ew.sigmoid(x), name="silu") if number == 23 else g.b.ew.tanh(x)
    return x, g.b.nn.softmax(x, axis=1)


EXPECTED = """\
nomul.ir 1
dim S in [1, 9]
func @main(%linear23: f32[S, 8]) -> (f32[S, 8]) {
  %sigmoid = ew.sigmoid %linear23 : f32[S, 8]                           loc("layer")
  %silu = ew.mul %linear23, %sigmoid : f32[S, 8]                        loc("layer")
  return %silu
}
"""


def test_the_smallest_part_is_the_pattern_itself() -> None:
    module = built(tall)
    part = smallest_with(module, [SquareOfSigmoid()], "NM452")
    assert print_module(part) == EXPECTED
    assert print_module(smallest_with(module, [SquareOfSigmoid()], "NM452")) == print_module(part)
    assert fault_of(part, [SquareOfSigmoid()]).code == "NM452"  # type: ignore[union-attr]


def test_a_crash_is_reduced_to_the_node_that_crashes() -> None:
    part = smallest_with(built(tall), [Crash()], "NM450")
    assert [node.op for node in part.main.nodes] == ["nn.softmax"]


def test_without_time_the_module_stays_whole() -> None:
    module = built(tall)
    assert len(smallest_with(module, [Crash()], "NM450", seconds=0).main.nodes) == len(module.main.nodes)


def test_check_ends_with_a_small_module_that_shows_the_fault(tmp_path: Path) -> None:
    with pytest.raises(NomulError) as error:
        PassRunner(Dump(tmp_path), check=True).apply_all(built(tall), [SquareOfSigmoid()])
    message = error.value.message
    assert message.startswith("pass 'square_of_sigmoid', trial 0: output 0 differs")
    small = parse_module(message.partition("a small module that shows it:\n")[2])
    assert [node.op for node in small.main.nodes] == ["ew.sigmoid", "ew.mul"]
    assert print_module(read_nir(tmp_path / "01.square_of_sigmoid.reduced.nir")) == print_module(small)


def test_parts_keep_weights_dims_and_order() -> None:
    def graph(g: Graph) -> tuple[Value, ...]:
        x, ids = g.input("x", "S", 4), g.input("ids", "S", dtype="i64")
        rows = g.b.index.gather(g.weight("table", 5, 4), ids, name="rows")
        return g.b.ew.add(rows, g.b.ew.relu(x, name="relu"), name="sum"), rows

    module = built(graph)
    rows, _, total = module.main.nodes
    part = part_of(module, [rows, total])
    assert part is not None
    assert [param.name for param in part.main.params] == ["ids", "relu"]
    assert [value.name for value in part.main.returns] == ["rows", "sum"]
    assert list(part.weights) == ["table"] and list(part.dims) == ["S"]
    np.testing.assert_array_equal(part.weights["table"].array(), module.weights["table"].array())


def test_nothing_to_reduce(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_nir(built(tall), tmp_path / "m.nir")
    assert main(["reduce", str(tmp_path / "m.nir"), "-p", "simplify,dead_code"]) == 1
    assert "error[NM462]" in capsys.readouterr().err


def test_the_command_prints_the_part_and_the_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nomul.passes import catalog

    monkeypatch.setitem(catalog.pass_classes(), "crash", Crash)
    write_nir(built(tall), tmp_path / "m.nir")
    assert main(["reduce", str(tmp_path / "m.nir"), "-p", "crash", "-o", str(tmp_path / "small.nir")]) == 0
    out = capsys.readouterr().out
    assert "1 of 82 nodes" in out and "; error[NM450]: pass 'crash' crashed: ZeroDivisionError: softmax" in out
    assert [node.op for node in read_nir(tmp_path / "small.nir").main.nodes] == ["nn.softmax"]
