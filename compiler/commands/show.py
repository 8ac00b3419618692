"""Shows what is in an artifact or a model (.so, .onnx, .pt2, .nir): ports, dims, ops, weights, kernels, memory."""

from __future__ import annotations

import argparse
import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

from nomul.arguments import add_dim_sizes
from nomul.console import count_text, say, say_exchanged, size_text, table

HELP = "show ports, ops, weights, kernels and memory of an artifact or a model"
SECTIONS = ("graph", "ops", "weights", "kernels", "memory")
MODEL_SUFFIXES = (".nir", ".onnx", ".pt2")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="an artifact, or a .onnx, .pt2 or .nir file")
    parser.add_argument("--graph", action="store_true", help="the IR; of an artifact, with kernels and arena slots")
    parser.add_argument(
        "--ops", action="store_true", help="how often each op runs, and operations and energy of layers"
    )
    parser.add_argument(
        "--weights", action="store_true", help="each weight with type, bytes and, of a model, its numbers"
    )
    parser.add_argument("--kernels", action="store_true", help="each kernel, and why better ones were not taken")
    parser.add_argument(
        "--memory", action="store_true", help="scratch memory for the sizes of --dim, and who lives where"
    )
    parser.add_argument("--json", action="store_true", help="print all facts as JSON")
    add_dim_sizes(parser)


def run(arguments: argparse.Namespace) -> int:
    facts = _facts(arguments.file, numbers=arguments.weights or arguments.json)
    if arguments.json:
        say(json.dumps(facts, indent=1))
        return 0
    wanted = [name for name in SECTIONS if getattr(arguments, name)]
    if not wanted:
        _overview(facts)
    for name in wanted:
        _SHOW[name](facts, arguments)
    return 0


def _facts(path: Path, numbers: bool) -> dict[str, Any]:
    from nomul.runtime.trailer import library_at, read_facts

    if path.suffix not in MODEL_SUFFIXES:
        return read_facts(library_at(path))
    from nomul.report import describe_module, number_facts
    from nomul.source import read_model

    module = read_model(path)
    facts = describe_module(module)
    if numbers:
        for fact, weight in zip(facts["weights_table"], module.weights.values(), strict=True):
            fact |= number_facts(weight)
    return {"name": path.stem} | facts


def _overview(facts: dict[str, Any]) -> None:
    say(f"{facts['name']}" + (f" for {facts['target']}" if "target" in facts else ""))
    if facts.get("origin"):
        say(f"from {facts['origin']}")
    ports = [(kind, *_port(port)) for kind in ("input", "output") for port in facts[f"{kind}s"]]
    table("", ("", "name", "type"), ports)
    if facts["dims"]:
        say("dims: " + ", ".join(f"{name} in [{low}, {high or 'any'}]" for name, (low, high) in facts["dims"].items()))
    say(f"ops: {sum(facts['ops'].values())} of {len(facts['ops'])} kinds")
    say(f"weights: {len(facts['weights_table'])} arrays, {size_text(facts['weights_bytes'])}")
    if "kernels" in facts:
        generic = sum(kernel["uses"] for kernel in facts["kernels"] if kernel["generic"])
        say(f"kernels: {len(facts['kernels'])} for {len(facts['runs'])} runs, {generic} runs by a generic kernel")
        say("levels: " + ", ".join(f"{lvl['name']} ({' '.join(lvl['features'])})" for lvl in facts["level_facts"]))
    say_exchanged(facts)


def _port(port: dict[str, Any]) -> tuple[str, str]:
    return port["name"], f"{port['dtype']}[{', '.join(port['shape'])}]"


def _ops(facts: dict[str, Any], arguments: argparse.Namespace) -> None:
    table("ops", ("runs", "op"), [(count, name) for name, count in facts["ops"].items()])
    _costs(facts, arguments)


