"""Dynamic axes: from the user's names to torch.export's specification, and from torch's symbols back to the names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import sympy
import torch
import torch.utils._pytree as pytree
from torch.export.graph_signature import InputKind

from nomul.frontend.common import BAD_DIM, DEFAULT_RANGE, DimRequest, dim_name, dim_range
from nomul.frontend.torch.symbols import Symbols
from nomul.ir.dim import Dim, Range
from nomul.ir.errors import NomulError

Path = tuple[Any, ...]


class Dynamic:
    """shapes: for each argument of forward (by name, or in order) a nested structure that ends in {axis: name or
    torch.export.Dim}; dims: the range of each name, or one size that fixes it."""

    def __init__(self, shapes: Any, dims: Mapping[str, DimRequest] | None) -> None:
        self.shapes = shapes
        self.dims = {name: dim_range(name, request) for name, request in (dims or {}).items()}
        self._axes: dict[tuple[Path, int], Any] = {}
        self._made: dict[str, Any] = {}

    # -- towards torch.export ----------------------------------------------------------------------------------
    def prepare(
        self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """(args, kwargs, dynamic_shapes) for torch.export.export. Example sizes of 1 along dynamic axes are doubled,
        because torch takes a size of 1 for a constant."""
        arguments = _by_name(model, args, kwargs)
        self._read(self._by_argument(arguments), arguments)
        sized = self._resized(arguments)
        spec = pytree.tree_map_with_path(lambda path, leaf: self._spec(_plain(path), leaf), sized)
        bound = _bind(model, args, kwargs)
        for name in bound.arguments:
            bound.arguments[name] = sized[name]
        return bound.args, bound.kwargs, spec or None

    def _by_argument(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if self.shapes is None:
            return {}
        if isinstance(self.shapes, tuple | list):
            return dict(zip(arguments, self.shapes, strict=False))
        unknown = sorted(set(self.shapes) - set(arguments))
        if unknown:
            raise NomulError(
                BAD_DIM, f"dynamic_shapes names '{unknown[0]}', which the model's forward does not take",
                help=f"it takes: {', '.join(arguments)}",
            )  # fmt: skip
        return dict(self.shapes)

    def _read(self, spec: Any, value: Any, path: Path = ()) -> None:
        """Collect the dynamic axes of every tensor, walking spec and value together."""
        if spec is None:
            return
        if isinstance(value, torch.Tensor):
            axes = dict(enumerate(spec)) if isinstance(spec, tuple | list) else dict(spec)
            for axis, wanted in axes.items():
                if wanted is not None and not isinstance(wanted, int):
                    self._add(path, axis % max(value.dim(), 1), wanted, value)
            return
        items = spec.items() if isinstance(spec, Mapping) else enumerate(spec) if isinstance(spec, tuple | list) else ()
        for key, inner in items:
            self._read(inner, value[key] if not hasattr(value, str(key)) else getattr(value, str(key)), (*path, key))

    def _add(self, path: Path, axis: int, wanted: Any, value: torch.Tensor) -> None:
        name = wanted if isinstance(wanted, str) else getattr(wanted, "__name__", None)
        fixed = self.dims.get(name, (0, 1)) if name is not None else (0, 1)
        if fixed[0] == fixed[1]:
            if value.shape[axis] < fixed[0]:
                where = ".".join(map(str, path))
                raise NomulError(BAD_DIM, f"dim {name} is fixed to {fixed[0]}, but the example '{where}' is smaller")
            self._axes[path, axis] = int(fixed[0])
        else:
            self._axes[path, axis] = self._dim(wanted) if isinstance(wanted, str) else wanted

    def _dim(self, name: str) -> Any:
        if not name.isidentifier():
            raise NomulError(BAD_DIM, f"'{name}' is not a name for a dim", help="use letters, digits and _")
        if name not in self._made:
            low, high = self.dims.get(name, DEFAULT_RANGE)
            self._made[name] = torch.export.Dim(name, min=int(low), max=int(high))
        return self._made[name]

    def _spec(self, path: Path, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return None
        axes = {axis: wanted for (at, axis), wanted in self._axes.items() if at == path and not isinstance(wanted, int)}
        return axes or None

    def _resized(self, arguments: dict[str, Any]) -> dict[str, Any]:
        def resize(path: Any, leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            for (at, axis), wanted in self._axes.items():
                if at != _plain(path):
                    continue
                if isinstance(wanted, int):
                    leaf = leaf.narrow(axis, 0, wanted)
                elif leaf.shape[axis] == 1 and getattr(wanted, "max", 2) >= 2:
                    leaf = torch.cat([leaf, leaf], axis)
            return leaf

        return pytree.tree_map_with_path(resize, arguments)

    # -- back from torch.export --------------------------------------------------------------------------------
    def symbols(self, program: torch.export.ExportedProgram) -> Symbols:
        """Readable names and ranges for the program's symbols: the user's, else `input_axis` of their first use."""
        wanted = self._names(program)
        names: dict[sympy.Symbol, Dim] = {}
        ranges: dict[str, Range] = {}
        for input_name, axis, expression in _dynamic_axes(program):
            for symbol in sorted(expression.free_symbols, key=str):
                if symbol in names:
                    continue
                name = wanted.get(symbol) or _fresh(dim_name(f"{input_name}_{axis}"), ranges)
                low, high = self._range(name, program.range_constraints.get(symbol))
                names[symbol] = Dim.of(int(low)) if low == high else Dim.of(name)
                if low != high:
                    ranges[name] = (low, high)
        unknown = sorted(set(self.dims) - set(wanted.values()) - set(ranges) - self._fixed())
        if unknown:
            known = ", ".join(sorted(ranges)) or "none"
            raise NomulError(BAD_DIM, f"the model has no dynamic dim '{unknown[0]}'", help=f"its dynamic dims: {known}")
        return Symbols(names, ranges)

    def _fixed(self) -> set[str]:
        return {name for name, (low, high) in self.dims.items() if low == high and self._axes}

    def _range(self, name: str, constraint: Any) -> Range:
        """What the program allows and the user asked for."""
        low, high = (0, None) if constraint is None else (_bound(constraint.lower, 0), _bound(constraint.upper, None))
        asked_low, asked_high = self.dims.get(name, (None, None))
        if asked_low is None or asked_high is None:
            return (low, DEFAULT_RANGE[1] if high is None else high)
        if asked_low < low or (high is not None and asked_high > high):
            allowed = f"[{low}, {'any' if high is None else high}]"
            raise NomulError(
                BAD_DIM, f"dim {name}: [{asked_low}, {asked_high}] is outside the model's own range {allowed}"
            )
        return (asked_low, asked_high)

    def _names(self, program: torch.export.ExportedProgram) -> dict[sympy.Symbol, str]:
        """Symbols by the user's names, matched by argument and axis."""
        if self._axes:
            axes = self._axes
        else:  # a loaded program: the specification only names its axes
            inputs = _input_names(program)
            by_name = (
                self.shapes if isinstance(self.shapes, Mapping) else dict(zip(inputs, self.shapes or (), strict=False))
            )
            axes = {
                ((name,), axis): wanted
                for name, spec in by_name.items()
                for axis, wanted in (dict(spec) if isinstance(spec, Mapping) else dict(enumerate(spec or ()))).items()
            }
        wanted_at = {("_".join(map(str, path)), axis): wanted for (path, axis), wanted in axes.items()}
        names: dict[sympy.Symbol, str] = {}
        for input_name, axis, expression in _dynamic_axes(program):
            wanted = wanted_at.get((input_name, axis))
            root = getattr(wanted, "root", wanted)  # the Dim behind 2 * Dim
            name = root if isinstance(root, str) else getattr(root, "__name__", None)
            if name is not None and len(expression.free_symbols) == 1:
                names.setdefault(next(iter(expression.free_symbols)), name)
        return names

    @staticmethod
    def refused(text: str) -> NomulError:
        """torch.export found a dynamic axis to be constant, or bounded more tightly than asked."""
        lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
        reasons = [line for line in lines if re.search(r"marked|specialized|constrain|must be|Not all values", line)]
        start = next((i for i, line in enumerate(lines) if "Suggested fixes" in line), len(lines))
        fixes = [line for line in lines[start + 1 :] if "=" in line]
        message = (reasons or lines)[-1 if len(reasons) > 1 else 0]
        help = (
            f"torch suggests: {'; '.join(fixes)}"
            if fixes
            else "give the axis a size that the model accepts, or leave it out"
        )
        return NomulError(BAD_DIM, f"a dim cannot be dynamic as asked: {message}", help=help)


