"""What a layer gets whose shape does not fit the encoding that a recipe wants: a smaller group, `int8`, or nothing."""

from __future__ import annotations

from math import prod

from nomul.ir.encodings import Encoding, get_encoding
from nomul.ir.encodings.grouped import Grouped
from nomul.passes.fit.solve.lattice import regrouped

SMALLEST_GROUP = 16


def fitting(encoding: Encoding, shape: tuple[int, ...]) -> tuple[Encoding | None, str | None]:
    """The encoding itself where it fits weights of this shape; else what stands in for it (None: f32), and why.

    In order: the largest smaller group, from 16, that divides the columns; one group for each row; int8 by row."""
    reason = misfit(encoding, shape)
    if reason is None:
        return encoding, None
    smaller = _smaller_groups(encoding, prod(shape[1:])) if isinstance(encoding, Grouped) else []
    for candidate in [*smaller, get_encoding("int8")]:
        if misfit(candidate, shape) is None:
            return candidate, reason
    return None, reason


def misfit(encoding: Encoding, shape: tuple[int, ...]) -> str | None:
    """Why weights of this shape cannot be stored, or None."""
    try:
        encoding.field_types(shape)
    except ValueError as error:
        return str(error)
    return None


def _smaller_groups(encoding: Grouped, columns: int) -> list[Encoding]:
    sizes = [size for size in range(min(encoding.group, columns), SMALLEST_GROUP - 1, -1) if columns % size == 0]
    return [regrouped(encoding, size) for size in [*sizes, 0]]
