"""The left operand of a product of rows and a panel: where its elements stand, and how they come into registers.

Machines that multiply by one lane of a register (NEON: `fmla v0.4s, v1.4s, v2.s[3]`) load four elements at once: of
four steps where a row's elements are neighbours, of four rows where a step's are. Others repeat each element over the
lanes as they load it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends.tir.body import let
from nomul.backends.tir.vectors import load, spread

Expr = Any
Element = Callable[[int], Expr]  # lanes -> the element in each of them
LANES = 4  # f32 elements of a register whose lanes multiply


@dataclass(frozen=True)
class Rows:
    """Rows of A: element k of row r is `buffer[start + r * stride + k * step]`."""

    buffer: Any
    start: Expr
    stride: Expr | int
    step: Expr | int = 1


def steps_together(rows: Rows, least: int, *, by_lane: bool) -> int:
    """Steps of the reduction to emit at a time, a multiple of `least`, which is a power of two."""
    return max(least, LANES) if by_lane and _is_along(rows) else least


def elements_of(rows: Rows, place: Expr, height: int, steps: int, *, by_lane: bool) -> Callable[[int, int], Element]:
    """(step, row) -> element, for a tile of `height` rows and so many steps from `place` on. Ask in that order."""
    if by_lane and _is_one(rows.stride):
        return _across(rows, place, height, steps)
    if by_lane and _is_along(rows) and steps % LANES == 0:
        return _along(rows, place, height, steps)

    def single(step: int, row: int) -> Element:
        element = let("element", rows.buffer[place + step * rows.step + row * rows.stride])
        return lambda lanes: spread(element, lanes)

    return single


def _is_along(rows: Rows) -> bool:
    """Whether four steps of a row are to be loaded at once."""
    return _is_one(rows.step) and not _is_one(rows.stride)


def _along(rows: Rows, place: Expr, height: int, steps: int) -> Callable[[int, int], Element]:
    vectors = {
        (first, row): let("a", load(rows.buffer, place + row * rows.stride + first, LANES))
        for first in range(0, steps, LANES)
        for row in range(height)
    }
    return lambda step, row: _lane(vectors[step // LANES * LANES, row], step % LANES)


def _across(rows: Rows, place: Expr, height: int, steps: int) -> Callable[[int, int], Element]:
    vectors: dict[tuple[int, int], Expr] = {}
    for step in range(steps):
        row = 0
        while row < height:
            lanes = next(width for width in (4, 2, 1) if width <= height - row)
            vector = let("a", load(rows.buffer, place + step * rows.step + row, lanes))
            vectors |= {(step, row + lane): _lane(vector, lane) for lane in range(lanes)}
            row += lanes
    return lambda step, row: vectors[step, row]


def _lane(vector: Expr, lane: int) -> Element:
    size = int(vector.ty.dtype.lanes)
    if size == 1:
        return lambda lanes: spread(vector, lanes)
    # TVM wants at least as many lanes in as come out
    return lambda lanes: tirx.Shuffle([vector] * -(-lanes // size), [tirx.IntImm("int32", lane)] * lanes)


def _is_one(value: Expr | int) -> bool:
    return value == 1 if isinstance(value, int) else isinstance(value, tirx.IntImm) and value.value == 1
