"""nn.attention in f32 for a few queries against many keys, as when a model writes one token at a time.

A tile is one key head of one batch element, with all query rows that read it (queries x heads that share it): keys and
values are read once, in order. Head elements stand in the vector lanes for both products; the keys of a block stand in
them for the softmax, which is carried along from block to block as in `attention.py`. nn.attention_parts has a tile
for each run of `chunk` keys, with all key heads where those of a token are neighbours: memory is read from its first
byte to its last, which the machine's own prefetching follows (a head at a time, strided, has a third of the speed).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

from tvm import tirx

from nomul.backends.attention_span import MASK, RELATIVE, TILES, AttentionSpan, along, elements_of, optional_operand
from nomul.backends.emit import Epilogue
from nomul.backends.expressions import bind, fma
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import attention
from nomul.backends.kernels.attention_mask import Mask
from nomul.backends.mathlib import exp_nonpositive, tanh
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, local, loop, store
from nomul.backends.tir.vectors import lanes_at, load, spread, store_vector
from nomul.ir.dim import Dim
from nomul.ir.graph import Node
from nomul.ir.ops.attention_parts import STATE
from nomul.ir.views import View

KEYS = 64  # of a block
_QUERIES = 8  # more of them fill the lanes of the other kernel
_ROWS = 32
CHAINS = 4  # independent sums that hide the latency of a multiply-add

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    if (refused := attention.refusal(group)) is not None:
        return refused
    anchor = group.anchor
    assert anchor is not None
    return "not for masks of tiles" if optional_operand(anchor, TILES) is not None else refused_rows(anchor)


def parts_refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None
    return attention.refused_operands(group) or refused_rows(anchor)


def refused_rows(anchor: Node) -> str | None:
    assert anchor.args[0] is not None
    queries = anchor.args[0].shape[1].value
    if queries is None or queries > _QUERIES:
        return f"not for at most {_QUERIES} queries"
    if attention.operand_views(anchor)[2].strides[3] != Dim.of(1):
        return "the elements of a value are not neighbours"
    return None if _rows(anchor) <= _ROWS else f"more than {_ROWS} query rows share a key head"


def _rows(anchor: Node) -> int:
    q, k = anchor.args[0], anchor.args[1]
    assert q is not None and k is not None
    return int(q.shape[1]) * (int(q.shape[2]) // int(k.shape[2]))


@kernel("nn.attention", accepts=refusal, rank=30)
def few(group: Group, target: Target) -> Built:
    """One tile for each key head of each batch element."""
    anchor = group.anchor
    assert anchor is not None and anchor.args[1] is not None
    batch, _, key_heads, _ = anchor.args[1].shape
    with KernelFrame(group, target) as frame:
        body = _Few(frame, anchor)
        body.emit()
    return Built(frame.function, tiles=batch * key_heads, scratch=Dim.of(4 * body.size))


@kernel("nn.attention_parts", accepts=parts_refusal, rank=30)
def parts(group: Group, target: Target) -> Built:
    """One tile for each run of keys of each batch element, of all heads where those of a token are neighbours."""
    return built_parts(group, target, Parts)


def built_parts(group: Group, target: Target, kind: type[Parts]) -> Built:
    """The kernel that a class of this kind emits."""
    anchor = group.anchor
    assert anchor is not None and anchor.args[1] is not None
    batch, _, key_heads, _ = anchor.args[1].shape
    views = attention.operand_views(anchor)[1:]
    inner = all((view.strides[1] - view.strides[2]).bounds(group.ranges)[0] >= 0 for view in views)
    together = int(key_heads) if inner else 1
    with KernelFrame(group, target) as frame:
        body = kind(frame, anchor, together)
        body.emit()
    tiles = batch * key_heads.divide_exactly(Dim.of(together)) * anchor.result.shape[1]
    return Built(frame.function, tiles=tiles, scratch=Dim.of(4 * body.size))


class _Few:
    """Emits the body of one kernel. Row r of a key head is query r // shared of head `key head * shared + r % shared`.

    together: key heads of a tile, whose rows stand one behind the other."""

    def __init__(self, frame: KernelFrame, anchor: Node, together: int = 1) -> None:
        q, k, v = (arg for arg in anchor.args[:3] if arg is not None)
        self.frame, self.anchor = frame, anchor
        self.q, self.k, self.v = attention.operand_views(anchor)
        self.queries, self.key_heads = index(int(q.shape[1])), int(k.shape[2])
        self.depth, self.width = int(q.shape[3]), elements_of(v)
        self.shared, self.rows = int(q.shape[2]) // self.key_heads, _rows(anchor)
        self.together, self.all_rows = together, together * self.rows
        self.lanes = frame.target.vector_bytes // 4
        mask, self.relative = optional_operand(anchor, MASK), optional_operand(anchor, RELATIVE)
        self.mask = None if mask is None else Mask(frame, mask)
        self.span = AttentionSpan(anchor, frame.size)
        self.cap = anchor.attrs["softcap"]
        self.epilogue = Epilogue(frame.group, anchor.result)
        self.work = buffer_at("work", "float32", frame.scratch)
        self.scores = self.all_rows * self.depth  # scaled queries stand at 0
        self.sums = self.scores + self.all_rows * KEYS
        self.state = self.sums + self.all_rows * self.width  # of a row: maximum, total, how much old sums shrink
        self.size = self.state + 3 * self.all_rows

    def emit(self) -> None:
        self.registers = local("registers", "float32", CHAINS * self.lanes)
        with loop("tile", self.frame.end - self.frame.begin, self.frame.begin) as number:
            self._enter(number)
            with loop("row", self.all_rows) as row:
                self._start(row)
            self.length = None
            if self.span.lengths is not None:
                self.length = bind(self.frame.read(self.span.lengths, (along(self.span.lengths, 0, self.batch),)))
            begin, seen = self._run(self.span.first(index(0)), self.span.end(self.queries - 1, self.length))
            with loop("block", tirx.truncdiv(seen - begin + (KEYS - 1), index(KEYS))) as block:
                first = let("first", block * KEYS + begin)
                count = let("count", tirx.min(index(KEYS), seen - first))
                self._score(first, count)
                with loop("row", self.all_rows) as row:
                    self._soften(row)
                self._weigh(first, count)
            with loop("row", self.all_rows) as row:
                self._finish(row)

    def _enter(self, number: Expr) -> None:
        """Batch and first key head of a tile."""
        self.batch = let("batch", tirx.truncdiv(number, index(self.key_heads)))
        self.first_head = let("first_head", number - self.batch * self.key_heads)

    def _run(self, first: Expr, end: Expr) -> tuple[Expr, Expr]:
        """The keys of a tile, of those that its queries see; the end may lie before the first."""
        return let("begin", first), let("seen", end)

    # -- the parts of a tile -----------------------------------------------------------------------------------
    def _place(self, row: Expr) -> tuple[Expr, Expr]:
        """(query, head) of a row."""
        own = let("own", tirx.truncdiv(row, index(self.rows)))
        inside = let("inside", row - own * self.rows)
        query = let("query", tirx.truncdiv(inside, index(self.shared)))
        return query, let("head", (self.first_head + own) * self.shared + (inside - query * self.shared))

    def _groups(self, own: Expr) -> Iterator[list[Expr]]:
        """Rows of one key head, as many at a time as there are independent sums; the caller emits what is to be done
        for each group."""
        whole = self.rows // CHAINS
        if whole:
            with loop("group", whole) as group:
                yield [let("row", own * self.rows + group * CHAINS + i) for i in range(CHAINS)]
        if self.rows % CHAINS:
            yield [let("row", own * self.rows + i) for i in range(whole * CHAINS, self.rows)]

    def _start(self, row: Expr) -> None:
        """Scaled queries; maxima, totals and sums as before the first key."""
        scale = tirx.FloatImm("float32", self.anchor.attrs["scale"] / (self.cap or 1.0))
        query, head = self._place(row)
        with loop("d", self.depth) as d:
            place = self._at(self.q, self.batch, query, head, d)
            store(self.work, row * self.depth + d, self.frame.buffer(self.q.source)[place] * scale)
        state = self._state(row)
        store(self.work, state, tirx.FloatImm("float32", attention.LOWEST))
        store(self.work, state + 1, tirx.FloatImm("float32", 0.0))
        with loop("e", self.width) as e:
            store(self.work, row * self.width + self.sums + e, tirx.FloatImm("float32", 0.0))

    def _score(self, first: Expr, count: Expr) -> None:
        """q . k for a block, with the mask; what is behind the last key becomes -infinity."""
        with loop("key", count) as key, loop("own", self.together) as own:
            base = let("k_base", self._at(self.k, self.batch, first + key, self.first_head + own, 0))
            for rows in self._groups(own):
                for row, score in zip(rows, self._dots(base, rows), strict=True):
                    store(self.work, row * KEYS + self.scores + key, self._masked(score, row, first + key))
        self._hide(count)

    def _hide(self, count: Expr) -> None:
        """Scores behind the last key of a block."""
        with loop("row", self.all_rows) as row, loop("key", index(KEYS) - count, count) as key:
            store(self.work, row * KEYS + self.scores + key, tirx.FloatImm("float32", float("-inf")))

    def _dots(self, base: Expr, rows: list[Expr]) -> list[Expr]:
        """Products of one key with some rows: whole vectors, then the elements behind them."""
        keys, whole = self.frame.buffer(self.k.source), self.depth // self.lanes * self.lanes
        for i in range(len(rows)):
            store(self.registers, self._part(i), spread(tirx.FloatImm("float32", 0.0), self.lanes))
        with loop("d", whole // self.lanes) as piece:
            d = let("d", piece * self.lanes)
            element = bind(load(keys, base + d, self.lanes))
            for i, row in enumerate(rows):
                self._add(i, element, load(self.work, d + row * self.depth, self.lanes))
        sums = [bind(sum_of_lanes(self._register(i))) for i in range(len(rows))]
        for d in range(whole, self.depth):
            element = bind(keys[base + d])
            sums = [
                bind(fma(element, self.work[row * self.depth + d], sum)) for row, sum in zip(rows, sums, strict=True)
            ]
        return sums

    def _masked(self, score: Expr, row: Expr, key: Expr) -> Expr:
        query, head = self._place(row)
        hidden = tirx.FloatImm("float32", float("-inf"))
        if self.cap:
            score = tanh(bind(score)) * tirx.FloatImm("float32", self.cap)
        if self.mask is not None:
            element = self.mask.element(self.batch, head, query, key)
            score = tirx.Select(element, score, hidden) if self.mask.is_bool else score + element
        if self.relative is not None:
            distance = let("distance", key - query + (self.queries - 1))
            score = score + self.frame.read(self.relative, (along(self.relative, 0, head), distance))
        if not self.span.is_whole:
            score = tirx.Select(key < self.span.end(query, self.length), score, hidden)
        if self.span.has_first:
            score = tirx.Select(key >= self.span.first(query), score, hidden)
        return score

    def _soften(self, row: Expr) -> None:
        """The scores of a block become exponentials."""
        places = [let("place", row * KEYS + self.scores + part) for part in range(0, KEYS, self.lanes)]
        state = self._state(row)
        largest = _fold([bind(load(self.work, place, self.lanes)) for place in places], tirx.max)
        old = bind(self.work[state])
        top = bind(tirx.max(old, _fold_lanes(largest, tirx.max)))
        shrink = bind(exp_nonpositive(bind(old - top)))
        powers = []
        for place in places:
            below = bind(load(self.work, place, self.lanes) - spread(top, self.lanes))
            powers.append(bind(exp_nonpositive(below)))
            store_vector(self.work, place, powers[-1])
        total = sum_of_lanes(_fold(powers, operator.add))
        store(self.work, state, top)
        store(self.work, state + 1, fma(bind(self.work[state + 1]), shrink, total))
        store(self.work, state + 2, shrink)

    def _weigh(self, first: Expr, count: Expr) -> None:
        """Sums of values by weight: each row's sums shrink, then grow by the block's values."""
        base = let("v_base", self._at(self.v, self.batch, first, self.first_head, 0))
        whole = self.width // self.lanes * self.lanes
        for rows in self._groups(index(0)):
            columns = CHAINS // len(rows)
            wide = whole // (columns * self.lanes) * (columns * self.lanes)
            self._weigh_columns(base, count, rows, range(0, wide, columns * self.lanes), self.lanes)
            self._weigh_columns(base, count, rows, range(wide, whole, self.lanes), self.lanes)
            self._weigh_columns(base, count, rows, range(whole, self.width), 1)

    def _weigh_columns(self, base: Expr, count: Expr, rows: list[Expr], span: range, lanes: int) -> None:
        """Some columns of some rows, in steps of the span, which are vectors of `lanes` side by side."""
        values, stride = self.frame.buffer(self.v.source), self.frame.size(self.v.strides[1])
        columns = range(0, span.step, lanes)
        cells = [(row, column) for row in rows for column in columns]
        with loop("piece", len(span)) as piece:
            e = let("e", piece * span.step + span.start)
            places = [let("place", row * self.width + self.sums + e + column) for row, column in cells]
            for i, (row, _) in enumerate(cells):
                shrink = spread(self.work[self._state(row) + 2], lanes)
                store(self.registers, self._part(i, lanes), load(self.work, places[i], lanes) * shrink)
            with loop("key", count) as key:
                start = let("start", base + key * stride + e)
                elements = {column: bind(load(values, start + column, lanes)) for column in columns}
                for i, (row, column) in enumerate(cells):
                    weight = spread(self.work[row * KEYS + self.scores + key], lanes)
                    self._add(i, elements[column], weight, lanes)
            for i, place in enumerate(places):
                store_vector(self.work, place, self._register(i, lanes))

    def _finish(self, row: Expr) -> None:
        """Sums / total; a row that has seen nothing gives 0."""
        query, head = self._place(row)
        share = attention.share_of(bind(self.work[self._state(row) + 1]))
        for span, lanes in self.pieces():
            with loop("piece", len(span)) as piece:
                e = let("e", piece * lanes + span.start)
                value = bind(load(self.work, row * self.width + self.sums + e, lanes) * spread(share, lanes))
                place = (self.batch, query, head, lanes_at(e, lanes))
                self.frame.write(0, place, self.epilogue.apply(value, place, self.frame.read))

    # -- small things ------------------------------------------------------------------------------------------
    def pieces(self) -> tuple[tuple[range, int], ...]:
        """Vectors that cover a row of sums, and their lanes."""
        whole = self.width // self.lanes * self.lanes
        return (range(0, whole, self.lanes), self.lanes), (range(whole, self.width), 1)

    def _at(self, view: View, batch: Expr, token: Expr, head: Expr, element: Expr | int) -> Expr:
        """Flat place of an element of an operand."""
        size = self.frame.size
        places = (batch, token, head, index(element))
        return size(view.offset) + sum(place * size(stride) for place, stride in zip(places, view.strides, strict=True))

    def _state(self, row: Expr) -> Expr:
        """Place of a row's maximum; its total and how much its sums shrink stand behind."""
        return let("state", row * 3 + self.state)

    def _part(self, number: int, lanes: int = 0) -> Expr:
        return lanes_at(number * self.lanes, lanes or self.lanes)

    def _register(self, number: int, lanes: int = 0) -> Expr:
        return tirx.BufferLoad(self.registers, [self._part(number, lanes)])

    def _add(self, number: int, x: Expr, y: Expr, lanes: int = 0) -> None:
        store(self.registers, self._part(number, lanes), fma(x, y, self._register(number, lanes)))


