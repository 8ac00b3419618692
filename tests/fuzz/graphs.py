"""A hypothesis strategy for random well-typed modules over the whole op set, with symbolic dims.

`modules()` draws a `Drawn`: the module, values of its dims and inputs that fit. Each node is evaluated while it is
drawn; one that gives a number too large to compare is dropped again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from fuzz.recipes import recipes
from hypothesis import strategies as st

from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.ir.interpreter import evaluate_node, type_shape
from nomul.ir.op import Kind, OpSpec, TypeFault, all_ops
from nomul.ir.structure import outline
from nomul.ir.types import DType, Tensor

T = TypeVar("T")
LARGEST_NUMBER, MOST_ELEMENTS = 1e4, 20_000
# Results of these jump where a float operand changes by one rounding: no place in a comparison of two kernels.
JUMPY = {f"ew.{name}" for name in ("floor", "ceil", "round", "trunc", "sign", "mod", "fmod", "floor_div")}
JUMPY |= {f"ew.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge")}
JUMPY |= {"reduce.argmax", "reduce.argmin", "index.top_k", "ew.is_nan", "ew.is_inf"}
FLOATS = (DType.F32,)
ALL_DTYPES = (DType.F32, DType.F32, DType.F64, DType.F16, DType.I64, DType.I32, DType.I8, DType.U8, DType.BOOL)


@dataclass(frozen=True)
class Drawn:
    """A module, sizes of its dims and inputs of these sizes."""

    module: Module
    dims: dict[str, int]
    inputs: list[np.ndarray]


class Sketch:
    """A graph being drawn. arrays: what each value is for the drawn inputs."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], dtypes: Sequence[DType], smooth: bool) -> None:
        self.draw = draw
        self.dtypes = dtypes
        self.smooth = smooth
        self.random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.module = Module({"B": (1, 3), "S": (2, 6), "T": (1, 9)})
        self.dims = {name: self.integer(low, int(high)) for name, (low, high) in self.module.dims.items()}
        self.arrays: dict[Value, np.ndarray] = {}
        self.module.add_func(Func("main", self._params()))
        self.builder = Builder(self.module.main)

    # -- drawing -----------------------------------------------------------------------------------------------
    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def one_of(self, items: Sequence[T]) -> T:
        return self.draw(st.sampled_from(items))

    def subset(self, items: Iterable[int]) -> list[int]:
        return self.draw(st.lists(st.sampled_from(list(items)), min_size=1, unique=True))

    def order(self, rank: int) -> tuple[int, ...]:
        return tuple(self.draw(st.permutations(range(rank))))

    def size(self) -> Dim:
        return self.one_of([Dim.of(name) for name in self.module.dims] + [Dim.of(n) for n in (1, 2, 3, 4, 8)])

    def shape(self, rank: int) -> tuple[Dim, ...]:
        return tuple(self.size() for _ in range(rank))

    def small_shape(self) -> list[int]:
        return self.draw(st.lists(st.integers(1, 3), max_size=2))

    def dtype(self) -> DType:
        return self.one_of(self.dtypes)

    def least(self, size: Dim) -> int:
        """The smallest number that the size can be."""
        return int(size.bounds(self.module.dims)[0])

    def pick(self, accepts: Callable[[Value], bool]) -> Value | None:
        """One of the values that are accepted."""
        suitable = [value for value in self.arrays if value.producer or value in self.module.main.params]
        suitable = [value for value in suitable if accepts(value)]
        return self.one_of(suitable) if suitable else None

    # -- values ------------------------------------------------------------------------------------------------
    def _params(self) -> list[Value]:
        """The first parameter shows the value of each dim."""
        usual = [Tensor.of("f32", *shape) for shape in (("B", "S", 8), ("B", 4, "S", "T"), ("B", "T", 2, 4))]
        types = [Tensor.of("f32", *self.module.dims), usual[self.random.integers(len(usual))]]
        types += [Tensor(self.dtype(), self.shape(self.integer(0, 4))) for _ in range(self.integer(0, 2))]
        params = []
        for number, type in enumerate(types):
            value = Value(f"x{number}", type)
            self.arrays[value] = self._numbers(value.dtype, type_shape(value.type, self.dims))
            params.append(value)
        return params

    def _numbers(self, dtype: DType, shape: Sequence[int], positive: bool = False) -> np.ndarray:
        numbers = self.random.uniform(0.25 if positive else -2.0, 2.0, shape)
        if dtype.is_integer:
            numbers = self.random.integers(0 if dtype is DType.U8 else -3, 4, shape)
        return np.asarray(numbers > 0 if dtype is DType.BOOL else numbers).astype(dtype.numpy)

    def weight(self, dtype: DType, *shape: int, positive: bool = False) -> Weight:
        array = self._numbers(dtype, shape, positive)
        weight = self.module.add_weight(Weight.dense(f"w{len(self.module.weights)}", array))
        self.arrays[weight] = array
        return weight

    def indices(self, *shape: int) -> Weight:
        array = self.random.integers(-1, 2, shape).astype(np.int64)
        weight = self.module.add_weight(Weight.dense(f"i{len(self.module.weights)}", array))
        self.arrays[weight] = array
        return weight

    # -- nodes -------------------------------------------------------------------------------------------------
    def add(self, op: str, *args: Any, **attrs: Any) -> Value | None:
        """Add a node, unless a result could be empty, is too large to compute, or has numbers too large to compare."""
        if self.smooth and op in JUMPY and any(arg.dtype.is_float for arg in args if isinstance(arg, Value)):
            return None
        loc = self.one_of([None, "layers.0", 'odd "layer"\n/ü'])
        with self.builder.at(loc):
            node = self.builder.node(op, *args, **attrs)
        if self._evaluate(node):
            return node.results[0]
        self.module.main.erase(node)
        return None

    def _evaluate(self, node: Node) -> bool:
        for result in node.results:
            sizes = [self.least(size) for size in result.shape]
            if min(sizes, default=1) < 1 or np.prod(type_shape(result.type, self.dims)) > MOST_ELEMENTS:
                return False
        operands = [np.asarray(a.value, a.dtype.numpy) if isinstance(a, Constant) else a for a in node.args]
        arrays = evaluate_node(node, [self.arrays[a] if isinstance(a, Value) else a for a in operands], self.dims)
        if any(a.dtype != np.bool_ and not np.all(np.abs(a.astype(np.float64)) < LARGEST_NUMBER) for a in arrays):
            return False
        self.arrays.update(zip(node.results, arrays, strict=True))
        return True

    def elementwise(self, spec: OpSpec) -> Value | None:
        """A node of an element-wise op, drawn from its signature."""
        chosen: dict[str, DType] = {}
        args: list[Any] = []
        for operand in spec.operands:
            arg = self._element(operand.pattern.element, chosen, [a for a in args if isinstance(a, Value)])
            if arg is None:
                return None
            args.append(arg)
        return self.add(spec.name, *args, **self._attributes(spec))

    def _element(self, element: str, chosen: dict[str, DType], others: list[Value]) -> Value | None:
        classes = {"f": lambda d: d.is_float, "n": lambda d: d is not DType.BOOL, "b": lambda d: d is DType.BOOL}
        accepts = classes.get(element, lambda d: True)
        wanted = chosen.get(element)
        if wanted is not None and self.flag():
            return self._extra(wanted, others[0])
        value = self.pick(
            lambda v: accepts(v.dtype) and wanted in (None, v.dtype) and all(_fits(v, other) for other in others)
        )
        if value is None:
            return self._extra(wanted, others[0]) if wanted is not None else None
        chosen[element] = value.dtype
        return value

    def _extra(self, dtype: DType, like: Value) -> Value:
        """A literal, or a weight for the last axis."""
        width = like.shape[-1].value if like.type.rank else None
        if width is not None and self.flag():
            return self.weight(dtype, width)
        number = self.one_of([0, 1, 2, 3]) if not dtype.is_float else self.one_of([-1.5, 0.0, 0.5, 1e-3, 2.0])
        return Constant(number, dtype)

    def _attributes(self, spec: OpSpec) -> dict[str, Any]:
        attrs: dict[str, Any] = {}
        for name, attribute in spec.attributes.items():
            if attribute.type is DType:
                attrs[name] = self.dtype() if self.smooth is False else self.one_of(FLOATS)
            elif attribute.type is float and self.flag():
                attrs[name] = self.one_of([0.25, 0.5, 1.0])
            elif attribute.choices:
                attrs[name] = self.one_of(attribute.choices)
        return attrs

    def grow(self, nodes: int) -> None:
        """Draw about `nodes` nodes."""
        known = recipes()
        elementwise = [name for name, spec in all_ops().items() if spec.kind is Kind.ELEMENTWISE]
        families = (elementwise, [*known])
        for _ in range(3 * nodes):
            if len(self.module.main.nodes) >= nodes:
                break
            name = str(self.random.choice(families[self.random.integers(len(families))]))
            known[name](self) if name in known else self.elementwise(all_ops()[name])

    def finish(self, calls: bool) -> Drawn:
        """Return the values that nobody uses; calls: perhaps put a stretch of nodes into a function of its own."""
        main = self.module.main
        leaves = [r for node in main.nodes for r in node.results if not r.users]
        main.returns = leaves[-3:] or [main.params[0]]
        if self.flag():
            main.result_names = tuple(f"out/{number}" for number in range(len(main.returns)))
        for weight in [w for w in self.module.weights.values() if not w.users]:
            self.module.remove_weight(weight)
        if calls and main.nodes and self.flag():
            first = self.integer(0, len(main.nodes) - 1)
            last = self.integer(first, min(first + 4, len(main.nodes) - 1))
            stretch = main.nodes[first : last + 1]
            if any(r in main.returns or any(u not in stretch for u, _ in r.users) for n in stretch for r in n.results):
                outline(self.module, main, stretch, "part")
        return Drawn(self.module, self.dims, [self.arrays[param] for param in main.params])


def _fits(value: Value, other: Value) -> bool:
    """Whether the shapes broadcast."""
    pairs = zip(reversed(value.shape), reversed(other.shape), strict=False)
    return all(a == b or a == 1 or b == 1 for a, b in pairs)


@st.composite
def modules(
    draw: Callable[[st.SearchStrategy[Any]], Any],
    most_nodes: int = 30,
    dtypes: Sequence[DType] = ALL_DTYPES,
    smooth: bool = False,
    calls: bool = True,
) -> Drawn:
    """Modules of 3 to most_nodes nodes. smooth: no op whose result jumps, and float casts only, to compare kernels."""
    sketch = Sketch(draw, dtypes, smooth)
    sketch.grow(sketch.integer(3, most_nodes))
    return sketch.finish(calls)


__all__ = ["ALL_DTYPES", "Drawn", "Sketch", "TypeFault", "modules"]
