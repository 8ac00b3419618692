"""The arena over the steps of a run: which value lies in which slot from which step to which."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from nomul.ir.graph import Module
from nomul.memory import ALIGNMENT
from nomul.passes.plan_memory import OUTPUT, Storage, storages_of


def has_arena(module: Module | None) -> bool:
    """Whether the module knows the slots of its values."""
    return module is not None and module.level == "exec" and any(n.attrs.get("slots") for n in module.main.nodes)


def memory_map(module: Module, dims: Mapping[str, int]) -> dict[str, Any]:
    """slots: bytes of each; spans: [slot, first step, last step, bytes, values] with steps as kernels run.

    dims: sizes at which bytes are counted. Bytes are rounded up to the alignment of the arena."""
    numbers = list(accumulate(node.op == "exec.run" for node in module.main.nodes))  # kernels run up to each node
    values: dict[Storage, list[str]] = {}
    for value, storage in storages_of(module.main).items():
        values.setdefault(storage, []).append(str(value))
        if value.producer is not None and value.producer.op == "exec.run":
            storage.slot = value.producer.attrs["slots"][value.index]
    sizes: dict[int, int] = {}
    spans = []
    for storage, names in values.items():
        if storage.slot == OUTPUT:
            continue
        bytes = max(-(-size.evaluate(dims) // ALIGNMENT) * ALIGNMENT for size in storage.sizes)
        sizes[storage.slot] = max(sizes.get(storage.slot, 0), bytes)
        spans.append([storage.slot, numbers[storage.first] - 1, numbers[storage.last] - 1, bytes, names])
    slots = [sizes.get(slot, 0) for slot in range(max(sizes, default=-1) + 1)]
    return {"slots": slots, "spans": spans, "steps": numbers[-1] if numbers else 0}
