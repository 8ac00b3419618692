"""The kernels of a model as one C file."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from nomul.backends import c_text
from nomul.backends.group import Group
from nomul.backends.portable_c.intervals import INT64, Interval
from nomul.backends.portable_c.printer import print_function
from nomul.backends.portable_c.terms import Unprintable
from nomul.backends.registry import Built
from nomul.backends.select import Selection
from nomul.ir.dim import Range
from nomul.ir.errors import NomulError, Problem


def kernels_text(selection: Selection, symbols: Mapping[int, str]) -> str:
    """The text of kernels.c. symbols: as `build.kernel_symbols` gives them. Raises NomulError (NM405) with every kernel
    that has no form in C."""
    parts, problems = ['/* kernels.c: the kernels of the model, written by nomul. */\n#include "nomul_kernel.h"\n'], []
    for choice in selection.unique:
        ops = " + ".join(node.op for node in choice.group.func.nodes) or "copy"
        symbol = f"{symbols[id(choice)]}__{choice.levels[0].level}"
        try:
            parts.append(f"{c_text.comment(ops)}\n{kernel_text(choice.group, choice.built[0], symbol)}")
        except Unprintable as fault:
            message = f"the kernel {choice.label} for {ops} has no form in portable C: it uses {fault}"
            problems.append(Problem("NM405", message, choice.group.func.nodes[0].loc, "compile to a library instead"))
    if problems:
        raise NomulError.many(problems)
    return "\n".join(parts)


def kernel_text(group: Group, built: Built, symbol: str) -> str:
    """One kernel. Raises Unprintable."""
    tiles = _interval(built.tiles.bounds(group.ranges))
    ranges = {name: _interval(range_) for name, range_ in group.ranges.items()}
    ends = Interval(0, max(tiles.high, 0))
    return print_function(built.function, symbol, ranges | {"tile_begin": ends, "tile_end": ends})


def _interval(range_: Range | tuple[int | float, int | float]) -> Interval:
    low, high = range_
    return Interval(INT64.low if low == -inf else int(low), INT64.high if high == inf else int(high))
