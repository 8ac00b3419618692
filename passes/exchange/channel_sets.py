"""Which channels of keys can share a factor that cancels in their products with queries, and the weights that take it.

A factor of a key's channel and its inverse at the query leave scores as they are. Rotary positions mix two channels, so
both must have the same factor (FireQ, arXiv 2505.20839). The graph tells: channels are followed from keys and queries
backwards through the ops that factors commute with, and become one set wherever an op adds or shares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.passes.graph_tools import exchange, is_dense
from nomul.passes.rule import NoMatch

_NONE = -1  # the label of an element that takes no factor


@dataclass(frozen=True)
class ChannelSets:
    """sets: [G, D], the set of each channel of keys.  labels: of weights, in their shape or one that broadcasts to it:
    the number of a channel (times D, of its head), as many more where it makes queries, _NONE for neither."""

    sets: np.ndarray
    labels: dict[Weight, np.ndarray]

    def absorb(self, module: Module, factors: np.ndarray) -> None:
        """Divide keys by factors [G, D], alike within sets, and multiply queries by them."""
        both = np.concatenate([1 / factors.ravel(), factors.ravel(), [1.0]])  # _NONE is the last
        for weight, labels in self.labels.items():
            array = weight.array()
            exchange(module, weight, Weight.dense(weight.name, (array * both[labels]).astype(array.dtype)))


def channel_sets(func: Func, node: Node) -> ChannelSets:
    """Of the keys and queries of an nn.attention. Raises NoMatch where weights cannot take all of the factors."""
    try:
        return _walked(_Walk(func, node, gains_first=False), node)
    except NoMatch:
        return _walked(_Walk(func, node, gains_first=True), node)


def _walked(walk: _Walk, node: Node) -> ChannelSets:
    q, k = node.args[:2]
    assert q is not None and k is not None
    groups, size = (int(extent) for extent in k.shape[2:])
    channels = np.arange(groups * size).reshape(1, 1, groups, size)
    walk.follow(node, 1, channels)
    walk.follow(node, 0, np.repeat(channels, int(q.shape[2]) // groups, axis=2) + channels.size)
    walk.check_readers()
    weights = {value: labels for value, labels in walk.labels.items() if isinstance(value, Weight)}
    return ChannelSets(walk.sets().reshape(groups, size), weights)


class _Walk:
    """From an attention backwards. labels: of each value, in its shape with the size 1 on axes where all are alike.

    gains_first: a product takes factors in a weight (a norm's gamma), else in what the weight multiplies."""

    def __init__(self, func: Func, node: Node, gains_first: bool) -> None:
        keys = node.args[1]
        assert keys is not None
        self.func, self.gains_first = func, gains_first
        self.count = int(keys.shape[2]) * int(keys.shape[3])
        self.parent = np.arange(self.count)
        self.labels: dict[Value, np.ndarray] = {}
        self.followed: set[tuple[Node, int]] = set()

    def sets(self) -> np.ndarray:
        """[channels]: the least channel of the set of each."""
        while not np.array_equal(self.parent, self.parent[self.parent]):
            self.parent = self.parent[self.parent]
        return self.parent

    def follow(self, node: Node, position: int, labels: np.ndarray) -> None:
        value = node.args[position]
        assert value is not None
        self.followed.add((node, position))
        if not self._merge(value, labels):
            return
        if isinstance(value, Weight):
            if not is_dense(value) or not value.fields:
                raise NoMatch(f"{value} is encoded already", value)
            return
        if value.producer is None:
            raise NoMatch(f"{value} is an input of the model", value)
        step = _STEPS.get(value.producer.op)
        if step is None:
            raise NoMatch(f"{value.producer.op} at {value} stands between", value)
        step(self, value.producer, labels)

    def check_readers(self) -> None:
        """Others may only read slices without factors. Raises NoMatch."""
        for value, labels in self.labels.items():
            if any(value is returned for returned in self.func.returns):
                raise NoMatch(f"{value} is an output", value)
            for reader, position in value.users:
                if (reader, position) not in self.followed and not _reads_none(reader, labels):
                    raise NoMatch(f"{reader.op} at {reader.results[0]} reads {value} too", value)

    def _merge(self, value: Value, labels: np.ndarray) -> bool:
        """Whether elements get their first labels."""
        known = self.labels.get(value)
        if known is None:
            self.labels[value] = labels
            return True
        known, labels = np.broadcast_arrays(known, labels)
        both = (known != _NONE) & (labels != _NONE)
        self._unite(known[both], labels[both], value)
        self.labels[value] = np.where(known == _NONE, labels, known)
        return bool(((known == _NONE) & (labels != _NONE)).any())

    def _unite(self, left: np.ndarray, right: np.ndarray, value: Value) -> None:
        """Channels of neighbouring labels become one set."""
        if ((left >= self.count) != (right >= self.count)).any():
            raise NoMatch(f"{value} makes keys and queries", value)
        pairs = np.stack([left, right], axis=-1) % self.count
        for pair in pairs[np.not_equal(*self.sets()[pairs].T)]:
            roots = self.sets()[pair]
            self.parent[roots.max()] = roots.min()

    def _shared(self, labels: np.ndarray, operand: Value) -> np.ndarray:
        """Labels of an operand that broadcasts to those of a result: one where an axis is repeated."""
        lead = labels.ndim - operand.type.rank
        for axis in range(labels.ndim):
            if labels.shape[axis] > 1 and (axis < lead or operand.shape[axis - lead].value == 1):
                first = labels.take([0], axis)
                used = labels != _NONE
                if (used != used.take([0], axis)).any():
                    raise NoMatch(f"{operand} is for channels with and without factors", operand)
                self._unite(np.broadcast_to(first, labels.shape)[used], labels[used], operand)
                labels = first
        return labels.reshape(labels.shape[lead:])

    # -- ops ----------------------------------------------------------------------------------------------------
    def _linear(self, node: Node, labels: np.ndarray) -> None:
        if labels.size != labels.shape[-1]:
            raise NoMatch(f"tokens of {node.result} differ", node)
        rows = labels.reshape(-1)
        self.follow(node, 1, rows[:, None])
        if node.operand(2) is not None:
            self.follow(node, 2, rows)

    def _norm(self, node: Node, labels: np.ndarray) -> None:
        if node.operand(1) is None:
            raise NoMatch(f"{node.op} at {node.result} has no gamma", node)
        for position in (1, 2):
            if (weight := node.operand(position)) is not None:
                self.follow(node, position, self._shared(labels, weight))

    def _sum(self, node: Node, labels: np.ndarray) -> None:
        for position, operand in enumerate(node.args):
            if operand is None or isinstance(operand, Constant):
                raise NoMatch(f"{node.op} at {node.result} adds a number", node)
            self.follow(node, position, self._shared(labels, operand))

    def _product(self, node: Node, labels: np.ndarray) -> None:
        """One operand takes the factors."""
        operands = [(position, arg) for position, arg in enumerate(node.args) if arg and not isinstance(arg, Constant)]
        operands.sort(key=lambda one: isinstance(one[1], Weight) != self.gains_first)
        reasons = []
        for position, operand in operands:
            kept = self.parent.copy(), dict(self.labels), set(self.followed)
            try:
                if node.args.count(operand) == 1:
                    return self.follow(node, position, self._shared(labels, operand))
            except NoMatch as found:
                reasons.append(found)
                self.parent, self.labels, self.followed = kept
        raise reasons[0] if reasons else NoMatch(f"{node.op} at {node.result} multiplies a value by itself", node)

    def _same(self, node: Node, labels: np.ndarray) -> None:
        self.follow(node, 0, labels)

    def _rotary(self, node: Node, labels: np.ndarray) -> None:
        """Both channels of a pair are one set."""
        cos = node.args[1]
        assert cos is not None
        pairs = int(cos.shape[2])
        turned = labels[..., : 2 * pairs]
        first, second = (
            (turned[..., ::2], turned[..., 1::2])
            if node.attrs["interleaved"]
            else (turned[..., :pairs], turned[..., pairs:])
        )
        self._unite(first.ravel(), second.ravel(), node.result)
        self.follow(node, 0, labels)

    def _transpose(self, node: Node, labels: np.ndarray) -> None:
        self.follow(node, 0, labels.transpose(np.argsort(node.attrs["perm"])))

    def _reshape(self, node: Node, labels: np.ndarray) -> None:
        """Axes that change are those of channels, or the last ones on both sides are."""
        x, result = node.args[0], node.result
        assert x is not None
        pairs = zip(x.shape, result.shape, strict=False)
        same = next((axis for axis, (own, new) in enumerate(pairs) if own != new), min(x.type.rank, labels.ndim))
        first = next((axis for axis, size in enumerate(labels.shape) if size > 1), labels.ndim)
        for start, before in ((same, same), (first, _behind(x, labels.size))):
            sizes = tuple(size.value or 0 for size in x.shape[before:])
            whole = tuple(size.value for size in result.shape[start:]) == labels.shape[start:]
            if whole and prod(sizes) == prod(labels.shape[start:]):
                lead: tuple[int, ...] = labels.shape[:start] if start == before else (1,) * before
                return self.follow(node, 0, labels.reshape(lead + sizes))
        raise NoMatch(f"view.reshape at {result} takes channels apart", node)

    def _slice(self, node: Node, labels: np.ndarray) -> None:
        x, axis = node.args[0], node.attrs["axis"]
        assert x is not None
        places = _places(node)
        size = x.shape[axis].value
        if places is None or size is None or labels.shape[axis] != len(places):
            raise NoMatch(f"{node.result} is a part of the tokens", node)
        whole = np.full((*labels.shape[:axis], size, *labels.shape[axis + 1 :]), _NONE)
        whole[(slice(None),) * axis + (places,)] = labels
        self.follow(node, 0, whole)

    def _concat(self, node: Node, labels: np.ndarray) -> None:
        axis, start = node.attrs["axis"], 0
        for position, part in enumerate(node.args):
            assert part is not None
            own = labels
            if labels.shape[axis] > 1:
                own = labels.take(range(start, start + int(part.shape[axis])), axis)
                start += int(part.shape[axis])
            self.follow(node, position, own)


def _behind(x: Value, count: int) -> int:
    """The axis from which on a value has so many elements, or its rank."""
    sizes = [size.value or 0 for size in x.shape]
    return next((axis for axis in range(len(sizes)) if prod(sizes[axis:]) == count), len(sizes))


def _places(node: Node) -> np.ndarray | None:
    """What a slice reads of its axis, or None where that is no number."""
    start, stop = node.attrs["start"].value, node.attrs["stop"].value
    return None if start is None or stop is None else np.arange(start, stop, node.attrs["step"])


def _reads_none(reader: Node, labels: np.ndarray) -> bool:
    """Whether a node is a slice of elements without factors."""
    if reader.op != "view.slice":
        return False
    places, axis = _places(reader), reader.attrs["axis"]
    return places is not None and labels.shape[axis] > 1 and bool((labels.take(places, axis) == _NONE).all())


_STEPS: dict[str, Callable[[_Walk, Node, np.ndarray], None]] = {
    "nn.linear": _Walk._linear,
    "nn.layer_norm": _Walk._norm,
    "nn.rms_norm": _Walk._norm,
    "nn.rotary": _Walk._rotary,
    "ew.add": _Walk._sum,
    "ew.sub": _Walk._sum,
    "ew.mul": _Walk._product,
    "ew.neg": _Walk._same,
    "view.transpose": _Walk._transpose,
    "view.reshape": _Walk._reshape,
    "view.slice": _Walk._slice,
    "view.concat": _Walk._concat,
}
