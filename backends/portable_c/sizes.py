"""Writes model.h: sizes as constants, for programs that have no heap."""

from __future__ import annotations

from nomul.backends import c_text
from nomul.backends.driver_sizes import IntRanges, closed_ranges, magnitude
from nomul.backends.plan import Plan, Port
from nomul.ir.dim import product

_ALIGNMENT = 64
_LARGEST = 2**31  # bytes; more is no use to those who need constants


def sizes_header(plan: Plan) -> tuple[str, int | None]:
    """The text of model.h, and the bytes of scratch for one thread at the largest dims (None: more than 2 GiB)."""
    ranges = closed_ranges(plan)
    scratch = scratch_bytes(plan, ranges)
    fixed = "" if all(low == high for low, high in ranges.values()) else " with the largest dims"
    lines = [
        f"/* model.h: sizes of {c_text.comment(plan.name)[3:-3]}{fixed}, written by nomul. */",
        "#ifndef MODEL_H",
        "#define MODEL_H",
        *([_define("MODEL_SCRATCH_BYTES", scratch, "on one thread, aligned to NM_ALIGNMENT")] if scratch else []),
        *_ports("INPUT", plan.inputs, ranges),
        *_ports("OUTPUT", plan.outputs, ranges),
        "#endif",
    ]
    return "\n".join(lines) + "\n", scratch


def scratch_bytes(plan: Plan, ranges: IntRanges) -> int | None:
    """What `scratch_size(dims, 1)` gives at most; None where that is more than 2 GiB."""
    slots = (max(magnitude(size, ranges) for size in slot) for slot in plan.slots)
    thread = max((magnitude(step.scratch, ranges) for step in plan.steps), default=0)
    total = max(sum(_rounded(size) for size in (*slots, thread)), _ALIGNMENT)
    return total if total <= _LARGEST else None


def _rounded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _ports(kind: str, ports: tuple[Port, ...], ranges: IntRanges) -> list[str]:
    lines: list[str] = []
    taken: set[str] = set()
    for number, port in enumerate(ports):
        name = c_text.identifier(port.name.upper())
        name = f"{name}_{number}" if name in taken else name
        taken.add(name)
        elements = magnitude(product(port.shape), ranges)
        if elements * port.dtype.bytes <= _LARGEST:
            comment = f"{port.name} : {port.dtype.value}[{', '.join(map(str, port.shape))}]"
            lines.append(_define(f"MODEL_{kind}_{name}_ELEMENTS", elements, comment))
    return lines


def _define(name: str, value: int, comment: str) -> str:
    return f"#define {name} {value} {c_text.comment(comment)}"
