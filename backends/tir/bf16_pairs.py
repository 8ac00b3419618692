"""Products of pairs of bf16 numbers by AVX-512 BF16: `vdpbf16ps` adds two products to each 32-bit lane, in f32.

A lane of a panel [K / 2, 32] holds two neighbouring steps of the sum for one column; a pair of a row is repeated over
the lanes. A tile is 8 rows x 32 columns: 10 loads for 16 instructions, each with the work of two multiply-adds.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import StringImm
from tvm.tirx.script import builder as T

from nomul.backends.storage import narrow_bf16
from nomul.backends.tir.body import index, let, local, loop, store
from nomul.backends.tir.gemm import Ahead, Sink
from nomul.backends.tir.operand import Rows
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.vectors import lanes_at, load, spread, zeros

FEATURE = "avx512bf16"
ROWS = 8  # of a tile; rows up to a multiple of it may be read, and reach the sink
_LANES = 16
_NAME = "nomul_add_pairs"
# TVM has no vectors of bf16, so that the instruction comes as LLVM's text, which is inlined.
_CODE = f"""
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define linkonce_odr hidden <16 x float> @{_NAME}(<16 x float> %sums, <16 x float> %x, <16 x float> %y) alwaysinline {{
  %a = bitcast <16 x float> %x to <32 x bfloat>
  %b = bitcast <16 x float> %y to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sums, <32 x bfloat> %a, <32 x bfloat> %b)
  ret <16 x float> %r
}}
"""

Expr = Any


def pairs(elements: Expr) -> Expr:
    """f32 lanes that hold neighbouring elements of an f32 vector as bf16, to nearest even."""
    lanes = int(elements.ty.dtype.lanes) // 2
    return let("pairs", tirx.reinterpret("float32" if lanes == 1 else f"float32x{lanes}", narrow_bf16(elements)))


def pair(low: Expr, high: Expr) -> Expr:
    """f32 lanes that hold the elements of two f32 vectors as bf16, to nearest even."""
    first, second = (tirx.Cast(_like("uint32", value), narrow_bf16(value)) for value in (low, high))
    bits = tirx.bitwise_or(first, tirx.shift_left(second, _constant(second, 16)))
    return let("pair", tirx.reinterpret(_like("float32", low), bits))


def pair_of_weights(low: Expr, high: Expr) -> Expr:
    """The same of numbers that are finite and not negative, halves upwards, in four instructions."""
    first, second = (tirx.reinterpret(_like("uint32", value), value) for value in (low, high))
    first = tirx.shift_right(first + _constant(first, 0x8000), _constant(first, 16))
    second = tirx.bitwise_and(second + _constant(second, 0x8000), _constant(second, 0xFFFF0000))
    return let("pair", tirx.reinterpret(_like("float32", low), tirx.bitwise_or(first, second)))


def _like(kind: str, value: Expr) -> str:
    lanes = int(value.ty.dtype.lanes)
    return kind if lanes == 1 else f"{kind}x{lanes}"


def _constant(like: Expr, value: int) -> Expr:
    return spread(tirx.const(value, "uint32"), int(like.ty.dtype.lanes))


class PairTile:
    """Make it outside of loops: it owns registers."""

    def __init__(self) -> None:
        self._sums = local("pair_sums", "float32", ROWS * PANEL)
        nothing = tirx.Evaluate(tirx.const(0, "int32"))
        T.add_to_parent(tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", StringImm(_CODE), nothing))

    def block(self, count: Expr, rows: Rows, panel: Expr, steps: Expr, sink: Sink, ahead: Ahead | None = None) -> None:
        """`count` rows times a panel. rows: of pairs, as f32 lanes; panel: where it starts in the same buffer.
        ahead(first row of a tile, step): what every step brings into the caches."""
        columns = range(0, PANEL, _LANES)
        with loop("chunk", tirx.truncdiv(count + (ROWS - 1), index(ROWS))) as chunk:
            first = let("first_row", chunk * ROWS)
            base = let("row_start", rows.start + first * rows.stride)
            for place in range(0, ROWS * PANEL, _LANES):
                store(self._sums, lanes_at(place, _LANES), zeros(_LANES))
            with loop("step", steps) as step:
                panels = [load(rows.buffer, panel + step * PANEL + column, _LANES) for column in columns]
                vectors = [let("panel", vector) for vector in panels]
                if ahead is not None:
                    ahead(first, step)
                for row in range(ROWS):
                    element = rows.buffer[base + row * rows.stride + step * rows.step]
                    halves = let("element", spread(element, _LANES))
                    for vector, column in zip(vectors, columns, strict=True):
                        self._add(row * PANEL + column, vector, halves)
            for row in range(ROWS):
                for column in columns:
                    sink(first + row, index(column), load(self._sums, row * PANEL + column, _LANES))

    def _add(self, place: int, x: Expr, y: Expr) -> None:
        sums = tirx.call_extern(f"float32x{_LANES}", _NAME, load(self._sums, place, _LANES), x, y)
        store(self._sums, lanes_at(place, _LANES), sums)
