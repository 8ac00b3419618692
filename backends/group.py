"""A fused group as kernel builders see it: a private function, which of its parameters are weights, and its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nomul.ir.dim import Dim, Range
from nomul.ir.graph import Func, Node, Value
from nomul.ir.op import Kind
from nomul.ir.types import Tensor


@dataclass(frozen=True)
class Group:
    """One kernel's work. func: its nodes, in order; its parameters and returns are the kernel's operands and results.

    weights: positions of parameters whose data is known at compile time (their types may carry an encoding).
    ranges: of the module's dims."""

    func: Func
    weights: frozenset[int] = frozenset()
    ranges: dict[str, Range] = field(default_factory=dict)

    @cached_property
    def anchor(self) -> Node | None:
        """The one node that is neither element-wise nor a view; None for a chain of those."""
        heavy = [node for node in self.func.nodes if node.spec.kind in (Kind.ANCHOR, Kind.OTHER)]
        return heavy[0] if len(heavy) == 1 else None

    @cached_property
    def key(self) -> str:
        """Equal for groups that the same kernel serves: everything but names and source layers."""
        numbers: dict[Value, str] = {}
        for param in self.func.params:
            numbers[param] = f"{'w' if len(numbers) in self.weights else 'p'}{len(numbers)}:{param.type}"
        lines = [*numbers.values()]
        for node in self.func.nodes:
            args = [numbers.get(arg, str(arg)).split(":")[0] + _constant_type(arg) for arg in node.args]  # type: ignore[arg-type]
            for result in node.results:
                numbers[result] = f"v{len(numbers)}:{result.type}"
            lines.append(
                f"{[numbers[r] for r in node.results]} = {node.op} {args} {sorted(node.attrs.items(), key=str)}"
            )
        return "\n".join([*lines, str([numbers[value].split(":")[0] for value in self.func.returns])])

    @cached_property
    def dims(self) -> tuple[str, ...]:
        """All named dims of its types and attributes, sorted: the kernel's integer parameters."""
        types = [value.type for value in self.func.values()]
        names = {name for type in types for size in type.shape for name in size.names()}
        return tuple(sorted(names.union(*(_names(v) for node in self.func.nodes for v in node.attrs.values()))))

    @property
    def results(self) -> list[Tensor]:
        return [value.type for value in self.func.returns]


def _constant_type(arg: Value | None) -> str:
    return f":{arg.type}" if arg is not None and not arg.name else ""


def _names(value: Any) -> frozenset[str]:
    if isinstance(value, Dim):
        return value.names()
    return frozenset().union(*(_names(item) for item in value)) if isinstance(value, tuple) else frozenset()
