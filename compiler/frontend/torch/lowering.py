"""What a lowering function works with: the builder, the node's result type, and conversions between kinds of values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from nomul.frontend.common import UNSUPPORTED_FORM
from nomul.frontend.torch.dtypes import common_dtype, dtype_of
from nomul.frontend.torch.errors import Unsupported
from nomul.frontend.torch.lazy import ONE, ZERO, Affine, Choice, Lazy, Mask, Uniform
from nomul.frontend.torch.symbols import Symbols
from nomul.frontend.torch.weights import WeightTable
from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Func, Module, Scalar, Value, Weight
from nomul.ir.op import TypeFault, get_op
from nomul.ir.signature import broadcast
from nomul.ir.types import DType

Operand = Value | Lazy | Dim | Scalar


class Lowering:
    """node: the node of the exported graph that is being lowered; meta: torch's fake result of it."""

    def __init__(self, module: Module, symbols: Symbols) -> None:
        self.module = module
        self.symbols = symbols
        self.weights = WeightTable(module)
        self.b = Builder(Func("main"))
        self.node: Any = None
        self._computed: dict[Lazy, Value] = {}
        self._is_part = False

    def enter(self, func: Func) -> None:
        """Add nodes to this function from now on."""
        self.b = Builder(func)

    # -- the node's result -------------------------------------------------------------------------------------
    @property
    def ranges(self) -> dict[str, Any]:
        return self.symbols.ranges

    @property
    def name(self) -> str:
        return self.node.name

    def meta(self, index: int | None = None) -> torch.Tensor:
        """The fake result (one of several with `index`)."""
        value = self.node.meta["val"]
        return value if index is None else value[index]

    def shape(self, index: int | None = None) -> tuple[Dim, ...]:
        """The result's shape as torch inferred it."""
        return self.symbols.shape(self.meta(index).shape)

    def dtype(self, index: int | None = None) -> DType:
        dtype = self.meta(index).dtype
        return dtype_of(dtype.to_real() if self._is_part and dtype.is_complex else dtype)

    @contextmanager
    def parts_of_complex(self) -> Iterator[None]:
        """Inside, the node's result is one of the two parts of its complex result."""
        self._is_part = True
        try:
            yield
        finally:
            self._is_part = False

    def unsupported(self, message: str, help: str | None = None) -> Unsupported:
        """The exception for a form of this op that cannot be lowered."""
        return Unsupported(UNSUPPORTED_FORM, message, help)

    # -- values ------------------------------------------------------------------------------------------------
    def value(self, operand: Operand, dtype: DType | None = None) -> Value:
        """A tensor of the IR: lazy values are computed, sizes and numbers become scalars. dtype: converted to it."""
        if isinstance(operand, Dim):
            operand = operand.value if operand.value is not None else self.b.make.size(size=operand)
        if isinstance(operand, bool | int | float):
            given = DType.BOOL if isinstance(operand, bool) else DType.I64 if isinstance(operand, int) else DType.F32
            return self.literal(operand, dtype or given)
        if isinstance(operand, Uniform | Affine | Mask | Choice):
            operand = self._compute(operand)
        return operand if dtype is None else self.cast(operand, dtype)

    def literal(self, number: Scalar, dtype: DType) -> Constant:
        if dtype.is_integer and number != int(number):
            raise self.unsupported(f"the number {number} is not of type {dtype}")
        return Constant(number, dtype)

    def cast(self, value: Value, dtype: DType) -> Value:
        if value.dtype is dtype:
            return value
        if isinstance(value, Constant):
            with np.errstate(all="ignore"):
                return Constant(np.asarray(value.value, value.dtype.numpy).astype(dtype.numpy).item(), dtype)
        return self.b.ew.cast(value, dtype=dtype)

    def tensor(self, operand: Operand, dtype: DType | None = None) -> Value:
        """Like `value`, but a literal becomes a tensor of rank 0."""
        value = self.value(operand, dtype)
        return self._filled(value.value, (), value.dtype) if isinstance(value, Constant) else value

    def _filled(self, number: Scalar, shape: tuple[Dim, ...], dtype: DType) -> Value:
        if dtype is DType.I64 and abs(number) > 1 << 53:  # the attribute is a float
            array = np.full([1] * len(shape), number, np.int64)
            return self.expand(self.weights.add(self.name, array), shape)
        return self.b.make.full(shape=shape, value=float(number), dtype=dtype)

    def _compute(self, lazy: Lazy) -> Value:
        if lazy not in self._computed:
            self._computed[lazy] = self._compute_now(lazy)
        return self._computed[lazy]

    def _compute_now(self, lazy: Lazy) -> Value:
        if isinstance(lazy, Uniform):
            if not lazy.shape:
                return Constant(lazy.number, lazy.dtype)
            return self._filled(lazy.number, lazy.shape, lazy.dtype)
        if isinstance(lazy, Affine):
            return self.expand(self._count(lazy, lazy.dtype), lazy.shape)
        if isinstance(lazy, Mask):
            return self.expand(self.mask(lazy), lazy.shape)
        yes, no = (Constant(number, lazy.dtype) for number in (lazy.yes, lazy.no))
        return self.expand(self.b.ew.where(self.mask(lazy.mask), yes, no), lazy.shape)

    def _count(self, formula: Affine, dtype: DType) -> Value:
        """The numbers of an Affine, of size 1 along axes that do not move."""
        moving, total = formula.moving, None
        offset = formula.offset
        for axis in moving:
            step = formula.steps[axis]
            start = offset if step.value is not None and axis == moving[0] else ZERO
            line = self.b.make.iota(size=formula.shape[axis], start=start, step=step.value or 1, dtype=dtype)
            offset = ZERO if start is offset else offset
            if step.value is None:
                line = self.b.ew.mul(line, self.value(step, dtype))
            shape = [ONE] * len(formula.shape)
            shape[axis] = formula.shape[axis]
            line = self.reshape(line, tuple(shape))
            total = line if total is None else self.b.ew.add(total, line)
        if total is None:
            return self.reshape(self.tensor(offset, dtype), (ONE,) * len(formula.shape))
        return total if offset == ZERO else self.b.ew.add(total, self.value(offset, dtype))

    def mask(self, mask: Mask) -> Value:
        """The bools of a mask, not yet broadcast to its shape."""
        result = mask.tensor
        for bound in mask.bounds:
            holds = self._holds(bound)
            result = holds if result is None else self.b.ew.and_(result, holds)
        assert result is not None, "a mask without conditions"
        return result

    def _holds(self, bound: Affine) -> Value:
        """bound >= 0, written as `what counts down <= what counts up`."""
        down = [axis for axis in bound.moving if bound.steps[axis].bounds(self.ranges)[1] <= 0]
        up_steps = [ZERO if axis in down else step for axis, step in enumerate(bound.steps)]
        down_steps = [-step if axis in down else ZERO for axis, step in enumerate(bound.steps)]
        low = self._count(Affine(bound.dtype, bound.shape, tuple(down_steps), -bound.offset), bound.dtype)
        high = self._count(Affine(bound.dtype, bound.shape, tuple(up_steps), ZERO), bound.dtype)
        return self.b.ew.le(low, high)

    # -- views -------------------------------------------------------------------------------------------------
    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        shape = tuple(shape)
        if value.shape == shape:
            return value
        if isinstance(value, Weight) and all(size.value is not None for size in shape):
            return self.weights.reshaped(value, tuple(int(size) for size in shape))
        return self.b.view.reshape(value, shape=shape)

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        perm = tuple(perm)
        if perm == tuple(range(len(perm))):
            return value
        return (
            self.weights.permuted(value, perm) if isinstance(value, Weight) else self.b.view.transpose(value, perm=perm)
        )

    def expand(self, value: Value, shape: Sequence[Dim]) -> Value:
        if value.shape == tuple(shape):
            return value
        if isinstance(value, Constant):
            return self._filled(value.value, tuple(shape), value.dtype)
        return self.b.view.expand(value, shape=tuple(shape))

    def slice(self, value: Value, axis: int, start: Dim, stop: Dim, step: int = 1) -> Value:
        """Elements start, start + step, ... before stop; both inside the axis."""
        if start == ZERO and stop == value.shape[axis] and step == 1:
            return value
        return self.b.view.slice(value, axis=axis, start=start, stop=stop, step=step)

    def axis(self, axis: int, rank: int) -> int:
        """A torch axis (negative counts from the end) as a non-negative one."""
        return axis % max(rank, 1)

    # -- element-wise ------------------------------------------------------------------------------------------
    def elementwise(
        self, op: str, operands: Sequence[Operand], dtype: DType | None = None, **attrs: Any
    ) -> Value | Uniform:
        """One element-wise op on operands converted to dtype (default: torch's common type). Numbers stay literals."""
        dtype = dtype or common_dtype(operands)
        if all(isinstance(operand, Uniform | bool | int | float) for operand in operands):
            return self._fold(op, operands, dtype, attrs)
        shape: tuple[Dim, ...] = ()
        for operand in operands:
            shape = broadcast(shape, getattr(operand, "shape", ()))
        result = self.b.op(op, *(self.compact(operand, dtype) for operand in operands), **attrs)
        return self.expand(result, shape)

    def compact(self, operand: Operand, dtype: DType | None = None) -> Value:
        """A tensor that broadcasts to the operand's shape, without the repetition: a literal for a uniform one."""
        if isinstance(operand, Uniform):
            operand = Constant(operand.number, operand.dtype)
        elif isinstance(operand, Affine):
            operand = self._count(operand, operand.dtype)
        elif isinstance(operand, Mask):
            operand = self.mask(operand)
        value = self.value(operand)
        while value.producer is not None and value.producer.op == "view.expand":
            (source,) = value.producer.args
            assert source is not None
            value = source
        return value if dtype is None else self.cast(value, dtype)

    def _fold(self, op: str, operands: Sequence[Operand], dtype: DType, attrs: dict[str, Any]) -> Uniform:
        spec = get_op(op)
        shape: tuple[Dim, ...] = ()
        numbers = []
        for operand in operands:
            number = operand.number if isinstance(operand, Uniform) else operand
            given = operand.dtype.numpy if isinstance(operand, Uniform) else None
            shape = broadcast(shape, operand.shape if isinstance(operand, Uniform) else ())
            numbers.append(np.asarray(number, given).astype(dtype.numpy))
        with np.errstate(all="ignore"):
            result = np.asarray(spec.function(*numbers, **spec.complete(attrs)))
        return Uniform(DType.from_numpy(result.dtype), shape, result.item())

    def broadcast_shape(self, *operands: Operand) -> tuple[Dim, ...]:
        """The shape that operands broadcast to. Raises Unsupported where sizes do not fit."""
        shape: tuple[Dim, ...] = ()
        try:
            for operand in operands:
                shape = broadcast(shape, getattr(operand, "shape", ()))
        except TypeFault as fault:
            raise self.unsupported(fault.message) from None
        return shape
