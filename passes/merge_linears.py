"""Merges linear layers of one input into one: queries, keys and values of an attention."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Module, Node, Value, Weight
from nomul.ir.types import Tensor
from nomul.passes.base import Pass, Report
from nomul.passes.graph_tools import is_elementwise, is_view


class MergeLinears(Pass):
    """One product with the weights one below the other, and slices of its result. One call reads the input once and
    keeps all threads busy; attention of every kind reads the slices as strided views.

    Only layers whose results go into views are merged: one that an element-wise op follows would lose its epilogue. So
    the two layers of a gated MLP stay apart: the gate's kernel applies the activation and multiplies by the other's
    result. A kernel that computes the panels of both layers for a tile and joins them there (`docs/kernels.md`, tried
    and lost) was no faster, and every encoding's kernels would need that form. Weights must share dtype and encoding,
    row by row, and the layers how they take their input."""

    name = "merge_linears"

    def run(self, module: Module, report: Report) -> None:
        func = module.main
        for node in list(func.nodes):
            if len(heads_of(node)) > 1:
                for layers in _mergeable(func, node):
                    merge(module, func, layers)
                    report.fire(f"{len(layers)} linear layers")


def _mergeable(func: Func, attention: Node) -> list[list[Node]]:
    """Linear layers that feed one attention, by common input."""
    found = dict.fromkeys(layer for arg in heads_of(attention) for layer in _layers_above(arg))
    layers = sorted((layer for layer in found if _can_merge(func, layer)), key=func.nodes.index)
    by_input: dict[object, list[Node]] = {}
    for layer in layers:
        weight = layer.args[1]
        assert weight is not None
        alike = (layer.args[0], weight.dtype, weight.type.encoding, *layer.attrs.values())
        by_input.setdefault(alike, []).append(layer)
    return [group for group in by_input.values() if len(group) > 1]


def heads_of(node: Node) -> list[Value]:
    """The operands that the op declares as heads of tokens, [B, tokens, heads, size]: several where it mixes tokens (an
    attention), one where it maps each head by itself."""
    named = zip(node.args, node.spec.operands, strict=False)
    return [arg for arg, operand in named if arg is not None and _is_heads(operand.pattern.sizes)]


def _is_heads(sizes: Sequence[str]) -> bool:
    return len(sizes) == 4 and sizes[0] == "B" and sizes[2] in ("H", "G")


def _layers_above(value: Value | None) -> Iterator[Node]:
    """Linear layers reached through views, element-wise ops, concatenations and maps of heads."""
    node = value.producer if value is not None else None
    if node is None:
        return
    if node.op == "nn.linear":
        yield node
    elif is_view(node) or is_elementwise(node) or node.op == "view.concat":
        for arg in node.args:
            yield from _layers_above(arg)
    elif len(heads := heads_of(node)) == 1:
        yield from _layers_above(heads[0])


def _can_merge(func: Func, layer: Node) -> bool:
    weight = layer.args[1]
    if not isinstance(weight, Weight) or not all(isinstance(bias, Weight) for bias in layer.args[2:]):
        return False
    by_rows = weight.type.encoding is None or not weight.type.encoding.shared
    returned = any(value is layer.result for value in func.returns)
    return bool(weight.fields) and by_rows and not returned and all(is_view(user) for user, _ in layer.result.users)


def merge(module: Module, func: Func, layers: Sequence[Node]) -> None:
    """Replace linear layers of one input by one layer and slices of its result."""
    first = layers[0]
    weights = [layer.args[1] for layer in layers]
    weight = module.add_weight(_stacked([w for w in weights if isinstance(w, Weight)]))
    biases = [layer.args[2] if len(layer.args) > 2 else None for layer in layers]
    bias = module.add_weight(_stacked_biases(layers, biases)) if any(biases) else None
    build = Builder(func, before=first, loc=first.loc)
    name = joint_name([layer.result.name for layer in layers])
    merged = build.nn.linear(first.args[0], weight, bias, name=name, **first.attrs)
    start, parts = Dim.of(0), []
    for layer in layers:
        stop = start + layer.result.shape[-1]
        build.loc = layer.loc
        parts.append(build.view.slice(merged, axis=merged.type.rank - 1, start=start, stop=stop))
        start = stop
    for layer, part in zip(layers, parts, strict=True):
        name = layer.result.name
        func.replace_all(layer.result, part)
        func.erase(layer)
        func.rename(part, name)


def _stacked(weights: Sequence[Weight]) -> Weight:
    """One weight with the rows of all."""
    fields = {name: np.concatenate([weight.fields[name] for weight in weights]) for name in weights[0].fields}
    rows = sum(int(weight.shape[0]) for weight in weights)
    first = weights[0].type
    type = Tensor(first.dtype, (Dim.of(rows), *first.shape[1:]), first.encoding)
    return Weight(joint_name([weight.name for weight in weights]), type, fields)


def _stacked_biases(layers: Sequence[Node], biases: Sequence[Value | None]) -> Weight:
    parts = []
    for layer, bias in zip(layers, biases, strict=True):
        zeros = np.zeros(int(layer.result.shape[-1]), layer.result.dtype.numpy)
        parts.append(bias.array() if isinstance(bias, Weight) else zeros)
    return Weight.dense(joint_name([bias.name for bias in biases if bias is not None]), np.concatenate(parts))


def joint_name(names: Sequence[str]) -> str:
    """`l0.q_proj.weight`, `l0.k_proj.weight` -> `l0.q_k_proj.weight`: the words that differ, joined."""
    words = [re.findall(r"[A-Za-z0-9]+|[^A-Za-z0-9]+", name) for name in names]
    shortest = min(len(split) for split in words)
    head = 0
    while head < shortest and len({split[head] for split in words}) == 1:
        head += 1
    tail = 0
    while tail < shortest - head and len({split[len(split) - 1 - tail] for split in words}) == 1:
        tail += 1
    middles = dict.fromkeys("".join(split[head : len(split) - tail]) for split in words)
    first = words[0]
    return "".join([*first[:head], "_".join(m for m in middles if m), *first[len(first) - tail :]])
