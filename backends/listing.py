"""Cuts the text of a compiled object into one piece for each function: lowered TIRx, LLVM IR and assembly."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

Show = Callable[[str, str, str], object]  # function, kind of text, text
_LL_HEAD = re.compile(r"^define .*@([\w.]+)\(", re.MULTILINE)
_LL_CONTEXT = re.compile(r"^(?:declare|attributes|@|%).*\n", re.MULTILINE)
_LABEL = re.compile(r"^([\w.]+):.*$", re.MULTILINE)
_ASM_NOISE = re.compile(r"^(?:\t\.(?:loc|cfi_\w+)\b.*|\.?L(?:tmp|func_begin)\d+:.*)\n", re.MULTILINE)
_ASM_END = re.compile(r"^\.?Lfunc_end\d+:.*\n", re.MULTILINE)
_PRIVATE = "_internal_"  # in front of the names of shared functions
_MARKS = ("", "_", ".L", "L", "L_", "l_")  # of ELF and Mach-O in front of names, private ones too


def show_functions(lowered: Any, module: Any, show: Show, brief: bool = False) -> None:
    """Show each function as "tir", "ll" and "s". lowered: IRModule; module: what LLVM made of it, optimised.

    brief: only "ll", which costs next to nothing; assembly is half of LLVM's work once more."""
    functions = {variable.name_hint: function for variable, function in lowered.functions.items()}
    for name, text in split_llvm(module.inspect_source("ll")).items():
        if name in functions:
            show(name, "ll", text)
    if brief:
        return
    for name, function in functions.items():
        show(name, "tir", function.script() + "\n")
    for name, text in split_assembly(module.inspect_source("s"), list(functions)).items():
        show(name, "s", text)


def split_llvm(text: str) -> dict[str, str]:
    """Each function of a module in LLVM's text form, without debug data."""
    found = {}
    for head in _LL_HEAD.finditer(text):
        end = text.index("\n}\n", head.start()) + 3
        found[head[1].removeprefix(_PRIVATE)] = re.sub(
            r",? !dbg !\d+|^ +#dbg_\w+\(.*\)\n", "", text[head.start() : end], flags=re.MULTILINE
        )
    return found


def split_assembly(text: str, names: Sequence[str]) -> dict[str, str]:
    """Each of the named functions with its constants, without debug data."""
    wanted = {f"{mark}{private}{name}": name for name in names for mark in _MARKS for private in ("", _PRIVATE)}
    found = {}
    for label in _LABEL.finditer(text):
        name = wanted.get(label[1])
        if name is None or name in found:
            continue
        end = _ASM_END.search(text, label.end())
        stop = end.start() if end else len(text)
        found[name] = _ASM_NOISE.sub("", text[_start(text, label.start()) : stop])
    return found


def _start(text: str, label: int) -> int:
    """Where the directives and constants in front of a label begin: behind the function before it."""
    before = list(_ASM_END.finditer(text, 0, label))
    return text.find("\n\n", before[-1].end(), label) + 2 if before else 0
