"""How a loop of unknown length is covered by vectors: whole ones, then narrower ones by the rest's binary digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx

from nomul.backends.tir.body import index, let, loop, when

Expr = Any


@contextmanager
def steps(count: Expr, step: int, start: Expr) -> Iterator[Expr]:
    """Places start, start + step, ... , `count` of them."""
    if isinstance(count, tirx.IntImm) and count.value == 1:
        yield start
        return
    with loop("piece", count) as number:
        yield let("place", start + number * step)


@contextmanager
def if_bit(rest: Expr, lanes: int, done: Expr) -> Iterator[Expr]:
    """The place of a narrower vector, where the binary digits of what is left have one of this size."""
    with when(tirx.NE(tirx.bitwise_and(rest, index(lanes)), index(0))):
        yield let("place", done + tirx.bitwise_and(rest, index(-2 * lanes)))
