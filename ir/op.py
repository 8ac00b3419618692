"""An op is one annotated numpy function: its signature gives operands, shape rule and attributes, its body the meaning.

`@op("nn.rms_norm")` on `def rms_norm(x: "f[..., D]", gamma: "f[D]", *, eps: float = 1e-5) -> "like x"`. The little
language of the annotations is in `ir/signature.py`. Ops live in `ir/ops/`, one family a file, found by themselves.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from nomul.ir.dim import Dim
from nomul.ir.registry import Registry
from nomul.ir.signature import Pattern, TypeFault, match_operand, parse_pattern, result_type
from nomul.ir.types import DType, Tensor

Infer = Callable[[Sequence[Tensor | None], dict[str, Any]], Tensor | tuple[Tensor, ...]]
REQUIRED = object()


class Kind(Enum):
    """How an op may share a kernel with others.

    ELEMENTWISE: each output element depends on the operands' elements at the same (broadcast) place only.
    VIEW: moves elements, computes nothing.  ANCHOR: has kernels of its own that take an element-wise epilogue.
    OTHER: anything else (reductions, gathers, scans).  STRUCTURE: call and other parts of the graph itself.
    COMPOSED: has no kernel; `passes/rules/expand/` puts other ops in its place before kernels are chosen.
    """

    ELEMENTWISE = "elementwise"
    VIEW = "view"
    ANCHOR = "anchor"
    OTHER = "other"
    STRUCTURE = "structure"
    COMPOSED = "composed"


@dataclass(frozen=True)
class Operand:
    name: str
    pattern: Pattern
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True)
class Attribute:
    """type: int, float, bool, str, DType, Dim, or ("tuple", element type).  choices: the words that a str may be."""

    name: str
    type: Any
    default: Any = REQUIRED
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class OpSpec:
    """Everything that the rest of the compiler knows of an op."""

    name: str
    function: Callable[..., Any]
    operands: tuple[Operand, ...]
    attributes: dict[str, Attribute]
    results: tuple[Pattern, ...]
    kind: Kind
    commutative: bool = False
    infer: Infer | None = None
    verify: Callable[[Sequence[Tensor | None], dict[str, Any]], None] | None = None
    doc: str = field(default="", repr=False)

    def complete(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Attributes in declared order, defaults filled in. Raises TypeFault for an unknown, missing or wrong one."""
        for name in attrs:
            if name not in self.attributes:
                raise TypeFault(
                    f"{self.name} has no attribute '{name}' (it has: {', '.join(self.attributes) or 'none'})"
                )
        full = {}
        for name, attribute in self.attributes.items():
            value = attrs.get(name, attribute.default)
            if value is REQUIRED:
                raise TypeFault(f"{self.name} needs the attribute '{name}'")
            full[name] = None if value is None and attribute.default is None else coerce(value, attribute)
        return full

    def result_types(self, types: Sequence[Tensor | None], attrs: dict[str, Any]) -> tuple[Tensor, ...]:
        """Result types for operand types and completed attributes. Raises TypeFault, with the operand's position."""
        bindings = self._bind(types)
        try:
            if self.verify is not None:
                self.verify(types, attrs)
            if self.infer is not None:
                inferred = self.infer(types, attrs)
                return inferred if isinstance(inferred, tuple) else (inferred,)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a symbolic size where a number must be
            raise TypeFault(f"operands or attributes do not fit {self.name}: {error}") from None
        names = [operand.name for operand in self.operands]
        return tuple(result_type(p, bindings, dict(zip(names, types, strict=False)), attrs) for p in self.results)

    def _bind(self, types: Sequence[Tensor | None]) -> dict[str, Any]:
        variadic = bool(self.operands) and self.operands[-1].variadic
        if len(types) > len(self.operands) and not variadic:
            raise TypeFault(f"{self.name} takes {len(self.operands)} operands, not {len(types)}")
        bindings: dict[str, Any] = {}
        for position in range(max(len(types), len(self.operands) - variadic)):
            operand = self.operands[min(position, len(self.operands) - 1)]
            given = types[position] if position < len(types) else None
            if given is not None:
                match_operand(operand.pattern, given, bindings, f"operand '{operand.name}' of {self.name}", position)
            elif not operand.optional:
                raise TypeFault(f"{self.name} needs the operand '{operand.name}'", position)
        return bindings