def _costs(facts: dict[str, Any], arguments: argparse.Namespace) -> None:
    """What layers ask for at the sizes of --dim."""
    from nomul.energy import layer_costs
    from nomul.ir.parser import parse_module
    from nomul.sample import fact_dims, pick_dims

    dims = pick_dims(fact_dims(facts), dict(arguments.dim))
    costs = layer_costs(parse_module(facts["ir"]), dims)
    if not costs:
        return
    rows = [
        (
            *(count_text(count) for count in astuple(cost.work)),
            f"{cost.picojoules / 1e6:.2f}",
            f"{cost.dense_picojoules / 1e6:.2f}",
            cost.encoding,
            cost.act,
            cost.loc or cost.op,
        )
        for cost in costs
    ]
    sizes = " ".join(f"{name}={size}" for name, size in dims.items())
    columns = ("multiply", "add", "shift", "look up", "scale", "uJ", "uJ in f32", "weights", "inputs", "layer")
    table(f"operations of layers{', ' + sizes if sizes else ''}", columns, rows)
    spent, dense = (sum(each) / 1e6 for each in zip(*((c.picojoules, c.dense_picojoules) for c in costs), strict=True))
    say(f"energy of these operations, 45 nm, without look-ups and memory: {spent:.2f} uJ; in f32 {dense:.2f} uJ")


def _weights(facts: dict[str, Any], arguments: argparse.Namespace) -> None:
    rows = [
        (
            size_text(w["bytes"]),
            f"{w['dtype']}[{', '.join(w['shape'])}]",
            w["encoding"] or "dense",
            *_numbers(w),
            w["name"],
        )
        for w in sorted(facts["weights_table"], key=lambda weight: -weight["bytes"])
    ]
    table("weights", ("bytes", "type", "encoding", "min", "max", "zeros", "name"), rows)


def _numbers(weight: dict[str, Any]) -> tuple[str, str, str]:
    if "zeros" not in weight:
        return "-", "-", "-"
    return f"{weight['min']:.4g}", f"{weight['max']:.4g}", f"{weight['zeros']:.1%}"


def _graph(facts: dict[str, Any], arguments: argparse.Namespace) -> None:
    say(facts["ir"].rstrip())


def _kernels(facts: dict[str, Any], arguments: argparse.Namespace) -> None:
    for kernel in sorted(facts.get("kernels", []), key=lambda kernel: -kernel["uses"]):
        names = dict.fromkeys(kernel["kernels"].values())
        say(f"{kernel['uses']} x {' + '.join(kernel['ops'])}: {', '.join(names)}; code for {', '.join(kernel['code'])}")
        for rejected, reason in kernel["rejected"]:
            say(f"      not {rejected}: {reason}")
    runs = [(run["loc"] or "", ", ".join(run["results"]), run["kernel"]) for run in facts.get("runs", [])]
    table("runs", ("source layer", "results", "kernel"), runs)


def _memory(facts: dict[str, Any], arguments: argparse.Namespace) -> None:
    say(f"weights: {size_text(facts['weights_bytes'])}")
    if "slots" in facts:
        _arena(facts, arguments)
    _lives(facts)


def _arena(facts: dict[str, Any], arguments: argparse.Namespace) -> None:
    from nomul.memory import scratch_bytes
    from nomul.sample import fact_dims, facts_fit, pick_dims

    dims = pick_dims(fact_dims(facts), dict(arguments.dim), facts_fit(facts))
    sizes = " ".join(f"{name}={size}" for name, size in dims.items())
    say(f"scratch, one thread{', ' + sizes if sizes else ''}: {size_text(scratch_bytes(facts, dims))}")
    rows = [(index, " | ".join(sizes)) for index, sizes in enumerate(facts["slots"])]
    table("arena slots: bytes of the values that share one", ("slot", "bytes"), rows)


def _lives(facts: dict[str, Any]) -> None:
    """Which kernel result lies in which slot, from the step that writes it to the last one that reads it."""
    from nomul.ir.parser import parse_module
    from nomul.passes.plan_memory import OUTPUT, storages_of

    module = parse_module(facts["ir"])
    if module.level != "exec":
        return
    storages, rows = storages_of(module.main), []
    for step, node in enumerate(module.main.nodes):
        for value, slot in zip(node.results, node.attrs.get("slots", ()), strict=False):
            place = "output" if slot == OUTPUT else str(slot)
            rows.append((place, step, storages[value].last, str(value.type.bytes), str(value)))
    table("memory map", ("slot", "written at", "needed until", "bytes", "value"), rows)


_SHOW = {"graph": _graph, "ops": _ops, "weights": _weights, "kernels": _kernels, "memory": _memory}
