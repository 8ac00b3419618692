"""Rows phi(x) of linear attention in scratch."""

from __future__ import annotations

import operator
from typing import Any

from tvm import tirx

from nomul.backends.feature_map import mapped
from nomul.backends.kernels.heads import HeadRows
from nomul.backends.mathlib import exp_nonpositive
from nomul.backends.tir.body import index, let, local, loop
from nomul.backends.tir.vectors import lanes_folded, load, spread, store_vector

Expr = Any
LOWEST = -3.4028234663852886e38  # where a maximum starts


class Features:
    """Make it outside of loops: it owns registers. name: of the map."""

    def __init__(self, rows: HeadRows, name: str) -> None:
        self._rows, self._name, self._lanes = rows, name, rows.lanes
        self._fold = local("fold", "float32", rows.lanes)

    def write(self, source: Expr, into: Any, target: Expr) -> None:
        """phi of the row at `source` to place `target` of `into`; what pads it to whole vectors must be 0."""
        for piece, lanes in self._rows.pieces():
            with piece as place:
                element = let("element", load(self._rows.buffer, source + place, lanes))
                store_vector(into, target + place, mapped(element, self._name))
        if self._name == "softmax":
            self._soften(into, target)

    def _soften(self, buffer: Any, start: Expr) -> None:
        fold, size = self._fold, self._lanes
        store_vector(fold, 0, spread(tirx.FloatImm("float32", LOWEST), size))
        for piece, lanes in self._rows.pieces():
            with piece as place:
                store_vector(fold, 0, tirx.max(load(fold, 0, lanes), load(buffer, start + place, lanes)))
        top = let("top", lanes_folded(fold, size, tirx.max))
        store_vector(fold, 0, spread(tirx.FloatImm("float32", 0.0), size))
        for piece, lanes in self._rows.pieces():
            with piece as place:
                power = let(
                    "power", exp_nonpositive(let("below", load(buffer, start + place, lanes) - spread(top, lanes)))
                )
                store_vector(buffer, start + place, power)
                store_vector(fold, 0, load(fold, 0, lanes) + power)
        share = let("share", tirx.FloatImm("float32", 1.0) / lanes_folded(fold, size, operator.add))
        with loop("piece", index(self._rows.padded // size)) as piece:
            place = let("place", start + piece * size)
            store_vector(buffer, place, load(buffer, place, size) * spread(share, size))
