"""nn.quantise of contiguous tensors: a tile is one row, or one image."""

from __future__ import annotations

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import let, local, loop, store
from nomul.backends.tir.quantise import magnitude, row_scale, step
from nomul.ir.dim import product

_WORK = 16 * 1024  # elements worth a thread


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    if len(group.func.nodes) != 1:
        return "more than one node"
    return "operands are not f32" if str(group.func.params[0].dtype) != "f32" else None


@kernel("nn.quantise", accepts=refusal, rank=10)
def rows(group: Group, target: Target) -> Built:
    """Two loops over a row, of which LLVM makes vectors: its largest magnitude, then its integers."""
    (node,) = group.func.nodes
    (x,) = group.func.params
    lead = node.attrs["lead"]
    count, size = product(x.shape[:lead]), product(x.shape[lead:])
    with KernelFrame(group, target) as frame:
        largest = local("largest", "int32", 1)
        extent = frame.size(size)
        with loop("row", frame.end - frame.begin, frame.begin) as row:
            first = let("first", row * extent)
            store(largest, 0, tirx.const(0, "int32"))
            with loop("place", extent) as place:
                store(largest, 0, tirx.max(largest[0], magnitude(frame.read_flat(x, first + place))))
            scale = row_scale(largest[0], node.attrs)
            frame.write_flat(1, row, scale.scale)
            with loop("place", extent) as place:
                frame.write_flat(0, first + place, step(frame.read_flat(x, first + place), scale))
    return Built(frame.function, tiles=count, grain=max(1, _WORK // max(1, int(size.bounds(group.ranges)[0]))))
