"""Operations and energy of layers, by hand and through `nomul show --ops`."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomul.cli import main
from nomul.energy import layer_costs
from nomul.ir.encodings.work import Work
from nomul.ir.parser import parse_module

TEXT = """\
nomul.ir 1
dim S in [1, 64]
weight @c : f32[8, 3, 2, 2]
weight @t : f32[8, 5, 3, 3]
weight @w : f32[10, 32] as ternary<planes=2, group=16>
weight @v : f32[10, 10] as shift
func @main(%image: f32[1, 3, 4, 4], %x: f32[2, S, 32], %q: f32[2, S, 2, 5]) -> (a: f32[1, 5, 5, 5], b: f32[2, S, 10]) {
  %a = nn.conv2d %image, @c : f32[1, 8, 3, 3]                      loc("conv")
  %b = nn.conv_transpose2d %a, @t : f32[1, 5, 5, 5]                loc("transposed")
  %y = nn.linear %x, @w {act="i8"} : f32[2, S, 10]                 loc("ternary")
  %z = nn.linear %y, @v : f32[2, S, 10]                            loc("shift")
  %h = nn.attention %q, %q, %q {scale=1.0} : f32[2, S, 2, 5]       loc("attention")
  %r = view.reshape %h {shape=[2, S, 10]} : f32[2, S, 10]
  %o = ew.add %z, %r : f32[2, S, 10]
  return %b, %o
}
"""
S = 7
EXPECTED = {
    "conv": Work(9 * 8 * 12, 9 * 8 * 12),
    "transposed": Work(9 * 8 * 45, 9 * 8 * 45),
    "ternary": Work(additions=2 * S * 640, scalings=2 * S * (2 * 2 * 10 + 10)),
    "shift": Work(additions=2 * S * 100, shifts=2 * S * 100, scalings=2 * S * 10),
    "attention": Work(2 * 2 * S * S * 10, 2 * 2 * S * S * 10),
}


def test_layers_are_counted() -> None:
    costs = {cost.loc: cost for cost in layer_costs(parse_module(TEXT), {"S": S})}
    assert {loc: cost.work for loc, cost in costs.items()} == EXPECTED
    assert costs["ternary"].act == "i8" and costs["shift"].act == "f32"
    assert costs["conv"].picojoules == costs["conv"].dense_picojoules == pytest.approx(864 * (3.7 + 0.9))
    assert costs["ternary"].picojoules == pytest.approx(2 * S * 640 * 0.1 + 2 * S * 50 * (3.7 + 0.9))
    assert costs["ternary"].dense_picojoules == pytest.approx(2 * S * 320 * (3.7 + 0.9))
    assert costs["shift"].picojoules == pytest.approx(2 * S * (100 * (0.9 + 0.1) + 10 * (3.7 + 0.9)))


def test_show_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.nir"
    path.write_text(TEXT)
    assert main(["show", str(path), "--ops", "--dim", f"S={S}"]) == 0
    out = capsys.readouterr().out
    assert "S=7" in out and "without look-ups and memory" in out
    assert ["0", "8960", "0", "0", "700"] in [line.split()[:5] for line in out.splitlines()]
