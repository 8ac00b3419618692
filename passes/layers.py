"""The layers of a module that have weights: their roles, their names, and whether their weights can be encoded."""

from __future__ import annotations

from dataclasses import dataclass

from nomul.ir.graph import Module, Node, Value, Weight
from nomul.ir.op import Kind
from nomul.ir.types import DType

ENCODABLE = ("nn.linear", "nn.conv2d")
_AFTER_HEAD = ("nn.softmax", "nn.log_softmax")  # what may follow the last layer beside element-wise work and views


@dataclass(frozen=True)
class Layer:
    """One weight matrix and the nodes that read it. names: what recipes may call it.  reason: why it stays."""

    weight: Weight
    nodes: tuple[Node, ...]
    roles: tuple[str, ...]
    reason: str | None

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
        if node.op not in ENCODABLE or position != 1:
            return f"{node.op} uses it as operand {position}"
        if node.attrs.get("groups", 1) != 1:
            return "the convolution has groups"
    return None


def _roles(weight: Weight, heads: set[Node]) -> tuple[str, ...]:
    roles = []
    for node, position in weight.users:
        if node.op == "index.gather" and position == 0:
            roles.append("embedding")
        elif node.op in ENCODABLE and position == 1:
            roles += ["head"] if node in heads else []
            roles.append("linear" if node.op == "nn.linear" else "conv")
    return tuple(dict.fromkeys(roles))


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
