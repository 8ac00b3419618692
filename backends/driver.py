"""Writes model.c: a Plan as readable C over the runtime (`runtime/nomul_rt.h`); knows nothing of ops."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from nomul.backends import c_text
from nomul.backends.driver_ports import DimNames, check_limits, emit_ports
from nomul.backends.driver_sizes import closed_ranges
from nomul.backends.driver_steps import emit_kernels, emit_layout, emit_steps, kernel_tables
from nomul.backends.plan import Level, Plan
from nomul.backends.weights_image import MAGIC, VERSION, WeightsImage
from nomul.ir.errors import NomulError


def emit_driver(plan: Plan, *, external_weights: bool = False) -> str:
    """The text of model.c, to link with the runtime, the levels' objects and, unless external, a weights image.

    Raises NomulError where a dim is bound by no input, sizes overflow 64 bits, or a level names an unknown feature."""
    check_limits(plan)
    names = DimNames(closed_ranges(plan))
    sections = [
        f"/* model.c: {c_text.comment(plan.name)[3:-3]} for {c_text.comment(plan.target)[3:-3]}, written by nomul.\n"
        " * In order: dims and ports, kernels and how they are called, memory, the steps, and the table of it all. */\n"
        '#include "nomul_rt.h"\n',
        "" if external_weights else "extern NM_HIDDEN const uint8_t nm_weights[];\n",
        emit_ports(plan, names),
        emit_kernels(plan, names),
        f"enum {{ SLOT_COUNT = {max(1, len(plan.slots))} }};\n",
        emit_layout(plan, names),
        emit_steps(plan, names),
        _levels(plan),
        _program(plan, names, WeightsImage(plan.weights), external_weights),
    ]
    return "\n".join(section for section in sections if section)


@cache
def known_features() -> dict[str, str]:
    """The CPU features that the runtime can look for: name -> C name, read from the one table in nomul_rt.h."""
    header = files("nomul.runtime").joinpath("nomul_rt.h").read_text()
    return {name: identifier for identifier, name in re.findall(r'^  FEATURE\((\w+), "([^"]+)"', header, re.MULTILINE)}


def _feature_set(level: Level) -> str:
    known = known_features()
    unknown = [name for name in level.features if name not in known]
    if unknown:
        message = f"level {level.name} needs {', '.join(unknown)}, which the runtime cannot look for"
        raise NomulError("NM504", message, help=f"it knows {', '.join(sorted(known))}")
    return " | ".join(f"NM_CPU({known[name]})" for name in level.features) or "0"


def _levels(plan: Plan) -> str:
    levels, tables = plan.levels, kernel_tables(plan)
    rows = [f"{{{c_text.string(level.name)}, {c_text.string(' '.join(level.features))}}}" for level in levels]
    return "\n".join(
        [
            c_text.table("nm_level level_table", rows),
            c_text.table("uint64_t feature_table", [_feature_set(level) for level in levels]),
            c_text.table("void *const kernel_tables", [f"&kernels_{tables[level.name]}" for level in levels]),
        ]
    )


def _program(plan: Plan, names: DimNames, weights: WeightsImage, external: bool) -> str:
    digest = ", ".join(f"0x{byte:02x}" for byte in weights.digest)
    magic = ", ".join(f"'{chr(byte)}'" for byte in MAGIC)
    kernels = c_text.table_name("kernel_tables", plan.levels)
    features = c_text.table_name("feature_table", plan.levels)
    return f"""\
const nm_program nm_the_program = {{
    .model = {{
        .abi = NM_ABI, .size = sizeof(nm_model),
        .name = {c_text.string(plan.name)}, .target = {c_text.string(plan.target)},
        .inputs = {c_text.table_name("input_table", plan.inputs)}, .input_count = {len(plan.inputs)},
        .outputs = {c_text.table_name("output_table", plan.outputs)}, .output_count = {len(plan.outputs)},
        .dims = {c_text.table_name("dim_table", names.ranges)}, .dim_count = DIM_COUNT,
        .levels = {c_text.table_name("level_table", plan.levels)}, .level_count = {len(plan.levels)},
        .step_count = {len(plan.steps)},
        .weights_external = {int(external)}, .weights_size = {weights.size},
        .weights = {"NULL" if external else "nm_weights"},
        NM_RUNTIME_FUNCTIONS,
    }},
    .weights_header = {{{{{magic}}}, {VERSION}, {len(weights.header)}, {len(weights.payload)}, {{{digest}}}, {{0}}}},
    .kernels = {kernels}, .features = {features},
    .bind = bind, .input_shape = input_shape, .output_shape = output_shape,
    .arena_size = arena_size, .thread_scratch_size = thread_scratch_size, .steps = steps,
}};
"""
