"""The frame of every kernel: a TIRx function with the C interface of `docs/kernels.md`, its buffers and its sizes.

    with KernelFrame(group, target) as kernel:
        with T.serial(kernel.begin, kernel.end) as tile:
            ...
    return Built(kernel.function, ...)

Buffers are flat; `read` and `write` take an index per axis, whose last part may be a ramp of lanes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from nomul.backends.decoders import element, has_decoder, sides_of, tables_of
from nomul.backends.decoders.packed import Packed
from nomul.backends.emit import Expr, Index, compute_type
from nomul.backends.expressions import bind
from nomul.backends.group import Group
from nomul.backends.storage import from_storage, rounded, storage_type, to_storage
from nomul.backends.target import Target
from nomul.backends.tir.body import UNBOUNDED
from nomul.backends.tir.encoded_row import RowReader
from nomul.ir.dim import Dim
from nomul.ir.encodings.low_bit import matrix_size
from nomul.ir.graph import Value
from nomul.ir.shapes import row_major
from nomul.ir.types import DType

INDEX = "int64"


def index_constant(value: int) -> Expr:
    return tirx.const(value, INDEX)


class KernelFrame:
    """begin, end: the tile range.  scratch: pointer to the thread's scratch.  row_readers: for tables of which rows are
    looked up, and whose bytes a kernel declares itself.  packed: storage types of the fields of
    parameters (by position) whose buffers the kernel declares itself, from `pointers`."""

    function: Any

    def __init__(self, group: Group, target: Target, packed: Mapping[int, Sequence[str]] | None = None) -> None:
        self.group = group
        self.target = target
        self.packed = dict(packed or {})
        self.pointers: dict[Value, list[Expr]] = {}
        self.row_readers: dict[Value, RowReader] = {}
        self._buffers: dict[Value, Any] = {}
        self._types: dict[Value, DType] = {}
        self._packed_weights: dict[Value, Packed] = {}
        self._sizes: dict[Dim, Expr] = {}
        self._vars: dict[str, Expr] = {}

    # -- the function ------------------------------------------------------------------------------------------
    def __enter__(self) -> KernelFrame:
        self._builder = IRBuilder()
        self._builder.__enter__()
        self._function = T.prim_func(private=False)
        self._function.__enter__()
        T.func_name("kernel")
        T.func_ret(tvm.ir.PrimType("int32"))
        results = [Value(f"result{i}", value.type) for i, value in enumerate(self.group.func.returns)]
        self.results: list[Value] = results
        for position, value in enumerate([*self.group.func.params, *results]):
            types = self.packed.get(position) or _field_types(value)
            label = value.name.replace(".", "_")
            self.pointers[value] = [
                T.arg(f"{label}_{i}" if i else label, T.handle(name)) for i, name in enumerate(types)
            ]
        self._vars = {name: T.arg(name, T.int64()) for name in self.group.dims}
        self.begin, self.end = T.arg("tile_begin", T.int64()), T.arg("tile_end", T.int64())
        self.scratch = T.arg("scratch", T.handle("uint8"))
        for position, value in enumerate([*self.group.func.params, *results]):
            if position not in self.packed:
                self._declare(value)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is None:
            T.Return(T.int32(0))
        self._function.__exit__(kind, error, trace)
        self._builder.__exit__(kind, error, trace)
        if kind is None:
            self.function = self._builder.get()

    def _declare(self, value: Value) -> None:
        """The buffers of a parameter or result."""
        label = value.name.replace(".", "_")
        encoding = value.type.encoding
        if encoding is None or not has_decoder(encoding):
            self._buffers[value] = self._flat(f"{label}_data", _plain_type(value), self.pointers[value][0])
            self._types[value] = _stored_dtype(value)
            return
        rows, columns = matrix_size(_static_shape(value))
        types = _kernel_field_types(value)
        buffers = {
            name: self._flat(f"{label}_{name}", _element_type(dtype), pointer)
            for (name, dtype), pointer in zip(types.items(), self.pointers[value], strict=True)
        }
        self._packed_weights[value] = Packed(encoding, rows, columns, buffers, types, self.target)

    @staticmethod
    def _flat(name: str, dtype: str, pointer: Expr) -> Any:
        buffer = T.decl_buffer((UNBOUNDED,), dtype, data=pointer)
        IRBuilder.name(name, buffer)
        return buffer

    def packed_weight(self, value: Value) -> Packed:
        """The fields of an encoded weight."""
        return self._packed_weights[value]

    # -- sizes -------------------------------------------------------------------------------------------------
    def size(self, dim: Dim | int) -> Expr:
        """A symbolic size over the kernel's integer parameters."""
        dim = Dim.of(dim)
        if dim not in self._sizes:
            self._sizes[dim] = size_expression(dim, self._vars)
        return self._sizes[dim]

    # -- memory ------------------------------------------------------------------------------------------------
    def buffer(self, value: Value) -> Any:
        """The flat buffer of a parameter or of `results[i]`."""
        return self._buffers[value]

    def read(self, value: Value, index: Index) -> Expr:
        """The compute value of an element (or of a vector of them; encoded weights: one element) of a parameter."""
        if value in self._packed_weights:
            return self._decoded(value, index[0], self.offset(value.shape[1:], index[1:]))
        return self.read_flat(value, self.offset(value.shape, index))

    def _decoded(self, value: Value, row: Expr, column: Expr) -> Expr:
        weight = element(sides_of(self._packed_weights[value]), bind(row), bind(column))
        if compute_type(value.dtype) != "float32":
            return bind(tirx.Cast(compute_type(value.dtype), weight))
        return bind(rounded(weight, value.dtype))

    def read_flat(self, value: Value, offset: Expr) -> Expr:
        raw = self._buffers[value][offset]
        return bind(from_storage(bind(raw), self._types[value], self.target))

    def write(self, position: int, index: Index, element: Expr) -> None:
        """Store a compute value into result number `position`."""
        result = self.results[position]
        self.write_flat(position, self.offset(result.shape, index), element)

    def write_flat(self, position: int, offset: Expr, element: Expr) -> None:
        result = self.results[position]
        stored = to_storage(element, result.dtype, self.target)
        T.buffer_store(self._buffers[result], stored, [offset])

    def offset(self, shape: Sequence[Dim], index: Index) -> Expr:
        """Row-major offset of an index."""
        return self.dot(index, [self.size(stride) for stride in row_major(shape)])

    def dot(self, index: Index, strides: Sequence[Expr]) -> Expr:
        """Sum of index * stride; a ramp stays one ramp."""
        total, ramp = index_constant(0), None
        for place, stride in zip(index, strides, strict=True):
            if isinstance(place, tirx.Ramp):
                assert ramp is None
                ramp = tirx.Ramp(place.base * stride, place.stride * stride, place.lanes)
            else:
                total = total + place * stride
        return total if ramp is None else tirx.Ramp(total + ramp.base, ramp.stride, ramp.lanes)


