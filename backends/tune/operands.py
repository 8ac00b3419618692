"""Memory for a kernel that is measured: drawn inputs, the model's weights in as many copies as pass the caches."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np

from nomul.backends.build import ALIGNMENT, packed_fields
from nomul.backends.group import Group
from nomul.backends.registry import Built
from nomul.ir.graph import Weight
from nomul.ir.interpreter import type_shape
from nomul.ir.types import DType, Tensor

LARGEST_COPIES = 64 * 2**20  # bytes; more than what caches keep
MOST_SETS = 256


class Operands:
    """pointers: `sets` times `count` of them, which differ in the copies of the weights. scratch: its address."""

    def __init__(
        self, group: Group, built: Built, weights: Mapping[int, Weight], at: Mapping[str, int], model_bytes: int
    ) -> None:
        self._kept: list[np.ndarray] = []
        fields = {i: [*packed_fields(w, built.layouts.get(i)).values()] for i, w in weights.items()}
        size = sum(array.nbytes for arrays in fields.values() for array in arrays)
        self.sets = min(MOST_SETS, max(1, min(model_bytes, LARGEST_COPIES) // max(size, 1)))
        rng = np.random.default_rng(0)
        shared = {i: self._place(_drawn(p.type, at, rng)) for i, p in enumerate(group.func.params) if i not in fields}
        results = [self._place(np.zeros(type_shape(v.type, at), v.dtype.numpy)) for v in group.func.returns]
        flat: list[int] = []
        for _ in range(self.sets):
            for position in range(len(group.func.params)):
                own = fields.get(position)
                flat += [shared[position]] if own is None else [self._place(array) for array in own]
            flat += results
        self.count = len(flat) // self.sets
        self.pointers = (ctypes.c_void_p * len(flat))(*flat)
        self.scratch = self._place(np.zeros(built.scratch.evaluate(at), np.uint8))

    def _place(self, array: np.ndarray) -> int:
        """The address of an aligned copy."""
        room = np.zeros(array.nbytes + ALIGNMENT, np.uint8)
        self._kept.append(room)
        start = -room.ctypes.data % ALIGNMENT
        room[start : start + array.nbytes] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        return int(room.ctypes.data) + start


def _drawn(type: Tensor, at: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    """Values that any op takes: floats are normal, bytes are what activations become, other integers index anything."""
    shape = type_shape(type, at)
    if type.dtype.is_float:
        return rng.standard_normal(shape, np.float32).astype(type.dtype.numpy)
    if type.dtype is DType.I8:
        return rng.integers(-127, 127, shape, np.int8, endpoint=True)
    fill = type.dtype is DType.BOOL  # masks let all through
    return np.full(shape, fill, type.dtype.numpy)
