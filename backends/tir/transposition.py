"""Square blocks of 32-bit elements transposed in registers: interleaving in 128-bit lanes, then exchanging lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.tir.body import let

Expr = Any
LANE = 4  # elements of 128 bits


def transposed(rows: list[Expr]) -> list[Expr]:
    """The columns of a block of n vectors of n elements, n = 4, 8 or 16."""
    groups = [_inside_lanes(rows[first : first + LANE]) for first in range(0, len(rows), LANE)]
    # groups[g][k] has in its lane j the elements of column 4 * j + k that come from rows 4 * g ...
    columns: list[Expr] = [None] * len(rows)
    for k in range(LANE):
        for j, column in enumerate(_exchanged([group[k] for group in groups])):
            columns[LANE * j + k] = column
    return columns


def summed(rows: list[Expr]) -> Expr:
    """The sum of each of n vectors of n elements as one vector, n = 4, 8 or 16."""
    totals = [_sums_inside_lanes(rows[first : first + LANE]) for first in range(0, len(rows), LANE)]
    half = len(rows) // LANE
    while len(totals) > 1:
        pairs = zip(totals[::2], totals[1::2], strict=True)
        totals = [_added(_lanes, a, b, tuple(range(0, 2 * half, 2)), tuple(range(1, 2 * half, 2))) for a, b in pairs]
    return totals[0]


def _sums_inside_lanes(rows: list[Expr]) -> Expr:
    """Four vectors, each of their lanes as a 4 x 4 block whose rows are added up."""
    low, high = (_added(_lanewise, a, b, (0, 4, 1, 5), (2, 6, 3, 7)) for a, b in (rows[:2], rows[2:]))
    return _added(_lanewise, low, high, (0, 1, 4, 5), (2, 3, 6, 7))


def _added(pick: Callable[..., Expr], a: Expr, b: Expr, first: tuple[int, ...], second: tuple[int, ...]) -> Expr:
    """One choice of the elements of two vectors plus another one."""
    return let("added", pick(a, b, first) + pick(a, b, second))


def _inside_lanes(rows: list[Expr]) -> list[Expr]:
    """Four vectors, each of their lanes as a 4 x 4 block."""
    a, b, c, d = rows
    low, high = _lanewise(a, b, (0, 4, 1, 5)), _lanewise(a, b, (2, 6, 3, 7))
    low_next, high_next = _lanewise(c, d, (0, 4, 1, 5)), _lanewise(c, d, (2, 6, 3, 7))
    return [
        _lanewise(low, low_next, (0, 1, 4, 5)),
        _lanewise(low, low_next, (2, 3, 6, 7)),
        _lanewise(high, high_next, (0, 1, 4, 5)),
        _lanewise(high, high_next, (2, 3, 6, 7)),
    ]


def _lanewise(a: Expr, b: Expr, picks: tuple[int, ...]) -> Expr:
    """The same choice in each lane: picks 0..3 are of a's lane, 4..7 of b's."""
    size = int(a.ty.dtype.lanes)
    places = [
        first + pick if pick < LANE else size + first + pick - LANE for first in range(0, size, LANE) for pick in picks
    ]
    return _shuffled(a, b, places)


def _exchanged(vectors: list[Expr]) -> list[Expr]:
    """n vectors of n lanes, n = 1, 2 or 4: vector j of the result has all lanes number j."""
    if len(vectors) == 1:
        return vectors
    a, b, *others = vectors
    if not others:
        return [_lanes(a, b, (0, 2)), _lanes(a, b, (1, 3))]
    c, d = others
    even, odd = _lanes(a, b, (0, 2, 4, 6)), _lanes(a, b, (1, 3, 5, 7))
    even_next, odd_next = _lanes(c, d, (0, 2, 4, 6)), _lanes(c, d, (1, 3, 5, 7))
    return [
        _lanes(even, even_next, (0, 2, 4, 6)),
        _lanes(odd, odd_next, (0, 2, 4, 6)),
        _lanes(even, even_next, (1, 3, 5, 7)),
        _lanes(odd, odd_next, (1, 3, 5, 7)),
    ]


def _lanes(a: Expr, b: Expr, picks: tuple[int, ...]) -> Expr:
    """Whole lanes of two vectors."""
    return _shuffled(a, b, [pick * LANE + element for pick in picks for element in range(LANE)])


def _shuffled(a: Expr, b: Expr, places: list[int]) -> Expr:
    return let("mixed", tirx.Shuffle([a, b], [tirx.IntImm("int32", place) for place in places]))
