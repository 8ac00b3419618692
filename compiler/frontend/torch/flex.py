"""flex_attention as plain operators: torch keeps its score_mod and mask_mod as graphs of one score, which become
operators on all scores [B, H, S, T] at once. Rules find the form of attention in them, as in any other source."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
import torch._dynamo

from nomul.frontend.common import UNSUPPORTED_FORM
from nomul.frontend.torch.errors import problem
from nomul.ir.errors import NomulError, Problem

Tensor: TypeAlias = torch.Tensor
Operands = tuple[Any, ...]
OnAll = Callable[..., Tensor]
Results = tuple[Tensor, Tensor, Tensor]

_WHOLE = 1 << 30  # the size of the one tile that torch makes where there is no block mask
_FILLED = (torch.ops.aten.new_ones.default, torch.ops.aten.ones.default, torch.ops.aten.full.default)


@contextmanager
def without_tiles() -> Iterator[None]:
    """Block masks that the model makes in its forward are of one tile, as torch makes them where there is none: what
    they say is in their mask_mod, and counting tiles would bind dynamic sizes to a number of tiles."""
    flex = sys.modules.get("torch.nn.attention.flex_attention")
    names = ("_convert_mask_to_block_mask", "_create_sparse_block_from_block_mask")
    if flex is None or not all(hasattr(flex, name) for name in names):
        yield
        return

    def one_tile(mask: Tensor, **ignored: Any) -> tuple[Tensor, None]:
        return mask.new_ones((*mask.shape[:2], 1), dtype=torch.int32), None

    def block_mask(tiles: tuple[Tensor, None], mask_mod: Any, lengths: tuple[int, int], *ignored: Any) -> Any:
        counts = tiles[0]
        first = counts.new_zeros((*counts.shape, 1))
        return flex.BlockMask.from_kv_blocks(counts, first, BLOCK_SIZE=_WHOLE, mask_mod=mask_mod, seq_lengths=lengths)

    kept = [getattr(flex, name) for name in names]
    for name, function in zip(names, (one_tile, block_mask), strict=True):
        setattr(flex, name, function)
    try:
        yield
    finally:
        for name, function in zip(names, kept, strict=True):
            setattr(flex, name, function)


@contextmanager
def without_shortcuts() -> Iterator[None]:
    """transformers compiles flex_attention for itself, and leaves out a mask of keys whose numbers hide nothing: in a
    model that is exported neither can be, so it calls torch's function and keeps the mask.

    torch compiles flex_attention inside of an export, and what it compiled before, for the sizes of a call or of
    another export, would fix dynamic sizes: it forgets that, so that functions compiled by the user compile again."""
    flex = sys.modules.get("torch.nn.attention.flex_attention")
    if flex is None:
        yield
        return
    torch._dynamo.reset()
    plain = flex.flex_attention
    places = {
        ("transformers.integrations.flex_attention", "WrappedFlexAttention"): lambda training: lambda: plain,
        ("transformers.masking_utils", "fast_all"): lambda mask: False,
    }
    kept = []
    for (name, attribute), function in places.items():
        module = sys.modules.get(name)
        if module is not None and hasattr(module, attribute):
            kept.append((module, attribute, getattr(module, attribute)))
            setattr(module, attribute, function)
    try:
        yield
    finally:
        for module, attribute, function in kept:
            setattr(module, attribute, function)


def without_flex_attention(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with a function that `run_decompositions` can trace in the place of each flex_attention."""
    if not _calls(program.graph_module):
        return program
    program = copy.copy(program)
    program._graph_module = copy.deepcopy(program.graph_module)
    problems = [_problem(program, node) for node in _calls(program.graph_module)]
    if any(problems):
        raise NomulError.many([each for each in problems if each])
    for node in _calls(program.graph_module):
        _replace(program.graph_module, node)
    program.graph_module.recompile()
    return program


def _calls(graph_module: torch.fx.GraphModule) -> list[torch.fx.Node]:
    return [node for node in graph_module.graph.nodes if node.target is torch.ops.higher_order.flex_attention]


