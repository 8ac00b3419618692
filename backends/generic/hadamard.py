"""nn.hadamard: butterflies on a line in scratch, in the order of the op's definition."""

from __future__ import annotations

from nomul.backends.emit import Index
from nomul.backends.expressions import bind, constant
from nomul.backends.frame import index_constant
from nomul.backends.generic import line
from nomul.backends.generic.pull import Line, Pull, Step, Strip, replaced
from nomul.ir.graph import Node


@line("nn.hadamard")
def hadamard(pull: Pull, node: Node) -> Line:
    x, block = node.args[0], node.attrs["block"]
    assert x is not None
    axis = len(x.shape) - 1
    size = x.shape[axis]

    def prepare(index: Index) -> Step:
        strip = pull.strip(pull.type(x.dtype), size)
        with pull.loops(pull.size(size)) as (place,):
            strip.write(place, pull.element(x, replaced(index, axis, place)))
        distance = 1
        while distance < block:
            _butterflies(pull, strip, int(size), distance)
            distance *= 2

        def step(place: Index) -> tuple:
            value = strip.read(place[axis])
            return (bind(value * constant(value, block**-0.5)),)

        return step

    return Line.along(x.shape, axis, prepare)


def _butterflies(pull: Pull, strip: Strip, size: int, distance: int) -> None:
    """Sums and differences of places so far apart."""
    with pull.loops(index_constant(size // (2 * distance)), index_constant(distance)) as (run, place):
        left = bind(run * index_constant(2 * distance) + place)
        right = bind(left + index_constant(distance))
        a, b = strip.read(left), strip.read(right)
        strip.write(left, a + b)
        strip.write(right, a - b)
