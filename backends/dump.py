"""What `--dump` shows of the kernels: which was chosen for each group and why, their lowered code, and model.c."""

from __future__ import annotations

from collections.abc import Callable

from nomul.backends.build import kernel_symbols
from nomul.backends.driver import emit_driver
from nomul.backends.lower import lower_to_text
from nomul.backends.plan import Plan
from nomul.backends.select import Selection

Write = Callable[[str, str], object]


def selection_table(selection: Selection) -> str:
    """One line for each private function and its kernel; below it those that were refused, with the reason."""
    symbols = kernel_symbols(selection)
    lines = []
    for name, choice in selection.choices.items():
        lines.append(f"@{name}: {choice.label} as {symbols[id(choice)]}, {choice.built[0].tiles} tiles")
        lines += [f"    not {kernel}: {reason}" for kernel, reason in choice.rejected]
    return "\n".join(lines) + "\n"


def dump_kernels(selection: Selection, plan: Plan, write: Write) -> None:
    """Files kernels.txt, model.c and kernels/SYMBOL__LEVEL.{tir,ll,s}."""
    write("kernels.txt", selection_table(selection))
    write("model.c", emit_driver(plan))
    symbols = kernel_symbols(selection)
    for choice in selection.unique:
        for target, built in zip(choice.levels, choice.built, strict=True):
            symbol = f"{symbols[id(choice)]}__{target.level}"
            for kind, text in lower_to_text(built.function, target, symbol).items():
                write(f"kernels/{symbol}.{kind}", text)
