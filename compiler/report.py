"""Facts about a module and about a compiled model, as plain JSON: what `model.json`, the artifact and `nomul show` say.

Nothing here depends on time, folders or the machine, so that equal inputs give equal artifacts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from nomul.ir.dim import Range
from nomul.ir.graph import Module, Node, Value, Weight
from nomul.ir.text import print_module
from nomul.sample import InputSpec, input_specs

if TYPE_CHECKING:
    from nomul.backends.plan import Plan
    from nomul.backends.select import Choice, Selection

FORMAT = 1
FACTS = "facts.json"  # the file in a dump
_STRUCTURE = ("call", "exec.run", "exec.view")


def source_facts(module: Module, name: str) -> dict[str, Any]:
    """What only the source model tells; a dump keeps it. name: of the artifact."""
    return {
        "name": name,
        "origin": module.origin,
        "inputs": [_input(spec) for spec in input_specs(module)],
        "ops": op_counts(module),
    }


def describe(module: Module, selection: Selection, plan: Plan) -> dict[str, Any]:
    """Facts of a compiled model, beside those that the linker notes (name, target, level names, steps, weights image).

    module: at level "exec" with planned slots, and with the facts of its source where they are known."""
    source = module.source or source_facts(module, plan.name)
    choices = {id(choice): index for index, choice in enumerate(selection.unique)}
    runs = [node for node in module.main.nodes if node.op == "exec.run"]
    return {
        "format": FORMAT,
        "origin": source["origin"],
        "inputs": _known_inputs(module, source),
        "outputs": [{"name": p.name, "dtype": str(p.dtype), "shape": _shape(p.shape)} for p in plan.outputs],
        "dims": dims_facts(plan.dims),
        "level_facts": [
            {"name": lvl.name, "features": list(lvl.features), "object_bytes": len(lvl.object)} for lvl in plan.levels
        ],
        "source_ops": source["ops"],
        "ops": op_counts(module),
        "weights_table": weight_facts(module.weights.values()),
        "weights_bytes": len(plan.weights),
        "encoded": module.source.get("encoded", []),
        "exchanged": list(module.source.get("exchanged", [])),
        "notes": list(module.source.get("notes", [])),
        "kernels": [_kernel(choice, runs, selection) for choice in selection.unique],
        "runs": [_run(node, choices[id(selection.choices[node.attrs["func"]])]) for node in runs],
        "slots": [[str(size) for size in sizes] for sizes in plan.slots],
        "thread_scratch": sorted({str(step.scratch) for step in plan.steps}),
        "ir": print_module(module),
    }


def describe_module(module: Module) -> dict[str, Any]:
    """The part of the facts that a module alone has."""
    weights = weight_facts(module.weights.values())
    return {
        "format": FORMAT,
        "origin": module.origin,
        "inputs": [_input(spec) for spec in input_specs(module)],
        "outputs": [{"name": value.name, **_type(value)} for value in module.main.returns],
        "dims": dims_facts(module.dims),
        "ops": op_counts(module),
        "weights_table": weights,
        "weights_bytes": sum(fact["bytes"] for fact in weights),
        "ir": print_module(module),
    }


def op_counts(module: Module) -> dict[str, int]:
    """How often each op runs in one run of @main, fused groups opened; most frequent first."""
    counts: Counter[str] = Counter()
    for node in module.main.nodes:
        callee = node.attrs["func"] if node.op in _STRUCTURE[:2] else None
        counts.update(inner.op for inner in module.funcs[callee].nodes) if callee else counts.update([node.op])
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def weight_facts(weights: Iterable[Weight]) -> list[dict[str, Any]]:
    """Name, type and stored bytes of each weight."""
    return [
        {
            "name": weight.name,
            "dtype": str(weight.dtype),
            "shape": _shape(weight.shape),
            "encoding": str(weight.type.encoding) if weight.type.encoding else None,
            "bytes": sum(array.nbytes for array in weight.fields.values()),
        }
        for weight in weights
    ]


def number_facts(weight: Weight) -> dict[str, float]:
    """Least and largest number of a weight and its share of zeros; empty without data or without elements."""
    array = weight.array() if weight.fields else np.empty(0)
    if not array.size:
        return {}
    low, high = float(array.min()), float(array.max())
    return {"min": low, "max": high, "zeros": 1.0 - float(np.count_nonzero(array)) / array.size}


def dims_facts(dims: dict[str, Range]) -> dict[str, list[int | None]]:
    """Ranges as [lowest, highest], null for no bound."""
    return {name: [int(low), None if high == inf else int(high)] for name, (low, high) in dims.items()}


def _known_inputs(module: Module, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As the source has them: passes may hide what an integer indexes. Where the IR was edited, as it is."""
    found, known = [_input(spec) for spec in input_specs(module)], source["inputs"]
    ports = [[(port["name"], port["dtype"], port["shape"]) for port in inputs] for inputs in (found, known)]
    return known if ports[0] == ports[1] else found


def _input(spec: InputSpec) -> dict[str, Any]:
    """One input with the bounds of its integer values."""
    type = spec.type
    return {
        "name": spec.name,
        "dtype": str(type.dtype),
        "shape": _shape(type.shape),
        "low": spec.low,
        "high": spec.high,
    }


def _type(value: Value) -> dict[str, Any]:
    return {"dtype": str(value.dtype), "shape": _shape(value.shape)}


def _shape(shape: Iterable[object]) -> list[str]:
    return [str(size) for size in shape]


def _kernel(choice: Choice, runs: list[Node], selection: Selection) -> dict[str, Any]:
    uses = sum(selection.choices[node.attrs["func"]] is choice for node in runs)
    names = {target.level: kernel.name for target, kernel in zip(choice.levels, choice.kernels, strict=True)}
    return {
        "kernels": names,
        "code": list(choice.code_levels),
        "generic": choice.is_generic,
        "ops": [node.op for node in choice.group.func.nodes],
        "uses": uses,
        "rejected": [list(pair) for pair in choice.rejected],
    }


def _run(node: Node, kernel: int) -> dict[str, Any]:
    results = [f"{value} : {value.type}" for value in node.results]
    return {"results": results, "kernel": kernel, "loc": node.loc, "slots": list(node.attrs["slots"])}