def _bind(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    try:
        return inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise NomulError(BAD_DIM, f"the example inputs do not fit the model's forward: {error}") from error


def _by_name(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of forward by name, as torch.export's dynamic_shapes wants them."""
    return dict(_bind(model, args, kwargs).arguments)


def _plain(path: Any) -> Path:
    """A pytree path as dict keys, indices and field names."""
    return tuple(getattr(key, "key", getattr(key, "idx", getattr(key, "name", None))) for key in path)


def _input_names(program: torch.export.ExportedProgram) -> list[str]:
    return [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]


def _dynamic_axes(program: torch.export.ExportedProgram) -> list[tuple[str, int, Any]]:
    """(input, axis, size expression) for every symbolic size of an input."""
    found = []
    inputs = set(_input_names(program))
    for node in program.graph.nodes:
        fake = node.meta.get("val")
        if node.op == "placeholder" and node.name in inputs and isinstance(fake, torch.Tensor):
            for axis, size in enumerate(fake.shape):
                if isinstance(size, torch.SymInt) and size.node.expr.free_symbols:
                    found.append((node.name, axis, size.node.expr))
    return found


def _bound(value: Any, default: Any) -> Any:
    return int(value) if isinstance(value, int | sympy.Integer) else default


def _fresh(name: str, taken: Mapping[str, Any]) -> str:
    number, fresh = 1, name
    while fresh in taken:
        number, fresh = number + 1, f"{name}_{number + 1}"
    return fresh
