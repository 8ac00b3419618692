"""Turns the stages of a source into tables of strings and numbers, equal things stored once: the data of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Module, Node
from nomul.ir.op import all_ops
from nomul.ir.text import attributes_text, type_text
from nomul.ir.types import Tensor
from nomul.report import dims_facts
from nomul.view.fold import fold
from nomul.view.memory import has_arena, memory_map
from nomul.view.sources import Source, Stage
from nomul.view.weights import WeightTable, noted_losses


def page_data(source: Source, dims: Mapping[str, int], bench: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The data of the page. dims: sizes at which bytes are counted; bench: what `read_times` gave."""
    graphs, weights = _Graphs(dims), WeightTable(source.weights, noted_losses(source.facts))
    stages = []
    before: Module | None = None
    for stage in source.stages:
        row = _stage(stage)
        if stage.module is not None:
            row["funcs"] = [graphs.func(func) for func in stage.module.funcs.values()]
            row["weights"] = weights.add(stage.module, before)
            row["level"] = stage.module.level
            before = stage.module
        stages.append(row)
    last = next((stage.module for stage in reversed(source.stages) if has_arena(stage.module)), None)
    return {
        **_head(source, before, dims),
        "stages": stages,
        "strings": list(graphs.strings),
        "bytes": graphs.bytes,
        "nodes": list(graphs.nodes),
        "ops": {name: all_ops()[name].doc.partition("\n")[0] for name in sorted(graphs.ops)},
        "versions": weights.rows,
        "kernels": source.facts.get("kernels", []),
        "runs": _runs(source, bench),
        "misses": [[m.rule, m.root, m.loc, m.reason, m.matched] for m in source.misses],
        "refusals": source.refusals,
        "memory": memory_map(last, dims) if last else None,
        "bench": {name: fact for name, fact in bench.items() if name != "steps"} if bench else None,
    }


def _head(source: Source, module: Module | None, dims: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": source.name,
        "kind": source.kind,
        "origin": source.origin,
        "target": source.facts.get("target", ""),
        "levels": [level["name"] for level in source.facts.get("level_facts", [])],
        "ranges": dims_facts(module.dims) if module else {},
        "dims": dict(dims),
    }


def _stage(stage: Stage) -> dict[str, Any]:
    line = stage.line
    row: dict[str, Any] = {"number": stage.number, "name": stage.name}
    if line is None:
        return row
    more = {"phase": line.phase, "ms": line.milliseconds, "count": line.nodes, "changed": line.changed}
    return row | more | {"fired": line.fired, "notes": line.notes}


def _runs(source: Source, bench: Mapping[str, Any] | None) -> list[list[Any]]:
    """A row for each kernel that runs, in order: its first value, number of its kernel, slots, milliseconds."""
    steps = bench["steps"] if bench else []
    times = [step["ms"] for step in steps] or [None] * len(source.facts.get("runs", []))
    return [
        [run["results"][0].partition(" : ")[0], run["kernel"], run["slots"], ms]
        for run, ms in zip(source.facts.get("runs", []), times, strict=True)
    ]


class _Graphs:
    """Interned strings, nodes and sizes of types. A node is [op, arguments, attributes, results, types, loc, callee],
    all by number of the string; equal nodes of several passes are one."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        self.strings: dict[str, int] = {"": 0}
        self.nodes: dict[tuple[Any, ...], int] = {}
        self.bytes: dict[int, int] = {}
        self.ops: set[str] = set()
        self._dims = dims

    def func(self, func: Func) -> dict[str, Any]:
        return {
            "name": func.name,
            "params": [[self._text(str(param)), self._type(param.type)] for param in func.params],
            "nodes": [self._node(node) for node in func.nodes],
            "returns": [self._text(str(value)) for value in func.returns],
            "tree": fold(func.nodes),
        }

    def _node(self, node: Node) -> int:
        self.ops.add(node.op)
        callee = str(node.attrs["func"]) if node.op in ("call", "exec.run") else ""
        row = (
            self._text(node.op),
            tuple(self._text("_" if arg is None else str(arg)) for arg in node.args),
            self._text(attributes_text(node)[1:-1]),
            tuple(self._text(str(result)) for result in node.results),
            tuple(self._type(result.type) for result in node.results),
            self._text(node.loc or ""),
            self._text(callee),
        )
        return self.nodes.setdefault(row, len(self.nodes))

    def _type(self, type: Tensor) -> int:
        number = self._text(type_text(type))
        if number not in self.bytes and type.encoding is None:
            self.bytes[number] = self._evaluate(type.bytes)
        return number

    def _evaluate(self, size: Dim) -> int:
        return size.evaluate({name: self._dims.get(name, 1) for name in size.names()})

    def _text(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))
