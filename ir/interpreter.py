"""Runs a module with numpy, op by op from the ops' own definitions: the truth that every kernel is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.errors import NomulError
from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.ir.types import Tensor

Observer = Callable[[Node, Sequence[np.ndarray]], None]
Array = np.ndarray | EncodedArray
_TAKE_ENCODED = frozenset({"nn.linear", "nn.conv2d", "nn.quantised_linear", "nn.quantised_conv2d"})


def run(module: Module, *inputs: np.ndarray, observer: Observer | None = None) -> tuple[np.ndarray, ...]:
    """Outputs of @main. inputs: one array per parameter, of its dtype; symbolic dims are bound by their shapes.

    observer: called with each node of @main and its results. Raises NomulError (NM101) for inputs that do not fit."""
    dims = bind_dims(module, [param.type for param in module.main.params], [np.asarray(x) for x in inputs])
    return tuple(_run_func(module, module.main, [np.asarray(x) for x in inputs], dims, observer))


def bind_dims(module: Module, types: Sequence[Tensor], inputs: Sequence[np.ndarray]) -> dict[str, int]:
    """Values of the named dims for given inputs. Raises NomulError (NM101) for a wrong count, dtype, shape or range."""
    if len(types) != len(inputs):
        raise NomulError("NM101", f"the model takes {len(types)} inputs, not {len(inputs)}")
    dims: dict[str, int] = {}
    for type, array in zip(types, inputs, strict=True):
        if array.dtype != type.dtype.numpy or array.ndim != type.rank:
            raise NomulError("NM101", f"an input is {array.dtype}{list(array.shape)}, but must be {type}")
        for size, extent in zip(type.shape, array.shape, strict=True):
            solved = _solve(size, extent)
            if solved:
                dims.setdefault(*solved)
    for type, array in zip(types, inputs, strict=True):
        if type_shape(type, dims) != array.shape:
            raise NomulError("NM101", f"an input has shape {list(array.shape)}, but must be {type} with {dims}")
    for name, value in dims.items():
        low, high = module.dims.get(name, (0, float("inf")))
        if not low <= value <= high:
            raise NomulError("NM101", f"dim {name} = {value} is outside its range [{low}, {high}]")
    return dims


def _solve(size: Dim, extent: int) -> tuple[str, int] | None:
    """The name in `factor * name + offset` and its value where that is the extent; None for a size of another form."""
    names = sorted(size.names())
    factor = dict(size.terms).get((names[0],), 0) if len(names) == 1 else 0
    offset = size - Dim.of(names[0]) * factor if factor else size
    return (names[0], (extent - int(offset)) // factor) if factor and offset.is_constant else None


def type_shape(type: Tensor, dims: Mapping[str, int]) -> tuple[int, ...]:
    """The shape for given dim values."""
    return tuple(size.evaluate(dims) for size in type.shape)


def evaluate_node(node: Node, operands: Sequence[Array | None], dims: Mapping[str, int]) -> tuple[np.ndarray, ...]:
    """The results of one node for operand arrays. Results have exactly the dtype and shape of the node's types.

    Ops that can multiply integers see encoded weights as they are, all others decoded."""
    attrs = {name: concrete(value, dims) for name, value in node.attrs.items()}
    if node.op not in _TAKE_ENCODED:
        operands = [None if operand is None else decoded(operand) for operand in operands]
    with np.errstate(all="ignore"):
        results = node.spec.function(*operands, **attrs)
    if not isinstance(results, tuple):
        results = (results,)
    checked = []
    for value, result in zip(node.results, results, strict=True):
        array = np.asarray(result)
        shape = type_shape(value.type, dims)
        assert array.dtype == value.dtype.numpy and array.shape == shape, (
            f"{node.op} gave {array.dtype}{list(array.shape)} for {value} : {value.type} with {dict(dims)}"
        )
        checked.append(array)
    return tuple(checked)


def decoded(array: Array) -> np.ndarray:
    """The dense array."""
    return array.dense if isinstance(array, EncodedArray) else array


def _run_func(
    module: Module, func: Func, inputs: Sequence[Array], dims: Mapping[str, int], observer: Observer | None = None
) -> list[np.ndarray]:
    values: dict[Value, Array] = dict(zip(func.params, inputs, strict=True))
    remaining = {value: len(value.users) for value in func.values()}
    for node in func.nodes:
        operands = [None if arg is None else read_value(arg, values) for arg in node.args]
        results = _run_node(module, node, operands, dims)
        values.update(zip(node.results, results, strict=True))
        if observer:
            observer(node, results)
        for arg in node.args:
            if arg is not None and arg in remaining:
                remaining[arg] -= 1
                if remaining[arg] == 0 and not any(arg is kept for kept in func.returns):
                    values.pop(arg, None)
    return [decoded(read_value(value, values)) for value in func.returns]


def _run_node(module: Module, node: Node, operands: list[Any], dims: Mapping[str, int]) -> Sequence[np.ndarray]:
    if node.op in ("call", "exec.run"):
        return _run_func(module, module.funcs[node.attrs["func"]], operands, dims)
    if node.op == "exec.view":
        return [decoded(operands[0]).reshape(type_shape(node.result.type, dims))]
    return evaluate_node(node, operands, dims)


def read_value(value: Value, values: Mapping[Value, Array]) -> Array:
    """A literal, a weight as it is stored, or what has been computed of the value."""
    if isinstance(value, Constant):
        return np.asarray(value.value, value.dtype.numpy)
    if not isinstance(value, Weight):
        return values[value]
    return value.encoded() if value.type.encoding else value.array()


def concrete(value: Any, dims: Mapping[str, int]) -> Any:
    """An attribute with numbers in place of dims."""
    if isinstance(value, Dim):
        return value.evaluate(dims)
    return tuple(concrete(item, dims) for item in value) if isinstance(value, tuple) else value