def _static_shape(value: Value) -> tuple[int, ...]:
    return tuple(int(size) for size in value.shape)


def _kernel_field_types(value: Value) -> dict[str, np.dtype]:
    """Element types of an encoded weight's fields and tables (`decoders.kernel_fields`)."""
    encoding = value.type.encoding
    assert encoding is not None
    stored = {name: dtype for name, (dtype, _) in encoding.field_types(_static_shape(value)).items()}
    return stored | {name: table.dtype for name, table in tables_of(encoding).items()}


def _element_type(dtype: np.dtype) -> str:
    return storage_type(DType.from_numpy(dtype)) if dtype != np.uint16 else "uint16"


def _field_types(value: Value) -> list[str]:
    """TIR's element types of the pointers of a parameter or result."""
    if not has_decoder(value.type.encoding):
        return [_plain_type(value)]
    return [_element_type(dtype) for dtype in _kernel_field_types(value).values()]


def _stored_dtype(value: Value) -> DType:
    """f16- and bf16-encoded weights are plain arrays of that type."""
    encoding = value.type.encoding
    return value.dtype if encoding is None else DType(encoding.name)


def _plain_type(value: Value) -> str:
    return storage_type(_stored_dtype(value))


def size_expression(dim: Dim, names: Mapping[str, Expr]) -> Expr:
    """A size over TIR variables."""
    total = index_constant(0)
    for monomial, factor in dim.terms:
        term = index_constant(factor)
        for atom in monomial:
            if isinstance(atom, str):
                term = term * names[atom]
            else:
                term = term * tirx.floordiv(size_expression(atom.numerator, names), index_constant(atom.divisor))
        total = total + term
    return total


def split_index(flat: Expr, sizes: Sequence[Expr]) -> list[Expr]:
    """The index along each of `sizes` (row-major) of a flat index inside their product; all are non-negative."""
    parts: list[Expr] = []
    for position in range(len(sizes) - 1, 0, -1):
        parts.append(bind(tirx.truncmod(flat, sizes[position])))
        flat = bind(tirx.truncdiv(flat, sizes[position]))
    return [*([flat] if sizes else []), *reversed(parts)]
