"""Modules for the tests of `nomul view`: a small one with all that the page shows, one of thousands of nodes, and one
whose names would be markup and script if a page took them as such."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from nomul.cli import main
from nomul.ir.parser import parse_module
from nomul.nir import write_nir

EVIL = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"

_BLOCK = """\
  %h{n} = nn.linear %{x}, @block.{n}.up.weight, @block.{n}.up.bias : f32[S, 64]      loc("net.block.{n}.up:linear")
  %g{n} = ew.gelu %h{n} : f32[S, 64]                                                 loc("net.block.{n}.act:gelu")
  %d{n} = nn.linear %g{n}, @block.{n}.down.weight : f32[S, 32]                       loc("net.block.{n}.down:linear")
  %y{n} = ew.add %d{n}, %{x} : f32[S, 32]                                            loc("net.block.{n}:add")
"""
_NORM = """\
  %mean = reduce.mean %y1 {axes=[1], keepdims=true} : f32[S, 1]                      loc("net.norm:mean")
  %centred = ew.sub %y1, %mean : f32[S, 32]                                          loc("net.norm:sub")
  %squared = ew.mul %centred, %y1 : f32[S, 32]                                       loc("net.norm:mul")
  %variance = reduce.mean %squared {axes=[1], keepdims=true} : f32[S, 1]             loc("net.norm:var")
  %shifted = ew.add %variance, 1e-05 : f32[S, 1]                                     loc("net.norm:add")
  %root = ew.sqrt %shifted : f32[S, 1]                                               loc("net.norm:sqrt")
  %norm = ew.div %centred, %root : f32[S, 32]                                        loc("net.norm:div")
  return %norm
"""


def small_text() -> str:
    """Two blocks of linear layers, and what is nearly a layer norm: its variance is not that of `%centred`."""
    weights = [
        line
        for n in (0, 1)
        for line in (
            f"weight @block.{n}.up.weight : f32[64, 32]",
            f"weight @block.{n}.up.bias : f32[64]",
            f"weight @block.{n}.down.weight : f32[32, 64]",
        )
    ]
    head = "func @main(%x: f32[S, 32]) -> (norm: f32[S, 32]) {\n"
    blocks = _BLOCK.format(n=0, x="x") + _BLOCK.format(n=1, x="y0")
    return "\n".join(["nomul.ir 1", "dim S in [1, 64]", *weights, head]) + blocks + _NORM + "}\n"


def write_small(folder: Path) -> Path:
    """The file small.nir with its weights beside it."""
    module = parse_module(small_text())
    generator = np.random.default_rng(3)
    for weight in module.weights.values():
        shape = [int(size) for size in weight.shape]
        weight.fields = {"data": generator.standard_normal(shape, dtype=np.float32)}
    write_nir(module, folder / "small.nir")
    return folder / "small.nir"


def write_dump(folder: Path) -> Path:
    """A folder with small.nir, the artifact small.so and the folder `dump` of its compile with weights in f16."""
    model = write_small(folder)
    arguments = ["compile", str(model), "-o", str(folder / "small.so"), "--recipe", "f16", "--quiet"]
    assert main([*arguments, "--dump", str(folder / "dump")]) == 0
    return folder


@cache
def large_text(layers: int = 250) -> str:
    """Twenty nodes a layer, folded by their source layers."""
    lines, value = ["nomul.ir 1", "dim S in [1, 128]", "func @main(%x: f32[S, 64]) -> (f32[S, 64]) {"], "x"
    for layer in range(layers):
        for part in ("attn.q", "attn.k", "attn.out", "mlp.up", "mlp.down"):
            source = value
            for number in range(4):
                name = f"l{layer}.{part}.{number}"
                node = f"ew.add %{value}, %{source}" if number == 3 else f"ew.mul %{value}, 2.0"
                lines.append(f'  %{name} = {node} : f32[S, 64] loc("model.layers.{layer}.{part}:op{number}")')
                value = name
    return "\n".join([*lines, f"  return %{value}", "}"]) + "\n"


def evil_text() -> str:
    """Names and source layers with markup."""
    quoted = EVIL.replace('"', '\\"')
    node = f'%"{quoted}" = ew.mul %x, 2.0 : f32[4] loc("{quoted}")'
    return f'nomul.ir 1\nfunc @main(%x: f32[4]) -> (f32[4]) {{\n  {node}\n  return %"{quoted}"\n}}\n'
