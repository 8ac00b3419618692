"""What `--dump` shows of the kernels: which was chosen for each group, and why not another."""

from __future__ import annotations

from nomul.backends.build import kernel_symbols
from nomul.backends.select import Selection
from nomul.ir.graph import Module


def selection_table(selection: Selection) -> str:
    """One line for each private function and its kernel; below it those that were refused, with the reason."""
    symbols = kernel_symbols(selection)
    lines = []
    for name, choice in selection.choices.items():
        code = f"code for {', '.join(choice.code_levels)}"
        lines.append(f"@{name}: {choice.label} as {symbols[id(choice)]}, {choice.built[0].tiles} tiles, {code}")
        lines += [f"    not {kernel}: {reason}" for kernel, reason in choice.rejected]
    return "\n".join(lines) + "\n"


def rejections(module: Module, selection: Selection) -> list[str]:
    """A line for each kernel that was refused: for which group (the first of equal ones), at which layer, and why."""
    lines, seen = [], set()
    for node in module.main.nodes:
        choice = selection.choices.get(node.attrs.get("func", ""))
        if choice is None or id(choice) in seen:
            continue
        seen.add(id(choice))
        place = f" ({node.loc})" if node.loc else ""
        where = f"@{node.attrs['func']}, {node.results[0]}{place}"
        lines += [f"{kernel} for {where}: {reason}; taken: {choice.label}" for kernel, reason in choice.rejected]
    return lines
