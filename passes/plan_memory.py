"""Gives every kernel result of a module at level "exec" a place: an arena slot, or the output port that it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isinf

from nomul.ir.dim import Dim, Range
from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.passes.base import Pass, Report

OUTPUT = -1  # the slot number of a result that is written to an output port
UNBOUNDED = 4096  # stands for a dim without an upper bound when sizes are compared


@dataclass(eq=False)
class Storage:
    """Bytes that one or more values share: a result, its views, and results computed in its place.

    first, last: steps between which it is needed.  sizes: of its values, symbolic."""

    first: int
    last: int
    sizes: list[Dim] = field(default_factory=list)
    is_output: bool = False
    slot: int = OUTPUT

    def overlaps(self, other: Storage) -> bool:
        return self.first <= other.last and other.first <= self.last


class PlanMemory(Pass):
    """Liveness over the steps, results in place of dying operands where a kernel allows it, then slots by best fit,
    the largest first (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020).

    Sizes are compared at the dims' upper bounds; the slot itself keeps all sizes, and its size is their maximum."""

    name = "plan_memory"

    def run(self, module: Module, report: Report) -> None:
        storages = storages_of(module.main)
        slots = _assign([s for s in storages.values() if not s.is_output], module.dims)
        for node in module.main.nodes:
            if node.op == "exec.run":
                node.attrs["slots"] = tuple(storages[result].slot for result in node.results)
        biggest = [max(upper(size, module.dims) for s in slot for size in s.sizes) for slot in slots]
        total = sum(upper(s.sizes[0], module.dims) for s in dict.fromkeys(storages.values()))
        report.note(f"arena: {len(slots)} slots, {sum(biggest)} bytes at the largest sizes ({total} without sharing)")


def upper(size: Dim, ranges: dict[str, Range]) -> int:
    """Bytes at the upper bounds of all dims."""
    values = {name: UNBOUNDED if isinf(high) else int(high) for name, (_, high) in ranges.items()}
    return size.evaluate({name: values.get(name, UNBOUNDED) for name in size.names()})


def storages_of(func: Func) -> dict[Value, Storage]:
    """The storage of each value of @main at level "exec" that a kernel writes, views included. Steps count nodes."""
    last_use = _last_uses(func)
    outputs = {_root(value) for value in func.returns}
    storages: dict[Value, Storage] = {}
    for step, node in enumerate(func.nodes):
        if node.op == "exec.view":
            if node.args[0] in storages:
                storages[node.result] = storages[node.args[0]]
            continue
        shared = _dying_operand(node, step, storages, outputs)
        for result in node.results:
            storage = shared or Storage(step, step, is_output=result in outputs)
            storage.last = max(storage.last, last_use[result])
            storage.sizes.append(result.type.bytes)
            storages[result] = storage
    return storages


def _last_uses(func: Func) -> dict[Value, int]:
    """For each kernel result the last step that reads it, through views as well."""
    last: dict[Value, int] = {}
    for step, node in enumerate(func.nodes):
        for value in (*node.args, *node.results):
            if value is not None and not isinstance(value, Weight | Constant):
                last[_root(value)] = step
    return last


def _root(value: Value) -> Value:
    while value.producer is not None and value.producer.op == "exec.view":
        operand = value.producer.args[0]
        assert operand is not None
        value = operand
    return value


def _dying_operand(node: Node, step: int, storages: dict[Value, Storage], outputs: set[Value]) -> Storage | None:
    """Storage of an operand that the kernel may overwrite and nobody reads afterwards; None for an output's result."""
    if len(node.results) != 1 or node.result in outputs:
        return None
    for position in node.attrs["inplace"]:
        operand = node.args[position]
        storage = storages.get(operand) if operand is not None else None
        if storage is None or storage.is_output or operand is None:
            continue
        others = [arg for index, arg in enumerate(node.args) if index != position]
        alone = all(arg is None or storages.get(arg) is not storage for arg in others)
        if storage.last == step and operand.type.bytes == node.result.type.bytes and alone:
            return storage
    return None


def _assign(storages: Iterable[Storage], ranges: dict[str, Range]) -> list[list[Storage]]:
    """Slots with the storages that share them; sets each storage's slot number."""
    unique = dict.fromkeys(storages)
    size = {storage: max(upper(bytes, ranges) for bytes in storage.sizes) for storage in unique}
    slots: list[list[Storage]] = []
    for storage in sorted(unique, key=lambda s: (-size[s], s.first)):
        free = [slot for slot in slots if not any(storage.overlaps(other) for other in slot)]
        if free:
            min(free, key=lambda slot: max(size[other] for other in slot)).append(storage)
        else:
            slots.append([storage])
    slots.sort(key=lambda slot: min(storage.first for storage in slot))
    for number, slot in enumerate(slots):
        for storage in slot:
            storage.slot = number
    return slots