class Parts(_Few):
    """The same for one run of keys; sums, maximum and total of each row are the result."""

    def _enter(self, number: Expr) -> None:
        chunks = self.frame.size(self.anchor.result.shape[1])
        outer = let("outer", tirx.truncdiv(number, chunks))
        self.part = let("part", number - outer * chunks)
        heads = self.key_heads // self.together
        self.batch = let("batch", tirx.truncdiv(outer, index(heads)))
        self.first_head = let("first_head", outer - self.batch * heads)

    def _run(self, first: Expr, end: Expr) -> tuple[Expr, Expr]:
        chunk = self.anchor.attrs["chunk"]
        start = let("start", self.part * chunk)
        return let("begin", tirx.max(first, start)), let("seen", tirx.min(end, start + chunk))

    def shrink_sums(self) -> None:
        """Of all rows, by how much their maximum has risen."""
        for span, lanes in self.pieces():
            with loop("row", self.all_rows) as row, loop("piece", len(span)) as piece:
                place = let("place", row * self.width + self.sums + piece * lanes + span.start)
                shrink = spread(self.work[self._state(row) + 2], lanes)
                store_vector(self.work, place, load(self.work, place, lanes) * shrink)

    def _weigh(self, first: Expr, count: Expr) -> None:
        """Values of several heads in the order of memory: sums stay in the cache, where registers have no room."""
        if self.together == 1:
            super()._weigh(first, count)
            return
        self.shrink_sums()
        values = self.frame.buffer(self.v.source)
        with loop("key", count) as key, loop("own", self.together) as own:
            base = let("v_base", self._at(self.v, self.batch, first + key, self.first_head + own, 0))
            for rows in self._groups(own):
                weights = [bind(self.work[row * KEYS + self.scores + key]) for row in rows]
                for span, lanes in self.pieces():
                    with loop("piece", len(span)) as piece:
                        e = let("e", piece * lanes + span.start)
                        element = bind(load(values, base + e, lanes))
                        for row, weight in zip(rows, weights, strict=True):
                            place = let("place", row * self.width + self.sums + e)
                            total = fma(element, spread(weight, lanes), load(self.work, place, lanes))
                            store_vector(self.work, place, total)

    def _finish(self, row: Expr) -> None:
        query, head = self._place(row)
        lead = (self.batch, self.part, query, head)
        for span, lanes in self.pieces():
            with loop("piece", len(span)) as piece:
                e = let("e", piece * lanes + span.start)
                sums = bind(load(self.work, row * self.width + self.sums + e, lanes))
                self.frame.write(0, (*lead, lanes_at(e, lanes)), sums)
        for number in range(STATE):
            self.frame.write(0, (*lead, index(self.width + number)), bind(self.work[self._state(row) + number]))


def _fold(values: list[Expr], combine: Callable[[Expr, Expr], Expr]) -> Expr:
    return bind(reduce(combine, values))


def _fold_lanes(vector: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """The lanes of a vector folded by halves."""
    while vector.ty.dtype.lanes > 1:
        half = vector.ty.dtype.lanes // 2
        dtype = "float32" if half == 1 else f"float32x{half}"
        vector = bind(vector)
        vector = bind(combine(tirx.vectorlow(dtype, vector), tirx.vectorhigh(dtype, vector)))
    return vector


def sum_of_lanes(vector: Expr) -> Expr:
    return _fold_lanes(vector, operator.add)
