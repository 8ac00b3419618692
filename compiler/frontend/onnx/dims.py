"""The named dims of a model: their names from dynamic axes, their ranges, and what the graph demands of them.

A demand (two sizes must be equal, a size must be a multiple, a size must not exceed a bound) that the ranges do not
already grant is met by refining the table, where the user did not say otherwise; the import then starts again.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx

from nomul.frontend.common import BAD_DIM, DEFAULT_RANGE, DimRequest, dim_name, dim_range
from nomul.ir.dim import Dim, Range
from nomul.ir.errors import NomulError

# What exporters write where they know no name: "?", "-1", "None", "unk__12", "p2o.DynamicDimension.0".
_NAMELESS = re.compile(r"[?*]*|-1|None|unk__\d+|dynamic_axes_\d+|(p2o\.)?DynamicDimension\.\d+")
_FACTORS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 256)
Relation = Literal["equal", "multiple", "at most"]
_PHRASES = {"equal": "be equal to", "multiple": "be a multiple of", "at most": "be at most"}


class SizeDemand(Exception):
    """The graph is only right where `left` (equals / is a multiple of / is at most) `right`."""

    def __init__(self, relation: Relation, left: Dim, right: Dim, loc: str) -> None:
        super().__init__(f"size {left} must {_PHRASES[relation]} {right}")
        self.relation = relation
        self.left = left
        self.right = right
        self.loc = loc

    def holds(self, values: Mapping[str, Dim | int]) -> bool:
        """Whether the demand is met when names are replaced."""
        left, right = self.left.substitute(values), self.right.substitute(values)
        if self.relation == "equal":
            return left == right
        return right.divides(left)


@dataclass
class NamedDim:
    """One dynamic axis, or several of one name. places: (input, axis). unit: the dim counts units of this size."""

    name: str
    range: Range = DEFAULT_RANGE
    given: bool = False
    unit: int = 1
    places: list[tuple[str, int]] = field(default_factory=list)

    @property
    def size(self) -> Dim:
        low, high = self.unit_range
        return Dim.of(int(low)) * self.unit if low == high else Dim.of(self.unit_name) * self.unit

    @property
    def unit_name(self) -> str:
        return self.name if self.unit == 1 else f"{self.name}_div{self.unit}"

    @property
    def unit_range(self) -> Range:
        return (-(-self.range[0] // self.unit), self.range[1] // self.unit)

    @property
    def where(self) -> str:
        return " and ".join(f"axis {axis} of input '{name}'" for name, axis in self.places)


class DimTable:
    """Named dims by name. Made from the model's inputs and the user's requests; refined by demands."""

    def __init__(self, inputs: list[onnx.ValueInfoProto], requests: Mapping[str, DimRequest]) -> None:
        self.dims: dict[str, NamedDim] = {}
        self.notes: dict[str, str] = {}
        self._same: dict[str, str] = {}  # text in the model -> dim; `=` and a dim that is no more -> what stands for it
        expressions: list[str] = []
        for name, axis, text in _dynamic_axes(inputs):
            if text is None or text.isidentifier() or not _expression(text):
                self._add(name, axis, text)
            else:
                expressions.append(text)
        for text in expressions:
            self._add_expression(text)
        self._request(inputs, requests)

    def _add(self, input: str, axis: int, text: str | None) -> None:
        key = dim_name(text) if text else dim_name(f"{input}_{axis}")
        self.dims.setdefault(key, NamedDim(key)).places.append((input, axis))
        if text:
            self._same[text] = key

    def _add_expression(self, text: str) -> None:
        """`past + 1` is computed from the axis named `past`; a text with an unknown name becomes a name itself."""
        names = _names(text)
        if names <= self._same.keys():
            return
        key = dim_name(text)
        self.dims.setdefault(key, NamedDim(key))
        self._same[text] = key

    def _request(self, inputs: list[onnx.ValueInfoProto], requests: Mapping[str, DimRequest]) -> None:
        nameless = {text: dim_name(f"{input}_{axis}") for input, axis, text in _nameless_axes(inputs)}
        places = {dim_name(f"{i}_{a}"): dim.name for dim in self.dims.values() for i, a in dim.places}
        for name, request in requests.items():
            key = name if name in self.dims else self._same.get(name) or places.get(name) or nameless.get(name)
            if key is None:
                raise _unknown_dim(name, self.dims)
            self.dims[key].range, self.dims[key].given = dim_range(name, request), True

    @property
    def ranges(self) -> dict[str, Range]:
        """Ranges of the dims that are left symbolic."""
        return {dim.unit_name: dim.unit_range for dim in self.dims.values() if not dim.size.is_constant}

    def axis_size(self, input: str, axis: int, proto: onnx.TensorShapeProto.Dimension) -> Dim:
        """The size of one axis of an input."""
        if proto.HasField("dim_value") and proto.dim_value >= 0:
            return Dim.of(proto.dim_value)
        text = _text(proto)
        if text is not None and text not in self._same:
            return _evaluate(ast.parse(text, mode="eval").body, {name: self._size(name) for name in _names(text)})
        return self._size(text) if text is not None else self.dims[self._alias(dim_name(f"{input}_{axis}"))].size

    def _size(self, text: str) -> Dim:
        return self.dims[self._alias(self._same[text])].size

    def _alias(self, key: str) -> str:
        while key not in self.dims:
            key = self._same[f"={key}"]
        return key

    # -- refining ----------------------------------------------------------------------------------------------
    def refine(self, demand: SizeDemand) -> None:
        """Change the table so that the demand is met. Raises NomulError (NM206) where that is not possible."""
        names = sorted(demand.left.names() | demand.right.names())
        dims = [dim for dim in self.dims.values() if dim.unit_name in names]
        if demand.relation == "at most":
            done = self._tighten(demand, dims)
        else:
            done = self._join(demand, dims) or self._fix(demand, dims) or self._divide(demand, dims)
        if not done:
            raise self._refusal(demand, dims)

    def _join(self, demand: SizeDemand, dims: list[NamedDim]) -> bool:
        """Two axes that must be equal become one dim."""
        left, right = demand.left.names(), demand.right.names()
        if demand.relation != "equal" or len(left) != 1 or len(right) != 1 or len(dims) != 2:
            return False
        if dims[0].unit != dims[1].unit or not demand.holds({dims[0].unit_name: Dim.of(dims[1].unit_name)}):
            return False
        kept, dropped = sorted(dims, key=lambda dim: list(self.dims).index(dim.name))
        low, high = max(kept.range[0], dropped.range[0]), min(kept.range[1], dropped.range[1])
        if low > high:
            return False
        self.notes[dropped.name] = f"{dropped.where} must be as long as {kept.where}: both are the dim {kept.name}"
        kept.range, kept.given = (low, high), kept.given or dropped.given
        kept.places += dropped.places
        del self.dims[dropped.name]
        self._same[f"={dropped.name}"] = kept.name
        return True

    def _fix(self, demand: SizeDemand, dims: list[NamedDim]) -> bool:
        """A dim that fits one value only becomes that value."""
        solved = _solve(demand)
        if solved is None or dims[0].given:
            return False
        (dim,), (_, value) = dims, solved
        if not dim.range[0] <= value * dim.unit <= dim.range[1]:
            return False
        dim.range = (value * dim.unit, value * dim.unit)
        self.notes[dim.name] = f"{dim.where} is {value * dim.unit}: {demand.loc} fits no other size"
        return True

    def _divide(self, demand: SizeDemand, dims: list[NamedDim]) -> bool:
        """Axes become multiples of the smallest number that meets the demand."""
        for factor in _FACTORS:
            for chosen in [*([dim] for dim in dims), dims]:
                values = {dim.unit_name: Dim.of(dim.unit_name) * factor for dim in chosen}
                if demand.holds(values) and all(dim.range[1] >= dim.unit * factor for dim in chosen):
                    for dim in chosen:
                        dim.unit *= factor
                    return True
        return False

    def _tighten(self, demand: SizeDemand, dims: list[NamedDim]) -> bool:
        """The only dim of the demand gets the part of its range that fits."""
        fitting = _fitting_range(demand, dims[0]) if len(dims) == 1 and not dims[0].given else None
        if fitting is None:
            return False
        dims[0].range = fitting
        low, high = fitting
        self.notes[dims[0].name] = (
            f"{dims[0].where}: the range is [{low}, {high}], because {demand.loc} fits no other sizes"
        )
        return True

    def _refusal(self, demand: SizeDemand, dims: list[NamedDim]) -> NomulError:
        solved, fitting = _solve(demand), _fitting_range(demand, dims[0]) if len(dims) == 1 else None
        if solved is not None:
            dim = next(dim for dim in dims if dim.unit_name == solved[0])
            only = solved[1] * dim.unit
            hint = f"the model may only fit {dim.name} = {only}: fix it with dims={{{dim.name!r}: {only}}}"
        elif fitting is not None:
            hint = f"the model fits dims={{{dims[0].name!r}: {fitting}}}"
        elif dims:
            hint = "fix or narrow a dim, for example with dims=" + str({dim.name: (1, 128) for dim in dims})
        else:
            hint = None
        return NomulError(BAD_DIM, str(demand), loc=demand.loc, help=hint)

    def all_notes(self) -> list[str]:
        """What was refined, for the user."""
        units = [f"{dim.where} must be a multiple of {dim.unit}" for dim in self.dims.values() if dim.unit > 1]
        return list(self.notes.values()) + units


def _fitting_range(demand: SizeDemand, dim: NamedDim) -> Range | None:
    """The values of the demand's only dim that meet an upper bound, found by halving: sizes grow with their dims.

    None where no end of the range, or the whole range, meets it."""
    if demand.relation != "at most":
        return None
    rest = demand.left - demand.right
    low, high = int(dim.unit_range[0]), int(dim.unit_range[1])
    fits = [rest.evaluate({dim.unit_name: value}) <= 0 for value in (low, high)]
    if fits[0] == fits[1]:
        return None
    bad, good = (high, low) if fits[0] else (low, high)
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if rest.evaluate({dim.unit_name: middle}) <= 0 else (good, middle)
    return (low * dim.unit, good * dim.unit) if fits[0] else (good * dim.unit, high * dim.unit)


def _solve(demand: SizeDemand) -> tuple[str, int] | None:
    """The only value of the only name of an equality."""
    rest = demand.left - demand.right
    names = sorted(rest.names())
    if demand.relation != "equal" or len(names) != 1:
        return None
    factor = dict(rest.terms).get((names[0],), 0)
    offset = rest - Dim.of(names[0]) * factor
    if not factor or not offset.is_constant or -int(offset) % factor or -int(offset) // factor < 0:
        return None
    return names[0], -int(offset) // factor


def _dynamic_axes(inputs: list[onnx.ValueInfoProto]) -> Iterator[tuple[str, int, str | None]]:
    for info in inputs:
        for axis, proto in enumerate(info.type.tensor_type.shape.dim):
            if not (proto.HasField("dim_value") and proto.dim_value >= 0):
                yield info.name, axis, _text(proto)


def _nameless_axes(inputs: list[onnx.ValueInfoProto]) -> Iterator[tuple[str, int, str]]:
    """Axes with a text that is no name, and that text: a user may have it from another tool."""
    for info in inputs:
        for axis, proto in enumerate(info.type.tensor_type.shape.dim):
            if proto.dim_param and _text(proto) is None:
                yield info.name, axis, proto.dim_param


def _text(proto: onnx.TensorShapeProto.Dimension) -> str | None:
    """The name or expression that the model gives to an axis, or None."""
    text = proto.dim_param.strip()
    return None if _NAMELESS.fullmatch(text) else text


def _unknown_dim(name: str, dims: Mapping[str, NamedDim]) -> NomulError:
    close = difflib.get_close_matches(name, dims, 1)
    known = ", ".join(f"{dim.name} ({dim.where})" for dim in dims.values()) or "none"
    message = f"the model has no dynamic dim '{name}'; it has: {known}"
    return NomulError(BAD_DIM, message, help=f"did you mean {close[0]}?" if close else None)


def _expression(text: str) -> bool:
    """Whether text is arithmetic of names and numbers that `_evaluate` knows."""
    if len(text) > 200:
        return False
    try:
        tree = ast.parse(text, mode="eval").body
        _evaluate(tree, {name: Dim.of(name) for name in _names(text)})
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _names(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}


def _evaluate(node: ast.expr, values: Mapping[str, Dim]) -> Dim:
    """Raises ValueError for anything but + - * // of names and integers."""
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Dim.of(node.value)
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, values), _evaluate(node.right, values)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.FloorDiv):
            return left // right
    raise ValueError("not arithmetic of dims")
