"""What an ONNX name stands for during an import: constant numbers, known symbolic sizes, or a value of the graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nomul.frontend.common import value_name
from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Module, Value, Weight
from nomul.ir.types import DType, Tensor


class Entry:
    """Exactly one of three: `value` (of the graph), `sizes` (object array of Dim), or constant numbers (`array()`)."""

    def __init__(
        self,
        name: str,
        type: Tensor,
        *,
        value: Value | None = None,
        sizes: np.ndarray | None = None,
        load: Callable[[], np.ndarray] | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self.value = value
        self.sizes = sizes
        self._load = load
        self._array: np.ndarray | None = None

    @staticmethod
    def of_value(name: str, value: Value) -> Entry:
        return Entry(name, value.type, value=value)

    @staticmethod
    def of_array(name: str, array: np.ndarray) -> Entry:
        """Numbers, or Dims in an object array; the latter become int64 numbers where all are constant.

        Raises KeyError for a dtype that the IR does not have."""
        if array.dtype == object:
            return Entry.of_sizes(name, array, DType.I64)
        return Entry(name, _type(DType.from_numpy(array.dtype), array), load=lambda: array)

    @staticmethod
    def of_sizes(name: str, sizes: np.ndarray, dtype: DType) -> Entry:
        """Dims in an object array, seen by the model as numbers of `dtype`."""
        if all(dim.is_constant for dim in sizes.flat):
            numbers = np.array([int(dim) for dim in sizes.flat], np.int64).reshape(sizes.shape)
            return Entry.of_array(name, numbers.astype(dtype.numpy))
        return Entry(name, _type(dtype, sizes), sizes=sizes)

    @property
    def is_constant(self) -> bool:
        return self._load is not None

    @property
    def is_known(self) -> bool:
        """Constant or symbolic sizes: no value of the graph."""
        return self.value is None

    def array(self) -> np.ndarray:
        """The numbers of a constant; loaded at the first call."""
        assert self._load is not None, f"{self.name} is not constant"
        if self._array is None:
            self._array = self._load()
        return self._array

    def dims(self) -> np.ndarray | None:
        """An object array of Dim for known integers (or floats that are integers), else None."""
        if self.sizes is not None:
            return self.sizes
        if not self.is_constant or self.type.numel.value is None or int(self.type.numel) > MAX_SIZES:
            return None
        numbers = self.array()
        if numbers.dtype.kind not in "iu" and not _integral(numbers):
            return None
        return dim_array([Dim.of(int(number)) for number in numbers.flat], numbers.shape)


MAX_SIZES = 4096  # symbolic sizes come in short vectors; longer ones are data


def dim_array(dims: list[Dim], shape: tuple[int, ...]) -> np.ndarray:
    """An object array of Dim."""
    array = np.empty(len(dims), object)
    array[:] = dims
    return array.reshape(shape)


def _integral(numbers: np.ndarray) -> bool:
    floats = numbers.dtype.kind == "f"
    return floats and bool(np.isfinite(numbers).all()) and np.array_equal(numbers, np.trunc(numbers))


def _type(dtype: DType, array: np.ndarray) -> Tensor:
    return Tensor(dtype, tuple(Dim.of(size) for size in array.shape))


class Scope:
    """The function that nodes are added to, and the graph values that stand for known entries in it.

    module: takes the weights; None for the scratch function of a constant fold.  label: names in the IR for those of
    the model."""

    def __init__(
        self, builder: Builder, module: Module | None = None, label: Callable[[str], str] = value_name
    ) -> None:
        self.builder = builder
        self.module = module
        self.label = label
        self._made: dict[Entry, Value] = {}

    def value(self, entry: Entry) -> Value:
        """The entry as an operand: rank 0 constants are literals, other constants weights (one for all uses)."""
        if entry.value is not None:
            return entry.value
        if entry.is_constant and entry.type.rank == 0:
            return Constant(entry.array().item(), entry.type.dtype)
        if entry not in self._made:
            self._made[entry] = self._weight(entry) if entry.is_constant else self._sizes(entry)
        return self._made[entry]

    def _weight(self, entry: Entry) -> Value:
        weight = Weight(self.label(entry.name), entry.type, {"data": entry.array()})
        return self.module.add_weight(weight) if self.module else weight

    def _sizes(self, entry: Entry) -> Value:
        """make.size for each dim, joined."""
        b, sizes = self.builder, entry.sizes
        assert sizes is not None
        numbers = [b.make.size(size=dim) for dim in sizes.flat]
        if entry.type.dtype is not DType.I64:
            numbers = [b.ew.cast(number, dtype=entry.type.dtype) for number in numbers]
        if sizes.ndim == 0:
            return numbers[0]
        rows = [b.view.reshape(number, shape=(1,)) for number in numbers]
        joined = rows[0] if len(rows) == 1 else b.view.concat(*rows, axis=0)
        return joined if sizes.ndim == 1 else b.view.reshape(joined, shape=sizes.shape)
