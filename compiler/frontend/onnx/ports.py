"""The edges of a graph: parameters from its inputs, constants from its initializers, returns from its outputs."""

from __future__ import annotations

import warnings
from collections.abc import MutableMapping, Sequence
from functools import partial
from pathlib import Path

import onnx

from nomul.frontend.common import BAD_SOURCE, UNSUPPORTED_FORM, NomulWarning, value_name
from nomul.frontend.onnx.dims import DimTable
from nomul.frontend.onnx.entry import Entry, Scope
from nomul.frontend.onnx.model import Source
from nomul.frontend.onnx.node import Operand
from nomul.frontend.onnx.tensors import constant_dtype, ir_dtype, read_tensor, tensor_shape
from nomul.ir.dim import Dim
from nomul.ir.errors import NomulError
from nomul.ir.graph import Constant, Func, Module, Value
from nomul.ir.types import Tensor


def inputs(source: Source, table: DimTable) -> tuple[MutableMapping[str, Operand], Func]:
    """Names in sight at the start of the main graph, and a function with one parameter for each real input."""
    graph = source.proto.graph
    env: dict[str, Operand] = dict(initializers(graph, source.folder, ""))
    params: dict[str, Value] = {}
    for info in graph.input:
        if info.name not in env:  # an initializer of the same name is its default, which is taken
            value = Value(value_name(info.name), _input_type(info, table))
            if value.name in params:
                raise NomulError(BAD_SOURCE, f"two inputs are called '{value.name}'")
            params[value.name] = value
            env[info.name] = Entry.of_value(info.name, value)
    return env, Func("main", params.values())


def initializers(graph: onnx.GraphProto, folder: Path | None, prefix: str) -> dict[str, Entry]:
    """Constants by name; their data is read when first used."""
    if graph.sparse_initializer:
        raise NomulError(UNSUPPORTED_FORM, "sparse initializers are not supported")
    entries = {}
    for tensor in graph.initializer:
        type = Tensor(constant_dtype(tensor), tuple(Dim.of(size) for size in tensor_shape(tensor)))
        entries[tensor.name] = Entry(f"{prefix}{tensor.name}", type, load=partial(read_tensor, tensor, folder))
    return entries


def outputs(graph: onnx.GraphProto, entries: Sequence[Operand], scope: Scope) -> None:
    """Return the outputs, each a value of its own with the output's name."""
    func = scope.builder.func
    for info, entry in zip(graph.output, entries, strict=True):
        if not isinstance(entry, Entry):
            raise NomulError(UNSUPPORTED_FORM, f"output '{info.name}' is a sequence; only tensors can be outputs")
        value = _own_value(scope, scope.value(entry), func)
        if value.name != value_name(info.name):
            func.rename(value, value_name(info.name))
        func.returns.append(value)
        _compare(info, value.type)


def _own_value(scope: Scope, value: Value, func: Func) -> Value:
    """The value itself where a node of the function made it for this output alone, else a copy."""
    b = scope.builder
    if isinstance(value, Constant):
        return b.op("make.full", shape=(), value=float(value.value), dtype=value.dtype)
    if value.producer is None or any(value is returned for returned in func.returns):
        return b.op("view.reshape", value, shape=value.shape)
    return value


def drop_unused(module: Module) -> None:
    """Remove nodes without a use (a handler may have made one too many) and then weights without one."""
    returned = set(module.main.returns)
    for node in reversed(list(module.main.nodes)):
        if not any(result.users or result in returned for result in node.results):
            module.main.erase(node)
    for weight in list(module.weights.values()):
        if not weight.users:
            module.remove_weight(weight)


def _input_type(info: onnx.ValueInfoProto, table: DimTable) -> Tensor:
    if not info.type.HasField("tensor_type"):
        raise NomulError(UNSUPPORTED_FORM, f"input '{info.name}' is no tensor")
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        raise NomulError(UNSUPPORTED_FORM, f"input '{info.name}' has no shape", help="give the model's inputs a rank")
    dtype = ir_dtype(tensor.elem_type, f"input '{info.name}'")
    return Tensor(dtype, tuple(table.axis_size(info.name, axis, proto) for axis, proto in enumerate(tensor.shape.dim)))


def _compare(info: onnx.ValueInfoProto, inferred: Tensor) -> None:
    """Warn where the model declares another shape for an output than follows from its nodes.

    Raises NomulError for another element type (NM200), or one that is not supported (NM202)."""
    tensor = info.type.tensor_type
    if tensor.elem_type and ir_dtype(tensor.elem_type, f"output '{info.name}'") is not inferred.dtype:
        raise NomulError(
            BAD_SOURCE, f"output '{info.name}' is declared with another element type than {inferred.dtype}"
        )
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return
    declared = [proto.dim_value if proto.HasField("dim_value") else None for proto in tensor.shape.dim]
    fits = len(declared) == inferred.rank and all(
        size is None or size < 0 or own.value in (None, size)
        for size, own in zip(declared, inferred.shape, strict=True)
    )
    if not fits:
        text = ", ".join("?" if size is None else str(size) for size in declared)
        message = f"output '{info.name}' is declared as [{text}], but its nodes give {inferred}"
        warnings.warn(message, NomulWarning, stacklevel=2)
