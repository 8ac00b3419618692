"""nn.hadamard of f32 rows. A run of 16 vectors stays in registers through its butterflies:

    distances within a vector     v = shuffle(v, place ^ distance) + v * (+1 where the place has no such bit, else -1)
    distances between vectors     (a, b) = (a + b, a - b)

Larger blocks take the distances from 16 vectors on through the result's memory. The additions are those of the op's
definition, so results are the same bit for bit. 16 vectors of AVX-512 (256 elements): 64 shuffles, 64 multiplications
by signs, 128 additions and subtractions, 16 loads and stores.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import let, loop
from nomul.backends.tir.vectors import load, spread, store_vector
from nomul.ir.dim import product

HELD = 16  # vectors in registers
_WORK = 16 * 1024  # elements worth a thread

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    if len(group.func.nodes) != 1:
        return "more than one node"
    return "operands are not f32" if str(group.func.params[0].dtype) != "f32" else None


@kernel("nn.hadamard", accepts=refusal, rank=10)
def butterflies(group: Group, target: Target) -> Built:
    """A tile is a row."""
    (node,) = group.func.nodes
    (x,) = group.func.params
    block, size = node.attrs["block"], int(x.shape[-1])
    lanes = min(max(1, target.vector_bytes // 4), block)
    run = min(block, HELD * lanes)
    with KernelFrame(group, target) as frame:
        source, result = frame.buffer(x), frame.buffer(frame.results[0])
        factor = block**-0.5
        with loop("row", frame.end - frame.begin, frame.begin) as row:
            first = let("first", row * size)
            with loop("run", size // run) as number:
                start = let("start", first + number * run)
                held = [let("held", load(source, start + at, lanes)) for at in range(0, run, lanes)]
                _write(result, start, _transformed(held, lanes), lanes, factor if run == block else None)
            distance = run
            while distance < block:
                _far(result, first, size, distance, lanes, factor if 2 * distance == block else None)
                distance *= 2
    return Built(frame.function, tiles=product(x.shape[:-1]), grain=max(1, _WORK // size), inplace=(0,))


def _transformed(held: list[Expr], lanes: int) -> list[Expr]:
    """All butterflies among the elements of these vectors."""
    distance = 1
    while distance < lanes:
        held = [_within(vector, distance, lanes) for vector in held]
        distance *= 2
    apart = 1
    while apart < len(held):
        pairs = [(at, at + apart) for at in range(len(held)) if not at & apart]
        sums = {a: let("sum", held[a] + held[b]) for a, b in pairs}
        differences = {b: let("difference", held[a] - held[b]) for a, b in pairs}
        held = [sums[at] if at in sums else differences[at] for at in range(len(held))]
        apart *= 2
    return held


def _within(vector: Expr, distance: int, lanes: int) -> Expr:
    places = [tirx.IntImm("int32", place ^ distance) for place in range(lanes)]
    signs = [tirx.FloatImm("float32", -1.0 if place & distance else 1.0) for place in range(lanes)]
    partner = let("partner", tirx.Shuffle([vector], places))
    order = [tirx.IntImm("int32", place) for place in range(lanes)]
    return let("within", partner + vector * tirx.Shuffle(signs, order))


def _far(result: Any, first: Expr, size: int, distance: int, lanes: int, factor: float | None) -> None:
    """Butterflies through memory."""
    with loop("pair", size // (2 * distance)) as pair, loop("piece", distance // lanes) as piece:
        left = let("left", first + pair * (2 * distance) + piece * lanes)
        a, b = let("a", load(result, left, lanes)), let("b", load(result, left + distance, lanes))
        _write(result, left, [a + b], lanes, factor)
        _write(result, left + distance, [a - b], lanes, factor)


def _write(result: Any, start: Expr, vectors: list[Expr], lanes: int, factor: float | None) -> None:
    """factor: of the whole transform, once its last butterflies are done."""
    for number, vector in enumerate(vectors):
        value = vector if factor is None else vector * spread(tirx.FloatImm("float32", factor), lanes)
        store_vector(result, start + number * lanes, value)
