"""The layers of a module that have weights, and tables of embeddings: their roles and names, and whether they can be
encoded."""

from __future__ import annotations

from dataclasses import dataclass

from nomul.ir.graph import Constant, Module, Node, Value, Weight
from nomul.ir.op import Kind
from nomul.ir.shapes import ONE
from nomul.ir.types import DType

ENCODABLE = ("nn.linear", "nn.conv2d")
LOOKUP = "index.gather"
_PASSES_ON = ("view.concat", "ew.cast")
_AFTER_HEAD = ("nn.softmax", "nn.log_softmax")  # what may follow the last layer beside element-wise work and views


@dataclass(frozen=True)
class Layer:
    """One weight matrix and the nodes that read it. names: what recipes may call it.  reason: why it stays.

    products: the nodes that multiply by it; others look up its rows."""

    weight: Weight
    nodes: tuple[Node, ...]
    roles: tuple[str, ...]
    reason: str | None

    @property
    def products(self) -> list[Node]:
        return [node for node in self.nodes if node.op in ENCODABLE]

    @property
    def names(self) -> list[str]:
        locs = [node.loc for node in self.nodes if node.loc]
        return list(dict.fromkeys([self.weight.name, *locs]))

    @property
    def loc(self) -> str | None:
        return self.nodes[0].loc if self.nodes else None


def layers_of(module: Module) -> list[Layer]:
    """Every dense f32 weight of a linear layer, a convolution or an embedding, in the order of the module."""
    heads, layers = _heads(module), []
    for weight in module.weights.values():
        roles = _roles(weight, heads)
        if roles and weight.dtype is DType.F32 and weight.type.encoding is None:
            nodes = tuple(dict.fromkeys(node for node, _ in weight.users))
            layers.append(Layer(weight, nodes, roles, refusal(weight)))
    return layers


def refusal(weight: Weight) -> str | None:
    """Why a weight is not eligible, or None."""
    if not weight.fields:
        return "its data is not loaded"
    for node, position in weight.users:
        if node.op == LOOKUP and position == 0 and node.attrs["axis"] == 0:
            continue
        if node.op not in ENCODABLE or position != 1:
            return f"{node.op} uses it as operand {position}"
        if node.attrs.get("groups", 1) != 1 and not is_depthwise(node):
            return "the convolution has groups"
    return None


def is_depthwise(node: Node) -> bool:
    """Whether a node is a convolution in which each channel has a kernel of its own."""
    weight = node.args[1] if node.op == "nn.conv2d" else None
    return weight is not None and weight.shape[0].value == node.attrs["groups"] > 1 == weight.shape[1].value


def _roles(weight: Weight, heads: set[Node]) -> tuple[str, ...]:
    roles = []
    for node, position in weight.users:
        if is_table_of(node, position):
            roles.append("embedding")
        elif node.op in ENCODABLE and position == 1:
            roles += ["head"] if node in heads else []
            roles.append("linear" if node.op == "nn.linear" else "conv")
            roles += ["depthwise"] if is_depthwise(node) else []
    return tuple(dict.fromkeys(roles))


def is_table_of(node: Node, position: int = 0) -> bool:
    """Whether a node takes rows of this operand as embeddings: vectors that are not multiplied by others element by
    element, as the cosines of positions are."""
    table = node.args[position] if node.op == LOOKUP and position == 0 else None
    if not isinstance(table, Weight) or table.type.rank < 2 or node.attrs["axis"] != 0:
        return False
    return not _is_factor(node.result)


def _is_factor(value: Value) -> bool:
    for node, position in value.users:
        if node.op == "nn.rotary" and position > 0:
            return True
        others = [arg for arg in node.args if arg is not value and isinstance(arg, Value)]
        if node.op == "ew.mul" and any(map(_is_computed_vector, others)):
            return True
        if (node.spec.kind is Kind.VIEW or node.op in _PASSES_ON) and _is_factor(node.result):
            return True
    return False


def _is_computed_vector(value: Value) -> bool:
    """A mask, which has one number for a row, is none."""
    known = isinstance(value, Weight | Constant)
    return not known and value.type.rank > 0 and value.shape[-1] != ONE


def _heads(module: Module) -> set[Node]:
    """Layers whose results reach the model's outputs through element-wise work and views alone, where another layer
    stands before them."""
    found: set[Node] = set()
    seen: set[Node] = set()
    waiting: list[Value] = list(module.main.returns)
    while waiting:
        node = waiting.pop().producer
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op in ENCODABLE:
            found.add(node)
        elif node.spec.kind in (Kind.ELEMENTWISE, Kind.VIEW) or node.op in _AFTER_HEAD:
            waiting += [arg for arg in node.args if arg is not None]
    return {node for node in found if _has_layer_before(node)}


def _has_layer_before(node: Node) -> bool:
    seen: set[Node] = set()
    waiting = [arg for arg in node.args[:1] if arg is not None]
    while waiting:
        before = waiting.pop().producer
        if before is None or before in seen:
            continue
        if before.op in ENCODABLE:
            return True
        seen.add(before)
        waiting += [arg for arg in before.args if arg is not None]
    return False