def coerce(value: Any, attribute: Attribute) -> Any:
    """The value as the attribute's declared type. Raises TypeFault where it cannot be."""
    try:
        coerced = _coerce(value, attribute.type)
    except (TypeError, ValueError, OverflowError):
        raise TypeFault(f"attribute '{attribute.name}' must be {type_text(attribute.type)}, not {value!r}") from None
    if attribute.choices and coerced not in attribute.choices:
        raise TypeFault(f"attribute '{attribute.name}' must be one of {', '.join(attribute.choices)}, not {coerced!r}")
    return coerced


def _coerce(value: Any, kind: Any) -> Any:
    if isinstance(kind, tuple):
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise TypeError
        return tuple(_coerce(item, kind[1]) for item in value)
    if kind is Dim:
        if isinstance(value, bool | float):
            raise TypeError
        return Dim.of(value)
    if kind is DType:
        return DType(str(value) if isinstance(value, Dim) else value)
    if isinstance(value, Dim):
        value = str(value) if kind is str else int(value)
    if kind is bool and not isinstance(value, bool):
        raise TypeError
    if kind in (int, float) and (isinstance(value, str | bool) or (kind is int and value != int(value))):
        raise TypeError
    if kind is str and not isinstance(value, str):
        raise TypeError
    return kind(value)


def type_text(kind: Any) -> str:
    """An attribute type as a reader would write it."""
    return (
        f"[{type_text(kind[1])}]" if isinstance(kind, tuple) else {DType: "dtype", Dim: "dim"}.get(kind, kind.__name__)
    )


_OPS: Registry[str, OpSpec] = Registry("nomul.ir.ops", "op {}")


def op(
    name: str,
    kind: Kind = Kind.OTHER,
    *,
    commutative: bool = False,
    infer: Infer | None = None,
    verify: Callable[[Sequence[Tensor | None], dict[str, Any]], None] | None = None,
) -> Callable[[Callable[..., Any]], OpSpec]:
    """Declare an op. infer / verify: hooks for what the signature cannot say; both raise TypeFault."""

    def declare(function: Callable[..., Any]) -> OpSpec:
        operands, attributes, results = _read_signature(function)
        spec = OpSpec(
            name,
            function,
            operands,
            attributes,
            results,
            kind,
            commutative,
            infer,
            verify,
            inspect.getdoc(function) or "",
        )
        return _OPS.add(name, spec)

    return declare


def _read_signature(
    function: Callable[..., Any],
) -> tuple[tuple[Operand, ...], dict[str, Attribute], tuple[Pattern, ...]]:
    signature = inspect.signature(function)
    operands, attributes = [], {}
    for parameter in signature.parameters.values():
        annotation = str(parameter.annotation).strip("'\"")
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = REQUIRED if parameter.default is inspect.Parameter.empty else parameter.default
            kind, choices = _attribute_type(annotation)
            attributes[parameter.name] = Attribute(parameter.name, kind, default, choices)
            continue
        optional = annotation.endswith("| None")
        pattern = parse_pattern(annotation.removesuffix("| None").strip())
        operands.append(Operand(parameter.name, pattern, optional, parameter.kind is inspect.Parameter.VAR_POSITIONAL))
    results = str(signature.return_annotation).strip("'\"")
    return tuple(operands), attributes, tuple(parse_pattern(part.strip()) for part in results.split(";"))


_ATTRIBUTE_TYPES = {"int": int, "float": float, "bool": bool, "str": str, "DType": DType, "Dim": Dim}


def _attribute_type(annotation: str) -> tuple[Any, tuple[str, ...]]:
    """The type, and the words of a Literal."""
    annotation = annotation.removesuffix("| None").strip()
    if annotation.startswith("Literal["):
        return str, tuple(re.findall(r"""["']([\w-]+)["']""", annotation))
    if annotation.startswith("tuple["):
        return ("tuple", _ATTRIBUTE_TYPES[annotation.removeprefix("tuple[").split(",")[0].rstrip("]").strip()]), ()
    return _ATTRIBUTE_TYPES[annotation], ()


def all_ops() -> dict[str, OpSpec]:
    """Every op by name, in order of declaration."""
    return _OPS.all()


def get_op(name: str) -> OpSpec:
    """Raises KeyError for an unknown op."""
    found = _OPS.find(name)
    if found is None:
        raise KeyError(name)
    return found


__all__ = ["Kind", "OpSpec", "Operand", "TypeFault", "all_ops", "get_op", "op"]
