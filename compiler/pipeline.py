"""The whole road from an imported module to files on disk: phases on tensors, kernels, arena, plan, C, linking."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nomul.backends.artifact import is_library, write_artifact
from nomul.backends.build import build_plan
from nomul.backends.driver import emit_driver
from nomul.backends.dump import rejections, selection_table
from nomul.backends.execute import own_outputs, to_calls, to_exec
from nomul.backends.listing import Show
from nomul.backends.plan import Plan
from nomul.backends.portable_c.targets import C_TARGETS
from nomul.backends.select import Selection, select
from nomul.backends.target import Target, find_targets
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module
from nomul.ir.verifier import verify
from nomul.options import Options, Progress, silent
from nomul.passes.dump import Dump
from nomul.passes.encode import Encode
from nomul.passes.plan_memory import PlanMemory
from nomul.passes.runner import PassRunner, Phase, place_behind
from nomul.phases import phases
from nomul.record import record
from nomul.report import FACTS, describe
from nomul.tuning import preferences
from nomul.with_torch import with_torch

PASSES_SHARE = 0.4  # of the whole work, for the progress report


@dataclass(frozen=True)
class Compiled:
    """Everything known of a module at level "exec": the module, the chosen kernels, the plan for the driver."""

    module: Module
    selection: Selection
    plan: Plan

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the artifact says of itself."""
        return describe(self.module, self.selection, self.plan)


def optimise(module: Module, options: Options) -> Module:
    """The module after the phases on tensors, or after `options.until`. Raises NomulError."""
    _refuse_late_recipe(module, options)
    return pass_runner(options).run(module, tensor_phases(options), options.until)


def build(module: Module, options: Options) -> Path:
    """Compile a module to `options.output` (a library, or a folder for the bundle). Raises NomulError."""
    assert options.output is not None
    compiled = lower_to_plan(module, options)
    options.progress("link", 0.9)
    facts = compiled.facts
    recording = None
    if not is_library(options.output):
        definition = module if options.recipe.is_empty else compiled.module
        same = [param.type for param in module.main.params] == [param.type for param in definition.main.params]
        recording = record(module if same else definition, definition)
    linked = write_artifact(
        compiled.plan,
        options.output,
        triple=compiled.selection.levels[0].zig,
        weights=options.weights,
        facts=facts,
        model_json={name: fact for name, fact in facts.items() if name != "ir"},
        recording=recording,
    )
    options.progress("done", 1.0)
    return linked.library


def lower_to_plan(module: Module, options: Options) -> Compiled:
    """All phases, kernel selection, arena and kernels' code. Raises NomulError.

    A module at level "exec", as a dump holds it, has its phases behind it; kernels and slots are chosen anew."""
    _refuse_portable(options)
    runner = pass_runner(options, share=PASSES_SHARE)
    module, selection = schedule(module, options, find_targets(options.targets), runner)
    dump = runner.dump
    plan = build_plan(module, selection, options.name, show=_show_code(dump) if dump else None)
    compiled = Compiled(module, selection, plan)
    if dump:
        dump.write("model.c", emit_driver(plan))
        dump.write(FACTS, json.dumps(compiled.facts | {"name": plan.name, "target": plan.target}, indent=1))
    return compiled


def _show_code(dump: Dump) -> Show:
    return lambda symbol, kind, text: dump.write(f"kernels/{symbol}.{kind}", text)


def _refuse_late_recipe(module: Module, options: Options) -> None:
    """Raises NomulError (NM019)."""
    known = phases()
    for name, rules in (("exchange", options.recipe.attention), ("encode", options.recipe.rules)):
        number = next(number for number, phase in enumerate(known) if phase.name == name)
        if rules and (module.level == "exec" or place_behind(known, module.after).phase > number):
            message = f"the module is behind the phase '{name}', so that a recipe comes too late"
            raise NomulError("NM019", message, help="leave out the recipe, or compile an earlier file of the dump")


def _refuse_portable(options: Options) -> None:
    for name in options.targets:
        if name in C_TARGETS:
            raise NomulError("NM402", f"'{name}' is a target of portable C, not of a library", help="add --emit c")


def schedule(
    module: Module, options: Options, levels: tuple[Target, ...], runner: PassRunner
) -> tuple[Module, Selection]:
    """The module at level "exec" with its slots, and its kernels. Raises NomulError."""
    _refuse_late_recipe(module, options)
    module = to_calls(module) if module.level == "exec" else runner.run(module, tensor_phases(options, PASSES_SHARE))
    options.progress("select", PASSES_SHARE)
    module, selection = choose_kernels(module, levels, options)
    runner.refusals = rejections(module, selection)
    if runner.dump:
        runner.dump.write("kernels.txt", selection_table(selection))
    module = runner.apply(module, PlanMemory(), "memory")
    options.progress("kernels", 0.5)
    return module, selection


def choose_kernels(module: Module, levels: tuple[Target, ...], options: Options) -> tuple[Module, Selection]:
    """The module at level "exec" and its kernels. Raises NomulError (NM404) with `strict` for generic kernels."""
    module = module.clone()
    own_outputs(module)
    selection = select(module, levels)
    if options.tune:
        options.progress("tune", PASSES_SHARE)
        selection = select(module, levels, preferences(module, selection, options))
    if options.strict:
        _refuse_generic(module, selection)
    module = to_exec(module, selection)
    verify(module)
    return module, selection


def _refuse_generic(module: Module, selection: Selection) -> None:
    problems = []
    for node in module.main.nodes:
        choice = selection.choices.get(node.attrs.get("func", ""))
        if choice is not None and choice.is_generic:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in choice.rejected) or "none is written for it"
            message = f"{node.results[0]} has only a generic kernel ({reasons})"
            problems.append(Problem("NM404", message, node.loc, "compile without --strict to accept it"))
    if problems:
        raise NomulError.many(problems)


def tensor_phases(options: Options, share: float = 1.0) -> list[Phase]:
    """The phases on tensors, as the options ask for. share: of the whole work, for the progress report."""
    names = [phase.name for phase in phases()]

    def progress(text: str, fraction: float) -> None:
        options.progress(text, share * (names.index("encode") + fraction) / len(names))

    return phases(encode_pass(options, progress))


def encode_pass(options: Options, progress: Progress = silent) -> Encode:
    """The pass that follows the recipe. Raises NomulError (NM007) for one that learns by blocks without PyTorch."""
    gradients = with_torch("nomul.frontend.torch.blocks", "TorchBlock") if options.recipe.by_block else None
    return Encode(options.recipe, options.batches, options.fits, progress, gradients)


def pass_runner(options: Options, share: float = 1.0) -> PassRunner:
    """Runs passes as the options ask for. share: of the whole work that the passes are, for the progress report."""

    def progress(phase: str, fraction: float) -> None:
        options.progress(phase, share * fraction)

    return PassRunner(Dump(options.dump) if options.dump else None, options.check, progress)