def _problem(program: torch.export.ExportedProgram, node: torch.fx.Node) -> Problem | None:
    """A block mask that leaves tiles out without a mask_mod that says so: torch's eager form ignores it, its compiled
    form does not."""
    sizes, counts, mask_mod = node.args[4][14:16], (node.args[4][2], node.args[4][4]), node.args[4][-1]
    graph = getattr(program.graph_module, mask_mod.target).graph
    if _WHOLE in sizes or any(call.op == "call_function" and call.target not in _FILLED for call in graph.nodes):
        return None
    known = [program.constants.get(_source(program, count)) for count in counts if count is not None]
    keys = node.args[1].meta["val"].shape[2]
    if all(count is not None for count in known) and bool((sum(known) >= -(-keys // sizes[1])).all()):
        return None
    message = "the block mask leaves out tiles, but has no mask_mod"
    return problem(node, "flex_attention", UNSUPPORTED_FORM, message, "give BlockMask.from_kv_blocks its mask_mod")


def _source(program: torch.export.ExportedProgram, value: torch.fx.Node) -> str:
    """The name of the constant that an input of the graph stands for, or ""."""
    signature = program.graph_signature
    names = {**signature.inputs_to_lifted_tensor_constants, **signature.inputs_to_buffers}
    return names.get(value.name, "")


def _replace(graph_module: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    query, key, value, score_mod, block_mask, scale, _options, score_operands, mask_operands = node.args
    score_graph, mask_graph = (_OneScore(getattr(graph_module, graph.target)) for graph in (score_mod, block_mask[-1]))

    def flex_attention(query: Tensor, key: Tensor, value: Tensor, on_scores: Operands, on_mask: Operands) -> Results:
        return attention_by_graphs(
            query, key, value, scale, partial(_on_all, score_graph, on_scores), partial(_on_all, mask_graph, on_mask)
        )

    node.target = flex_attention
    node.args = (query, key, value, score_operands, mask_operands)


def attention_by_graphs(
    query: Tensor, key: Tensor, value: Tensor, scale: float, score_mod: OnAll, mask_mod: OnAll
) -> Results:
    """(output [B, H, S, E], log2 of each row's sum of exponentials [B, H, S], its largest score / ln 2), as torch's own
    eager form computes them. Heads of keys may be fewer; the tiles of a block mask add nothing to its mask_mod."""
    groups, dtype = query.shape[1] // key.shape[1], query.dtype
    key, value = (_for_queries(x, query.shape[0], groups) for x in (key, value))
    if dtype.itemsize < 4:
        query, key, value = query.float(), key.float(), value.float()
    scores = query @ key.transpose(-2, -1) * scale
    places = [torch.arange(size) for size in scores.shape]
    scores = torch.where(mask_mod(places), score_mod(places, scores), -math.inf)
    weights = torch._safe_softmax(scores, -1)
    return (weights @ value).to(dtype), scores.logsumexp(-1) / math.log(2), scores.amax(-1) / math.log(2)


def _for_queries(x: torch.Tensor, batch: int, groups: int) -> torch.Tensor:
    """Keys or values [B or 1, G, T, D] as [B, H, T, D]."""
    x = x.expand(batch, *x.shape[1:])
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def _on_all(graph: _OneScore, operands: Operands, places: list[Tensor], *scores: Tensor) -> Tensor:
    """What the graph of one score gives for all of them."""
    function: Callable[..., Any] = graph.run
    for axis in reversed(range(len(places))):
        along = tuple(0 if other == axis else None for other in range(len(places)))
        function = torch.vmap(function, in_dims=(0,) * len(scores) + along + (None,) * len(operands))
    result: Tensor = function(*scores, *places, *operands)
    return result


class _OneScore(torch.fx.Interpreter):
    """Runs such a graph; what it reads of tensors by index is wrapped for a backward pass there."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if getattr(target, "__name__", None) == "flat_apply":
            table, *indices = args[3:]
            return torch.ops.aten.index(table, indices)
        return super().call_function(target, args, kwargs)
