"""The road to portable C sources: the phases of `pipeline.py`, generic kernels, and a folder instead of a library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nomul.backends.build import build_plan, kernel_symbols
from nomul.backends.driver import emit_driver
from nomul.backends.plan import Level
from nomul.backends.portable_c.folder import write_folder
from nomul.backends.portable_c.kernels import kernels_text
from nomul.backends.portable_c.targets import PORTABLE, find_c_target
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.options import Options
from nomul.pipeline import PASSES_SHARE, pass_runner, schedule


def build_sources(module: Module, options: Options) -> Path:
    """Compile a module to the folder `options.output`. Raises NomulError."""
    assert options.output is not None
    target = find_c_target(options.targets)
    if options.strict:
        raise NomulError("NM405", "portable C has only generic kernels", help="leave out --strict")
    runner = pass_runner(options, share=PASSES_SHARE)
    module, selection = schedule(module, options, (PORTABLE,), runner)
    kernels = kernels_text(selection, kernel_symbols(selection))
    plan = build_plan(module, selection, options.name, lower=lambda *_: (Level(PORTABLE.level, (), b""),))
    plan = replace(plan, target=target.name)
    if runner.dump:
        runner.dump.write("model.c", emit_driver(plan))
        runner.dump.write("kernels.c", kernels)
    options.progress("write", 0.9)
    write_folder(
        plan,
        kernels,
        options.output,
        target,
        weights=options.weights,
        array_limit=options.array_limit,
        facts={name: list(module.source.get(name, ())) for name in ("exchanged", "notes")},
    )
    options.progress("done", 1.0)
    return options.output
