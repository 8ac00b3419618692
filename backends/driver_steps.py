"""The part of model.c about work: kernel tables and thunks, the layout of the arena, and the steps in order."""

from __future__ import annotations

from collections.abc import Iterable

from nomul.backends import c_text
from nomul.backends.driver_ports import DimNames
from nomul.backends.plan import Location, Plan, Step
from nomul.ir.dim import Dim

_MACROS = """\
#define INPUT(index) ((uint8_t *)run->inputs[index].data)
#define OUTPUT(index) ((uint8_t *)run->outputs[index].data)
#define SLOT(index) (run->arena + slot[index])
#define WEIGHT(offset) ((void *)(uintptr_t)(run->weights + (offset))) /* kernels only read weights */
"""


def emit_kernels(plan: Plan, names: DimNames) -> str:
    """The type of a kernel table, the tables, and the thunks."""
    steps = kernels(plan)
    fields = "".join(f"  int32_t (*{step.symbol}){_parameters(step)};\n" for step in steps)
    text = [f"typedef struct {{\n{fields or '  int unused;' + chr(10)}}} kernel_table;\n"]
    own = [(step, level.name) for level in plan.levels for step in steps if step.symbol not in level.borrowed]
    text.append("".join(f"extern NM_HIDDEN int32_t {step.symbol}__{name}{_parameters(step)};\n" for step, name in own))
    tables = set(kernel_tables(plan).values())
    for level in plan.levels:
        if level.name in tables:
            rows = "".join(f"  .{step.symbol} = {step.symbol}__{level.owner(step.symbol)},\n" for step in steps)
            rows = rows or "  .unused = 0,\n"
            text.append(f"static const kernel_table kernels_{level.name} = {{\n{rows}}};\n")
    thunks = [_thunk(symbol, dims, step, names) for (symbol, dims), step in _thunk_steps(plan).items()]
    return "\n".join([*text, "/* Each calls one kernel, through the table of the level. */", *thunks])


def kernel_tables(plan: Plan) -> dict[str, str]:
    """For each level the one whose table it uses: the lowest one with the same kernels."""
    owners = {level.name: tuple(level.owner(step.symbol) for step in kernels(plan)) for level in plan.levels}
    lowest = {owner: name for name, owner in owners.items()}
    return {name: lowest[owner] for name, owner in owners.items()}


def kernels(plan: Plan) -> list[Step]:
    """The first step of each kernel. Raises ValueError where two steps call one kernel in different ways."""
    found: dict[str, Step] = {}
    for step in plan.steps:
        first = found.setdefault(step.symbol, step)
        if (len(first.args), len(first.dims)) != (len(step.args), len(step.dims)):
            raise ValueError(f"steps call {step.symbol} with different numbers of arguments")
    return list(found.values())


def _parameters(step: Step) -> str:
    return f"({', '.join(['void *'] * len(step.args) + ['int64_t'] * (len(step.dims) + 2) + ['void *'])})"


def _thunk_steps(plan: Plan) -> dict[tuple[str, tuple[str, ...]], Step]:
    """The first step of each kernel with the same dims."""
    found: dict[tuple[str, tuple[str, ...]], Step] = {}
    for step in plan.steps:
        found.setdefault((step.symbol, step.dims), step)
    return found


def _thunk_name(symbol: str, dims: tuple[str, ...], names: DimNames) -> str:
    return "__".join([f"call_{symbol}", *(names.local[name] for name in dims)])


def _thunk(symbol: str, dims: tuple[str, ...], step: Step, names: DimNames) -> str:
    args = [f"args[{i}]" for i in range(len(step.args))] + [f"run->dims[{names.index[name]}]" for name in dims]
    call = ", ".join([*args, "begin", "end", "scratch"])
    return (
        f"static int32_t {_thunk_name(symbol, dims, names)}(const nm_run *run, void *const *args, int64_t begin,\n"
        f"    int64_t end, void *scratch) {{\n"
        f"  return ((const kernel_table *)run->kernels)->{symbol}({call});\n}}\n"
    )


def emit_layout(plan: Plan, names: DimNames) -> str:
    """Functions for the offsets of the slots, the size of the arena and the scratch of a thread."""
    lines = []
    for number, sizes in enumerate(plan.slots):
        lines.append(f"  slot[{number}] = end;\n  end += nm_round_up({_maximum(sizes, names)});\n")
    scratch = _maximum([step.scratch for step in plan.steps], names)
    return (
        "/* Offsets of the arena slots in bytes; returns the size of the arena. */\n"
        "static int64_t layout(const int64_t *dims, int64_t *slot) {\n  (void)dims, (void)slot;\n"
        f"{names.locals([size for slot in plan.slots for size in slot])}"
        f"  int64_t end = 0;\n{''.join(lines)}  return end;\n}}\n\n"
        "static int64_t arena_size(const int64_t *dims) {\n"
        "  int64_t slot[SLOT_COUNT];\n  return layout(dims, slot);\n}\n\n"
        "static int64_t thread_scratch_size(const int64_t *dims) {\n  (void)dims;\n"
        f"{names.locals([step.scratch for step in plan.steps])}  return nm_round_up({scratch});\n}}\n"
    )


def _maximum(sizes: Iterable[Dim], names: DimNames) -> str:
    kept: list[Dim] = []
    for size in dict.fromkeys(sizes):
        if any(_never_larger(size, other, names) for other in kept):
            continue
        kept = [other for other in kept if not _never_larger(other, size, names)] + [size]
    text = names.text(kept[0]) if kept else "0"
    for size in kept[1:]:
        text = f"nm_max({text}, {names.text(size)})"
    return text


def _never_larger(size: Dim, other: Dim, names: DimNames) -> bool:
    return (other - size).bounds(names.ranges)[0] >= 0


def emit_steps(plan: Plan, names: DimNames) -> str:
    """The run function: every step in order."""
    used = [dim for step in plan.steps for dim in (step.tiles, *(arg.offset for arg in step.args))]
    body = "\n".join(_step(number, step, names) for number, step in enumerate(plan.steps))
    return (
        f"{_MACROS}\nstatic nm_status steps(const nm_run *run) {{\n  int64_t slot[SLOT_COUNT];\n"
        f"  layout(run->dims, slot);\n{names.locals(used, 'run->dims')}\n{body}  return NM_OK;\n}}\n"
    )


def _step(number: int, step: Step, names: DimNames) -> str:
    args = ", ".join(_argument(arg, names) for arg in step.args)
    return (
        f"  {c_text.comment(f'{number}: {step.comment}')}\n"
        f"  NM_STEP({number}, {_thunk_name(step.symbol, step.dims, names)}, {names.text(step.tiles)}, {step.grain}, "
        f"{args});\n"
    )


def _argument(location: Location, names: DimNames) -> str:
    offset = names.text(location.offset)
    if location.kind == "weight":
        return f"WEIGHT({offset})"
    place = f"{location.kind.upper()}({location.index})"
    return place if location.offset == 0 else f"{place} + ({offset})"
