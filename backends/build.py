"""From a module at level "exec" to a Plan: weights packed into one blob, kernels lowered to objects, steps located."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from nomul.backends import layouts
from nomul.backends.decoders import kernel_fields
from nomul.backends.execute import view_root
from nomul.backends.listing import Show
from nomul.backends.lower import lower_to_object
from nomul.backends.plan import Level, Location, Plan, Port, Step
from nomul.backends.select import Choice, Selection
from nomul.ir.dim import Dim
from nomul.ir.graph import Module, Node, Value, Weight

ALIGNMENT = 64
SMALL = 32 * 1024  # bytes
Lower = Callable[[Selection, Mapping[int, str]], tuple[Level, ...]]


@dataclass
class WeightBlob:
    """Packed fields one behind the other, each at a multiple of 64 bytes; a weight appears once per layout."""

    parts: list[np.ndarray] = field(default_factory=list)
    size: int = 0
    _places: dict[tuple[str, str | None], list[int]] = field(default_factory=dict)
    _small: dict[tuple[str, bytes], int] = field(default_factory=dict)

    def offsets(self, weight: Weight, layout: str | None) -> list[int]:
        """Byte offsets of the weight's fields in that layout, added on first use."""
        key = (weight.name, layout)
        if key not in self._places:
            self._places[key] = [self._add(array) for array in packed_fields(weight, layout).values()]
        return self._places[key]

    def _add(self, array: np.ndarray) -> int:
        """Equal small arrays (tables of decoders) are stored once."""
        key = (array.dtype.str, array.tobytes()) if array.nbytes <= SMALL else None
        if key is not None and key in self._small:
            return self._small[key]
        offset = self.size
        if key is not None:
            self._small[key] = offset
        self.parts.append(array)
        self.size = -(-(offset + array.nbytes) // ALIGNMENT) * ALIGNMENT
        return offset

    def tobytes(self) -> bytes:
        """All parts with the bytes between them; each is copied once, since weights may fill half of the memory."""
        pieces: list[memoryview | bytes] = []
        for array in self.parts:
            pieces += [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, bytes(-array.nbytes % ALIGNMENT)]
        return b"".join(pieces)


def packed_fields(weight: Weight, layout: str | None) -> Mapping[str, np.ndarray]:
    """The arrays whose pointers a kernel takes for this weight."""
    shape = tuple(int(size) for size in weight.shape)
    if layout is not None:
        return layouts.pack(layout, weight.fields, shape, weight.type.encoding)
    return kernel_fields(weight.type.encoding, weight.fields, shape) if weight.type.encoding else weight.fields


def build_plan(
    module: Module,
    selection: Selection,
    name: str,
    lower: Lower | None = None,
    show: Show | None = None,
) -> Plan:
    """The Plan of a module at level "exec" with planned slots. lower: makes the levels' code; LLVM where it is None.

    show: sees the text of every function that LLVM makes (`lower_to_object`), on several threads; of code that the best
    level runs all kinds, of the rest LLVM IR alone."""
    func, blob = module.main, WeightBlob()
    outputs = func.result_names or tuple(value.name for value in func.returns)
    symbols = kernel_symbols(selection)
    places = _locations(module)
    steps = []
    for node in func.nodes:
        if node.op == "exec.run":
            choice = selection.choices[node.attrs["func"]]
            steps.append(_step(node, choice, symbols[id(choice)], places, blob, module))
    levels = (lower or partial(lower_levels, show=show))(selection, symbols)
    return Plan(
        name=name,
        inputs=tuple(Port(param.name, param.dtype, param.shape) for param in func.params),
        outputs=tuple(Port(n, value.dtype, value.shape) for n, value in zip(outputs, func.returns, strict=True)),
        dims=dict(module.dims),
        slots=_slot_sizes(module),
        steps=tuple(steps),
        weights=blob.tobytes(),
        levels=levels,
        target=",".join(level.name for level in selection.levels),
    )


def kernel_symbols(selection: Selection) -> dict[int, str]:
    """The symbol, without level, of each choice (by id)."""
    names = {}
    for index, choice in enumerate(selection.unique):
        anchor = choice.group.anchor
        op = anchor.op if anchor else (choice.group.func.nodes[0].op if choice.group.func.nodes else "copy")
        names[id(choice)] = f"k{index}_{op.replace('.', '_')}"
    return names


def lower_levels(selection: Selection, symbols: Mapping[int, str], show: Show | None = None) -> tuple[Level, ...]:
    """All levels side by side: LLVM runs outside of Python's lock."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        count = len(selection.levels)
        return tuple(pool.map(lambda index: _lower_level(selection, symbols, index, show), range(count)))


def _lower_level(selection: Selection, symbols: Mapping[int, str], index: int, show: Show | None) -> Level:
    target = selection.levels[index]
    owned = [choice for choice in selection.unique if choice.code[index] == target]
    functions = {f"{symbols[id(choice)]}__{target.level}": choice.built[index].function for choice in owned}
    brief = not any(choice.code[0] == target for choice in owned)
    code = lower_to_object(functions, target, show, brief) if functions else b""
    borrowed = {symbols[id(c)]: c.code[index].level for c in selection.unique if c.code[index] != target}
    return Level(target.level, tuple(sorted(target.features)), code, borrowed)


def _locations(module: Module) -> dict[Value, Location]:
    """Where each value of @main that is not a weight lives."""
    func = module.main
    places = {param: Location("input", index) for index, param in enumerate(func.params)}
    outputs = {view_root(value): index for index, value in enumerate(func.returns)}
    for node in func.nodes:
        for position, result in enumerate(node.results):
            if node.op == "exec.view":
                continue
            slot = node.attrs["slots"][position]
            places[result] = Location("output", outputs[result]) if slot < 0 else Location("slot", slot)
    return places


def _step(
    node: Node, choice: Choice, symbol: str, places: Mapping[Value, Location], blob: WeightBlob, module: Module
) -> Step:
    args: list[Location] = []
    for position, arg in enumerate(node.args):
        assert arg is not None
        if isinstance(arg, Weight):
            offsets = blob.offsets(arg, choice.built[0].layouts.get(position))
            args += [Location("weight", 0, Dim.of(offset)) for offset in offsets]
        else:
            args.append(places[view_root(arg)])
    args += [places[result] for result in node.results]
    first = choice.built[0]
    grain = max(built.grain for built in choice.built)
    scratch = _largest([built.scratch for built in choice.built], module)
    return Step(symbol, tuple(args), choice.group.dims, first.tiles, grain, scratch, _comment(node, choice))


def _largest(sizes: Sequence[Dim], module: Module) -> Dim:
    """The largest of the sizes where one is; their sum where that depends on the dims."""
    for size in sizes:
        if all((size - other).bounds(module.dims)[0] >= 0 for other in sizes):
            return size
    return sum(sizes, Dim.of(0))


def _comment(node: Node, choice: Choice) -> str:
    ops = " + ".join(n.op for n in choice.group.func.nodes)
    results = ", ".join(f"{value} : {value.type}" for value in node.results)
    return f"{results} = {ops} by {node.attrs['kernel']}" + (f" ({node.loc})" if node.loc else "")


def _slot_sizes(module: Module) -> tuple[tuple[Dim, ...], ...]:
    sizes: dict[int, dict[Dim, None]] = {}
    for node in module.main.nodes:
        if node.op == "exec.run":
            for result, slot in zip(node.results, node.attrs["slots"], strict=True):
                if slot >= 0:
                    sizes.setdefault(slot, {})[result.type.bytes] = None
    return tuple(tuple(sizes.get(slot, {Dim.of(0): None})) for slot in range(max(sizes, default=-1) + 1))
