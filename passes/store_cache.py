"""Keeps the keys and values that a model is given and gives back as codes, where an attention takes them as such.

A model that writes a token at a time takes past keys as an input, joins those of new tokens, and returns all. With
keys_values = "i8" or "i4" input and output become codes and scales, and only new tokens are quantised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nomul.ir.attention import STORED
from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Module, Node, Value
from nomul.ir.types import DType, Tensor
from nomul.passes.base import Pass, Report, note_for_user
from nomul.passes.dead_code import erase_dead
from nomul.passes.rule import Rewriter
from nomul.passes.rules.expand.softmax_attention import attention_of_codes, nibbles


@dataclass(frozen=True)
class Cache:
    """past: the input; join: the node behind it; views: transposes from there to the attention, nearest to it first."""

    past: Value
    join: Node
    views: tuple[Node, ...]


class StoreCache(Pass):
    """Inputs and outputs of @main change: `past` becomes `past` (i8, or u8 of two codes each) and `past.scale`."""

    name = "store_cache"
    changes_ports = True

    def run(self, module: Module, report: Report) -> None:
        for node in [node for node in module.main.nodes if node.op == "nn.attention"]:
            kind = node.attrs["keys_values"]
            found = [_cache(module.main, node, position) for position in (1, 2)]
            caches = [cache for cache in found if cache is not None]
            if kind not in STORED or len({cache.past for cache in caches}) < len(found):
                continue
            _store(module, node, caches)
            names, codes = " and ".join(cache.past.name for cache in caches), _codes(kind, caches)
            note_for_user(module, report, f"inputs {names} are {codes} with scales now, outputs that join them too")
            report.fire(self.name)


def _cache(func: Func, node: Node, position: int) -> Cache | None:
    """What an operand of an attention is read from, where that is an input joined with new tokens."""
    value, views, user = node.args[position], [], node
    assert value is not None
    while value.producer is not None and value.producer.op == "view.transpose":
        last = value.type.rank - 1
        if value.producer.attrs["perm"][last] != last or _others(value, user) or value in func.returns:
            return None
        views.append(value.producer)
        user, value = value.producer, value.producer.args[0]
        assert value is not None
    join = value.producer
    if join is None or join.op != "view.concat" or _others(value, user):
        return None
    past = join.args[0]
    is_input = past is not None and past in func.params and past.dtype is DType.F32 and not _others(past, join)
    if past is None or not is_input or past in func.returns or join.attrs["axis"] == value.type.rank - 1:
        return None
    return Cache(past, join, tuple(views))


def _is_packed(kind: str, caches: Sequence[Cache]) -> bool:
    """Whether a byte holds two codes."""
    return kind == "i4" and not any(_is_odd(cache) for cache in caches)


def _is_odd(cache: Cache) -> bool:
    return (cache.past.shape[-1].value or 1) % 2 == 1


def _codes(kind: str, caches: Sequence[Cache]) -> str:
    """What the inputs hold, in words."""
    if kind != "i4" or _is_packed(kind, caches):
        return kind
    odd = next(cache.past for cache in caches if _is_odd(cache))
    return f"i4 in a byte each ({odd.name} has vectors of {odd.shape[-1]} elements, which do not pair)"


def _others(value: Value, user: Node) -> bool:
    """Whether another node reads the value."""
    return any(node is not user for node, _ in value.users)


def _store(module: Module, node: Node, caches: Sequence[Cache]) -> None:
    func, kind, name = module.main, node.attrs["keys_values"], node.result.name
    g = Rewriter(module, func, node)
    is_packed = _is_packed(kind, caches)
    ports, stored = [_ports(cache.past, is_packed) for cache in caches], []
    for cache, given in zip(caches, ports, strict=True):
        joined = _joined(g, cache, given, STORED[kind], is_packed)
        _return(func, cache.join.result, joined)
        for view in reversed(cache.views):
            joined = [g.view.transpose(x, perm=view.attrs["perm"][: x.type.rank]) for x in joined]
        stored.append(joined)
    codes, scales = zip(*stored, strict=True)
    new = attention_of_codes(g, node, codes, scales)
    func.replace_all(node.result, new)
    erase_dead(func, [node])
    func.rename(new, name)
    for cache, given in zip(caches, ports, strict=True):
        func.exchange_param(cache.past, given)
    g.finish()


def _return(func: Func, old: Value, new: Sequence[Value]) -> None:
    """Where a value is returned, codes and scales are, under its name and with `.scale` behind it."""
    names = func.result_names or tuple(value.name for value in func.returns)
    returned = [
        pair
        for name, value in zip(names, func.returns, strict=True)
        for pair in (zip((name, f"{name}.scale"), new, strict=True) if value is old else [(name, value)])
    ]
    func.result_names = tuple(name for name, _ in returned)
    func.returns = [value for _, value in returned]


def _ports(past: Value, is_packed: bool) -> list[Value]:
    """Codes, under the name of the input, and their scales."""
    *rows, last = past.shape
    shape = (*rows, last.divide_exactly(Dim.of(2)) if is_packed else last)
    codes = Tensor(DType.U8 if is_packed else DType.I8, shape)
    return [Value(past.name, codes), Value(f"{past.name}.scale", Tensor(DType.F32, tuple(rows)))]


def _joined(g: Rewriter, cache: Cache, ports: Sequence[Value], levels: int, is_packed: bool) -> list[Value]:
    """Codes and scales of all tokens."""
    parts = [list(ports)]
    for new in cache.join.args[1:]:
        codes, scale = g.node("nn.quantise", new, lead=cache.past.type.rank - 1, levels=levels).results
        parts.append([nibbles(g, codes) if is_packed else codes, scale])
    return [g.view.concat(*operands, axis=cache.join.attrs["axis"]) for operands in zip(*parts, strict=True)]
