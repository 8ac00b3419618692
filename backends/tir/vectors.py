"""Vector loads and stores of one-dimensional buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from nomul.backends.tir.body import evaluate, index, store


def lanes_at(place: Any, lanes: int) -> Any:
    """`lanes` neighbouring places from `place` on; a scalar place for one lane."""
    return index(place) if lanes == 1 else tirx.Ramp(index(place), index(1), lanes)


def load(buffer: Any, place: Any, lanes: int) -> Any:
    return tirx.BufferLoad(buffer, [lanes_at(place, lanes)])


def store_vector(buffer: Any, place: Any, value: Any) -> None:
    store(buffer, lanes_at(place, int(value.ty.dtype.lanes)), value)


def spread(value: Any, lanes: int) -> Any:
    """A scalar in every lane."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def zeros(lanes: int) -> Any:
    """f32 zeros."""
    return spread(tirx.FloatImm("float32", 0.0), lanes)


def prefetch(buffer: Any, place: Any, count: int, cache: int = 1) -> None:
    """Bring `count` elements into the first- or second-level cache; a place behind the buffer's end does no harm.

    What streams from memory comes up to 1.4 times as fast by the second: more lines can be under way to it."""
    line = 64 // np.dtype(str(buffer.ty.dtype)).itemsize
    read, locality, data = (tirx.IntImm("int32", value) for value in (0, 4 - cache, 1))
    for offset in range(0, count, line):
        address = tirx.address_of(buffer[place + offset])
        evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, read, locality, data))


def lanes_folded(buffer: Any, lanes: int, combine: Callable[[Any, Any], Any]) -> Any:
    """The first elements of a buffer combined as a tree; what they hold is lost. lanes: a power of two."""
    while lanes > 1:
        lanes //= 2
        store_vector(buffer, 0, combine(load(buffer, 0, lanes), load(buffer, lanes, lanes)))
    return buffer[0]
