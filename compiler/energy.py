"""Operations and energy of each layer, told from a module: what its encodings ask for.

Energies are those of operations in a 45 nm chip (Horowitz 2014; the table that ShiftAddViT, arXiv 2306.06446, uses).
Fetching weights is not in them, nor are look-ups, of which there is no such number; both are counted apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from nomul.ir.dim import Dim, product
from nomul.ir.encodings.work import Work, dense_work
from nomul.ir.graph import Module, Node, Value

PICOJOULES = {
    "f32 multiply": 3.7,
    "f32 add": 0.9,
    "i8 multiply": 0.2,
    "i32 add": 0.1,
    "i32 shift": 0.13,
}
_WEIGHTS = {
    "nn.linear": 1,
    "nn.conv2d": 1,
    "nn.conv_transpose2d": 1,
    "nn.quantised_linear": 2,
    "nn.quantised_conv2d": 2,
}


@dataclass(frozen=True)
class LayerCost:
    """One node. act: the type of its inputs.  work: of one run.  dense: the same in f32 with dense weights."""

    loc: str
    op: str
    encoding: str
    act: str
    work: Work
    dense: Work

    @property
    def picojoules(self) -> float:
        """Energy of the operations, without look-ups and memory."""
        return _energy(self.work, self.act)

    @property
    def dense_picojoules(self) -> float:
        return _energy(self.dense, "f32")


def layer_costs(module: Module, dims: Mapping[str, int]) -> list[LayerCost]:
    """Every node that multiplies activations by weights or activations, or quantises them, in order of execution.

    dims: values of the named dims."""
    return [cost for node in _nodes(module) if (cost := _cost(node, dims)) is not None]


def _nodes(module: Module) -> Iterator[Node]:
    for node in module.main.nodes:
        if node.op in ("call", "exec.run"):
            yield from module.funcs[node.attrs["func"]].nodes
        else:
            yield node


def _cost(node: Node, dims: Mapping[str, int]) -> LayerCost | None:
    if node.op in _WEIGHTS:
        return _weighted(node, dims)
    products = _products(node)
    if products is None:
        return None
    work = Work(multiplies=1, additions=1).times(products.evaluate(dims))
    return LayerCost(node.loc or "", node.op, "", "f32", work, Work() if node.op == "nn.quantise" else work)


def _weighted(node: Node, dims: Mapping[str, int]) -> LayerCost | None:
    w = node.args[_WEIGHTS[node.op]]
    assert w is not None
    if any(size.value is None for size in w.shape):
        return None
    shape = tuple(int(size) for size in w.shape)
    if node.op == "nn.conv_transpose2d":  # its weights begin with the inputs: each input pixel is multiplied by all
        runs = _numel(node.args[0], dims) // shape[0]
    else:
        runs = _numel(node.result, dims) // shape[0]
    encoding = w.type.encoding
    act = "i8" if node.op.startswith("nn.quantised") or node.attrs.get("act", "f32") != "f32" else "f32"
    integer = act == "i8" and encoding is not None and encoding.is_integer
    dense = dense_work(shape).times(runs)
    work = encoding.work(shape).times(runs) if encoding else dense
    work = work + Work(scalings=runs * shape[0] if integer else 0)
    return LayerCost(node.loc or "", node.op, str(encoding or w.dtype), "i8" if integer else "f32", work, dense)


def _products(node: Node) -> Dim | None:
    """How many multiply-adds, for operations without weights."""
    if node.op == "nn.matmul":
        x = node.args[0]
        assert x is not None
        return product(node.result.shape) * x.shape[-1]
    if node.op == "nn.attention":
        q, k, v = node.args[:3]
        assert q is not None and k is not None and v is not None
        return product(q.shape[:3]) * k.shape[1] * (q.shape[3] + v.shape[3])
    if node.op == "nn.quantise":
        return product(node.results[0].shape)
    return None


def _numel(value: Value | None, dims: Mapping[str, int]) -> int:
    assert value is not None
    return prod(size.evaluate(dims) for size in value.shape)


def _energy(work: Work, act: str) -> float:
    """In picojoules. In f32 a shift is an addition to the exponent."""
    pj = PICOJOULES
    scalings = work.scalings * (pj["f32 multiply"] + pj["f32 add"])
    if act == "f32":
        own = work.multiplies * pj["f32 multiply"] + work.additions * pj["f32 add"] + work.shifts * pj["i32 add"]
    else:
        own = work.multiplies * pj["i8 multiply"] + work.additions * pj["i32 add"] + work.shifts * pj["i32 shift"]
    return own + scalings
