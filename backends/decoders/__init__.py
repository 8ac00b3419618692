"""How kernels read encoded weights: for each encoding the integer (or float) of row n and place k, and the scales.

One file an encoding, found by themselves; each declares `(packed) -> sides`. The numpy functions of `ir/encodings/` are
the definition. Expressions here are over int64 indices; codes are int32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from tvm import tirx

from nomul.backends.decoders.packed import Packed
from nomul.backends.expressions import bind
from nomul.ir.encodings import Encoding
from nomul.ir.registry import Registry

Expr = Any
Tables = Callable[[Encoding], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Term:
    """A summand of the weights: code(n, k) times scale(n, group).

    largest: the largest magnitude of a code; 0 where codes are f32 and there is no scale."""

    largest: int
    code: Callable[[Expr, Expr], Expr]
    scale: Callable[[Expr, Expr], Expr] | None


@dataclass(frozen=True)
class Side:
    """Columns that are stored together, at places [0, columns), in `groups` groups of neighbouring places.

    column: the column of the weights that a place is; None: itself.  place: the inverse, (is the column of this side,
    its place, in range even where it is not).  factor: f32 by which the column at a place is multiplied, or None."""

    columns: int
    groups: int
    terms: tuple[Term, ...]
    column: Callable[[Expr], Expr] | None = None
    place: Callable[[Expr], tuple[Expr, Expr]] | None = None
    factor: Callable[[Expr], Expr] | None = None

    @property
    def size(self) -> int:
        """Places of a group."""
        return self.columns // self.groups

    def group(self, place: Expr) -> Expr:
        return tirx.truncdiv(place, _index(self.size)) if self.groups > 1 else _index(0)


@dataclass(frozen=True)
class Decoder:
    """sides: what the weights are made of.  tables: constant arrays of the encoding that kernels get as further fields,
    behind those that are stored."""

    sides: Callable[[Packed], tuple[Side, ...]]
    tables: Tables


_DECODERS: Registry[str, Decoder] = Registry(__name__, "the decoder of {}")


def decoder(*encodings: str, tables: Tables = lambda encoding: {}) -> Callable[..., Any]:
    """Declare how kernels read these encodings."""

    def declare(sides: Callable[[Packed], tuple[Side, ...]]) -> Callable[[Packed], tuple[Side, ...]]:
        for name in encodings:
            _DECODERS.add(name, Decoder(sides, tables))
        return sides

    return declare


def decoders() -> dict[str, Decoder]:
    """Every decoder by the name of its encoding; encodings of one plain array (f16, bf16) have none."""
    return _DECODERS.all()


def has_decoder(encoding: Encoding | None) -> bool:
    return encoding is not None and encoding.name in decoders()


def sides_of(packed: Packed) -> tuple[Side, ...]:
    """What the weights of a kernel's parameter are made of."""
    return decoders()[packed.encoding.name].sides(packed)


def tables_of(encoding: Encoding) -> Mapping[str, np.ndarray]:
    """The constant arrays behind the stored fields."""
    return decoders()[encoding.name].tables(encoding) if has_decoder(encoding) else {}


def kernel_fields(
    encoding: Encoding, fields: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """The arrays whose pointers a kernel takes for encoded weights, in order."""
    return {name: fields[name] for name in encoding.field_types(shape)} | dict(tables_of(encoding))


def element(sides: Sequence[Side], n: Expr, column: Expr) -> Expr:
    """The f32 weight of a row and a column."""
    values = []
    for side in sides:
        if side.place is None:
            values.append(side_element(side, n, column))
            continue
        inside, place = side.place(column)
        values.append(tirx.Select(inside, side_element(side, n, bind(place)), tirx.FloatImm("float32", 0.0)))
    return reduce(lambda x, y: x + y, values)


def side_element(side: Side, n: Expr, place: Expr) -> Expr:
    """The f32 weight of a row at a place of a side."""
    group = bind(side.group(place))
    values = [scaled(term.code(n, place), term.scale(n, group) if term.scale else None) for term in side.terms]
    total = bind(reduce(lambda x, y: x + y, values))
    return total if side.factor is None else bind(total * side.factor(place))


def scaled(code: Expr, scale: Expr | None) -> Expr:
    """f32 code * scale."""
    return bind(code) if scale is None else bind(tirx.Cast("float32", code) * scale)


def _index(value: int) -> Expr:
    return tirx.IntImm("int64", value)
