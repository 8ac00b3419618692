"""How much arithmetic a product with encoded weights is: what the encoding asks for, not what one kernel does."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import prod


@dataclass(frozen=True)
class Work:
    """Operations for one row of inputs and all rows of the weights.

    multiplies, additions, shifts: of inputs and sums, in integers where inputs are.  lookups: in tables of at most 32
    entries.  scalings: multiplications by a scale, each with an addition, always in floats."""

    multiplies: int = 0
    additions: int = 0
    shifts: int = 0
    lookups: int = 0
    scalings: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(x + y for x, y in zip(astuple(self), astuple(other), strict=True)))

    def times(self, count: int) -> Work:
        return Work(*(count * x for x in astuple(self)))


def dense_work(shape: tuple[int, ...]) -> Work:
    """A multiplication and an addition for each weight."""
    return Work(multiplies=prod(shape), additions=prod(shape))
