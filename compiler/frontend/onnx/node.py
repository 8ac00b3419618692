"""What the function of an ONNX operator sees of its node: operands, attributes, a builder, and ways to fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from nomul.frontend.common import BAD_NODE, DATA_DEPENDENT, UNSUPPORTED_FORM, at_most, clamp
from nomul.frontend.onnx.attributes import attribute_value
from nomul.frontend.onnx.dims import SizeDemand
from nomul.frontend.onnx.entry import MAX_SIZES, Entry, Scope
from nomul.ir.dim import Dim, product
from nomul.ir.errors import NomulError
from nomul.ir.graph import Constant, Value
from nomul.ir.types import DType, Tensor

if TYPE_CHECKING:
    from onnx import AttributeProto

    from nomul.frontend.onnx.importer import Frame, GraphImporter

Operand = Entry | list[Entry] | None
Shape = tuple[Dim, ...]


class SourceNode:
    """One node. A handler returns its result, or a tuple of results: Value, Entry, numpy array, or a list (sequence).

    opset: version of the node's domain. loc: the source layer, as in errors. outputs: names ("" for an unused one)."""

    def __init__(
        self,
        domain: str,
        op_type: str,
        opset: int,
        operands: Sequence[Operand],
        outputs: Sequence[str],
        attributes: dict[str, AttributeProto],
        importer: GraphImporter,
        frame: Frame,
        scope: Scope,
        loc: str,
    ) -> None:
        self.domain = domain
        self.op_type = op_type
        self.opset = opset
        self.operands = list(operands)
        self.outputs = list(outputs)
        self.attributes = attributes
        self.importer = importer
        self.frame = frame
        self.scope = scope
        self.loc = loc

    # -- operands ----------------------------------------------------------------------------------------------
    @property
    def b(self) -> Any:
        """The builder. (Any: its families are found by attribute.)"""
        return self.scope.builder

    def has(self, index: int) -> bool:
        return index < len(self.operands) and self.operands[index] is not None

    def entry(self, index: int = 0) -> Entry:
        """A tensor operand that must be there."""
        operand = self.operands[index] if index < len(self.operands) else None
        if operand is None:
            self.fail(BAD_NODE, f"operand {index} is missing")
        if isinstance(operand, list):
            self.fail(BAD_NODE, f"operand {index} is a sequence, not a tensor")
        return operand

    def sequence(self, index: int = 0) -> list[Entry]:
        operand = self.operands[index] if index < len(self.operands) else None
        if not isinstance(operand, list):
            self.fail(BAD_NODE, f"operand {index} is not a sequence")
        return operand

    def value(self, index: int = 0) -> Value:
        """An operand as a value of the graph; a rank 0 constant is a literal."""
        return self.scope.value(self.entry(index))

    def tensor(self, index: int = 0) -> Value:
        """Like `value`, but never a literal: for ops that do not take one."""
        return self.plain(self.entry(index))

    def plain(self, entry: Entry) -> Value:
        """An entry as a value that is no literal."""
        value = self.scope.value(entry)
        if not isinstance(value, Constant):
            return value
        return self.b.make.full(shape=(), value=float(value.value), dtype=value.dtype)

    def optional(self, index: int) -> Value | None:
        return self.value(index) if self.has(index) else None

    def values(self) -> list[Value]:
        return [self.tensor(index) for index in range(len(self.operands))]

    def type(self, index: int = 0) -> Tensor:
        return self.entry(index).type

    def shape(self, index: int = 0) -> Shape:
        return self.entry(index).type.shape

    def rank(self, index: int = 0) -> int:
        return self.entry(index).type.rank

    def dtype(self, index: int = 0) -> DType:
        return self.entry(index).type.dtype

    def known(self, array: np.ndarray, label: str) -> Entry:
        """Numbers that a handler has computed, named after the node's result."""
        return Entry.of_array(f"{next(filter(None, self.outputs), self.op_type)}.{label}", array)

    def weight(self, array: np.ndarray, label: str) -> Value:
        """Numbers that a handler has computed, as a value."""
        return self.scope.value(self.known(array, label))

    # -- known operands ----------------------------------------------------------------------------------------
    def constant(self, index: int) -> np.ndarray | None:
        """The numbers of an operand, or None where it is absent or not constant."""
        return self.entry(index).array() if self.has(index) and self.entry(index).is_constant else None

    def need_constant(self, index: int, what: str) -> np.ndarray:
        """Raises NomulError (NM202) where the operand is not constant."""
        numbers = self.constant(index)
        if numbers is None:
            self.fail(UNSUPPORTED_FORM, f"{what} must be constant", "export the model with it as a constant")
        return numbers

    def sizes(self, index: int) -> np.ndarray | None:
        """An operand as an object array of Dim, or None where it depends on data (or is absent)."""
        return self.entry(index).dims() if self.has(index) else None

    def need_sizes(self, index: int, what: str) -> list[Dim]:
        """A vector (or scalar) of sizes. Raises NomulError (NM203) where it depends on data."""
        sizes = self.sizes(index)
        if sizes is None:
            self.fail(
                DATA_DEPENDENT,
                f"{what} depends on the data that the model is given",
                "shapes must follow from the shapes of the inputs; simplify the model or export it with constants",
            )
        return list(sizes.flat)

    def ints(self, index: int, attribute: str) -> list[int] | None:
        """Integers that are an attribute in older operator sets and a constant operand in newer ones."""
        if self.has(index):
            return [int(number) for number in self.need_constant(index, f"'{attribute}'").flat]
        found = self.attr(attribute)
        return None if found is None else [int(number) for number in ([found] if isinstance(found, int) else found)]

    # -- attributes --------------------------------------------------------------------------------------------
    def attr(self, name: str, default: Any = None) -> Any:
        if name not in self.attributes:
            return default
        return attribute_value(self.attributes[name], self.importer.source.folder)

    def need_attr(self, name: str) -> Any:
        if name not in self.attributes:
            self.fail(BAD_NODE, f"attribute '{name}' is missing")
        return self.attr(name)

    def run_graph(self, name: str, operands: Sequence[Operand] = ()) -> list[Operand]:
        """The outputs of the subgraph in an attribute."""
        label = f"{next(filter(None, self.outputs), self.op_type)}.{name}"
        return self.importer.run_graph(self.need_attr(name), operands, self.frame, label)

    def expand_standard(self) -> list[Operand]:
        """The results by the operator's definition in the ONNX standard. Raises NomulError (NM202) without one."""
        return self.importer.call_standard(self)

    def axis(self, axis: int, rank: int | None = None) -> int:
        """A non-negative axis. Raises NomulError (NM204)."""
        rank = self.rank(0) if rank is None else rank
        if not -rank <= axis < rank:
            self.fail(BAD_NODE, f"axis {axis} is outside rank {rank}")
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int | None = None) -> tuple[int, ...]:
        return tuple(self.axis(axis, rank) for axis in axes)

    # -- sizes -------------------------------------------------------------------------------------------------
    def at_most(self, left: Dim, right: Dim) -> bool:
        """left <= right. Where the ranges of dims do not decide, the import demands that it holds."""
        decided = at_most(left, right, self.importer.ranges)
        if decided is None:
            raise SizeDemand("at most", left, right, self.loc)
        return decided

    def clamp(self, size: Dim, low: Dim, high: Dim) -> Dim:
        """min(max(size, low), high)."""
        found = clamp(size, low, high, self.importer.ranges)
        if found is not None:
            return found
        self.at_most(low, size)
        return size if self.at_most(size, high) else high

    def same_size(self, left: Dim, right: Dim) -> None:
        """Demand that two sizes are equal."""
        if left != right:
            if left.is_constant and right.is_constant:
                self.fail(BAD_NODE, f"sizes {left} and {right} must be equal")
            raise SizeDemand("equal", left, right, self.loc)

    def divide(self, size: Dim, divisor: Dim | int) -> Dim:
        """size / divisor, demanded to be exact."""
        divisor = Dim.of(divisor)
        try:
            return size.divide_exactly(divisor)
        except ValueError:
            if size.is_constant and divisor.is_constant:
                self.fail(BAD_NODE, f"{size} is not a multiple of {divisor}")
            raise SizeDemand("multiple", size, divisor, self.loc) from None

    def broadcast(self, *shapes: Shape) -> Shape:
        """Numpy's rule; sizes that differ are demanded to be equal."""
        rank = max(map(len, shapes), default=0)
        result = [Dim.of(1)] * rank
        for shape in shapes:
            for axis, size in enumerate(shape, rank - len(shape)):
                if result[axis] == 1:
                    result[axis] = size
                elif size != 1:
                    self.same_size(result[axis], size)
        return tuple(result)

    # -- common steps ------------------------------------------------------------------------------------------
    def broadcasting(self, op: str, *indices: int, **attrs: Any) -> Value:
        """An element-wise op on operands that broadcast; constants of one number become literals."""
        entries = [self.entry(index) for index in indices or range(len(self.operands))]
        shape = self.broadcast(*(entry.type.shape for entry in entries))
        return self.b.op(op, *(self.literal(entry, len(shape), entries) for entry in entries), **attrs)

    def literal(self, entry: Entry, rank: int, beside: Sequence[Entry]) -> Value:
        """A constant of one number as a literal, where another operand gives the result its rank."""
        others = any(other.type.rank == rank and not _single(other) for other in beside)
        if _single(entry) and (others or rank == 0):
            return Constant(entry.array().reshape(()).item(), entry.type.dtype)
        return self.scope.value(entry)

    def reshape(self, value: Value, shape: Sequence[Dim | int]) -> Value:
        """A reshape, or nothing where the shape is the same."""
        target = tuple(Dim.of(size) for size in shape)
        if target == value.shape:
            return value
        if product(target) != value.type.numel:
            self.same_size(value.type.numel, product(target))
        uniform = self.uniform(value)
        if uniform is not None:
            return self.full(target, uniform, value.dtype)
        return self.b.view.reshape(value, shape=target)

    @staticmethod
    def uniform(value: Value) -> float | None:
        """The number that a value has everywhere, where that is certain from how it was made."""
        made = value.producer
        return made.attrs["value"] if made is not None and made.op == "make.full" else None

    def uniform_operand(self, index: int) -> float | None:
        """The same for an operand, which may be constant."""
        entry = self.entry(index)
        if entry.value is not None:
            return self.uniform(entry.value)
        if not entry.is_constant or not 0 < int(entry.type.numel) <= MAX_SIZES:
            return None
        numbers = entry.array()
        return float(numbers.flat[0]) if (numbers == numbers.flat[0]).all() else None

    def full(self, shape: Sequence[Dim], number: float, dtype: DType) -> Value:
        """One number everywhere."""
        return self.b.make.full(shape=tuple(shape), value=number, dtype=dtype)

    def expand(self, value: Value, shape: Sequence[Dim]) -> Value:
        """A value broadcast to a shape that it fits, or as it is."""
        shape = tuple(shape)
        if value.shape == shape:
            return value
        uniform = self.uniform(value)
        return self.b.view.expand(value, shape=shape) if uniform is None else self.full(shape, uniform, value.dtype)

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        perm = tuple(perm)
        return value if perm == tuple(range(value.type.rank)) else self.b.view.transpose(value, perm=perm)

    def cast(self, value: Value, dtype: DType) -> Value:
        return value if value.dtype is dtype else self.b.ew.cast(value, dtype=dtype)

    def slice(self, value: Value, axis: int, start: Dim | int, stop: Dim | int, step: int = 1) -> Value:
        """A slice with resolved bounds, or nothing where it takes everything."""
        if Dim.of(start) == 0 and Dim.of(stop) == value.shape[axis] and step == 1:
            return value
        return self.b.view.slice(value, axis=axis, start=start, stop=stop, step=step)

    # -- failing -----------------------------------------------------------------------------------------------
    def fail(self, code: str, message: str, help: str | None = None) -> NoReturn:
        raise NomulError(code, f"{self.op_type}: {message}", loc=self.loc, help=help)

    def unsupported(self, message: str, help: str | None = None) -> NoReturn:
        """Raises NomulError (NM202)."""
        self.fail(UNSUPPORTED_FORM, message, help)


def _single(entry: Entry) -> bool:
    """Whether an entry is one constant number, of any rank."""
    return entry.is_constant and entry.type.numel == 1
