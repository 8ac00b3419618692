"""What one element of a value of a fused group is made of: a tree of reads, literals and element-wise nodes whose
reads know their place as a form of the kernel's loops. Made without TVM, so that a kernel can refuse what it cannot do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from nomul.backends.group import Group
from nomul.backends.kernels.affine import (
    Form,
    NeedsSplit,
    NotAffine,
    Space,
    broadcast,
    flat,
    through,
    unflatten,
)
from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.op import Kind
from nomul.ir.types import DType


@dataclass(frozen=True, eq=False)
class Term:
    """One element of a value."""

    @property
    def parts(self) -> tuple[Term, ...]:
        return ()

    @property
    def forms(self) -> tuple[Form, ...]:
        """Places in memory of its own, those of its parts not included."""
        return ()


@dataclass(frozen=True, eq=False)
class Literal(Term):
    constant: Constant


@dataclass(frozen=True, eq=False)
class Given(Term):
    """A value that the kernel computes itself, at the place of the result."""

    value: Value


@dataclass(frozen=True, eq=False)
class Count(Term):
    """A place itself, as a number of a type."""

    place: Form
    dtype: DType

    @property
    def forms(self) -> tuple[Form, ...]:
        return (self.place,)


@dataclass(frozen=True, eq=False)
class Read(Term):
    """An element of a parameter."""

    param: Value
    place: Form

    @property
    def forms(self) -> tuple[Form, ...]:
        return (self.place,)


@dataclass(frozen=True, eq=False)
class Lookup(Term):
    """An element of a parameter in the row that `index` names, one of `rows` that lie `stride` apart."""

    param: Value
    place: Form
    index: Term
    rows: Dim
    stride: Dim

    @property
    def parts(self) -> tuple[Term, ...]:
        return (self.index,)

    @property
    def forms(self) -> tuple[Form, ...]:
        return (self.place,)


@dataclass(frozen=True, eq=False)
class Compute(Term):
    """An element-wise node on elements."""

    node: Node
    args: tuple[Term, ...]

    @property
    def parts(self) -> tuple[Term, ...]:
        return self.args


def all_terms(root: Term) -> list[Term]:
    """A tree's terms, each once, parts before what is made of them."""
    found: dict[Term, None] = {}

    def visit(term: Term) -> None:
        if term not in found:
            for part in term.parts:
                visit(part)
            found[term] = None

    visit(root)
    return list(found)


Axes = tuple[Form, ...]
# What a node that is neither element-wise nor a view makes of an element of its result at this index, or None.
Special = Callable[["Walk", Node, Axes], Term | None]


class Walk:
    """Follows elements of values up to the parameters of a group. space: the loops.  special: for heavy nodes."""

    def __init__(self, group: Group, space: Space, special: Special) -> None:
        self.group, self.space, self._special = group, space, special
        self._found: dict[tuple[Value, Axes | Form], Term] = {}

    def at(self, value: Value, axes: Axes) -> Term:
        """The element of a value with this index on each axis. Raises NotAffine and NeedsSplit."""
        key = (value, axes)
        if key not in self._found:
            self._found[key] = self._make(value, axes)
        return self._found[key]

    def _make(self, value: Value, axes: Axes) -> Term:
        if isinstance(value, Constant):
            return Literal(value)
        node = value.producer
        if node is None:
            return Read(self.plain(value), flat(axes, value.shape, len(self.space.sizes)))
        if node.spec.kind is Kind.ELEMENTWISE:
            args = [arg for arg in node.args if arg is not None]
            return Compute(node, tuple(self.at(arg, broadcast(axes, arg.shape)) for arg in args))
        if node.op == "view.reshape":
            return self._reshaped(node, axes)
        if node.spec.kind is Kind.VIEW and node.args[0] is not None:
            return self.at(node.args[0], through(node, axes))
        term = self._special(self, node, axes)
        if term is None:
            raise NotAffine(f"{node.op} is inside the group")
        return term

    def _reshaped(self, node: Node, axes: Axes) -> Term:
        source = node.args[0]
        assert source is not None
        place = flat(axes, node.result.shape, len(self.space.sizes))
        if source.producer is None and not isinstance(source, Constant):
            return Read(self.plain(source), place)
        return self.at(source, unflatten(place, source.shape, self.space.sizes, self.group.ranges))

    def plain(self, param: Value) -> Value:
        """The parameter, if its elements can be read one by one. Raises NotAffine."""
        encoding = param.type.encoding
        if encoding is not None and encoding.name not in ("f16", "bf16"):
            raise NotAffine(f"{param} is encoded")
        return param


def no_heavy_node(walk: Walk, node: Node, axes: Axes) -> None:
    """For groups of element-wise nodes and views."""


Made = TypeVar("Made")


def with_splits(space: Space, make: Callable[[Space], Made]) -> Made:
    """make(space), again with a loop split as long as it asks for that. Raises NotAffine."""
    for _ in range(16):
        try:
            return make(space)
        except NeedsSplit as need:
            space = space.split(need)
    raise NotAffine("reshapes that do not fit together")


def element_bytes(term: Term) -> int:
    """Size of the widest element that a tree of terms reads or computes."""
    sizes = [4]
    for part in all_terms(term):
        if isinstance(part, Read | Lookup):
            sizes.append(_compute_bytes(part.param.dtype))
        elif isinstance(part, Compute):
            sizes.append(_compute_bytes(part.node.result.dtype))
        elif isinstance(part, Count):
            sizes.append(8)
    return max(sizes)


def _compute_bytes(dtype: DType) -> int:
    return 4 if dtype in (DType.F16, DType.BF16) else dtype.bytes
