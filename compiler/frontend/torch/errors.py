"""What is wrong with a source model, collected while it is imported, with the line of Python that it comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from nomul.ir.errors import Problem

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_LIBRARY = re.compile(r"[/\\]torch[/\\](nn|_|fx|export|utils|overrides|ops|library)")


class Unsupported(Exception):
    """One node cannot be lowered. The importer adds where it is and goes on, so that all problems come at once."""

    def __init__(self, code: str, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.help = help


def _frames(stack_trace: str) -> Iterator[tuple[str, str]]:
    for found in _FRAME.finditer(stack_trace):
        yield found["file"], found["line"]


def source_line(stack_trace: str | None) -> str | None:
    """`file.py:12`, the innermost frame of a stack trace that is not torch's own."""
    frames = list(_frames(stack_trace or ""))
    own = [frame for frame in frames if not _LIBRARY.search(frame[0])] or frames
    return f"{os.path.basename(own[-1][0])}:{own[-1][1]}" if own else None


def module_path(node: Any) -> str:
    """The path of the module that a node of the graph was traced in, `` for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return re.sub(r"\[['\"]?(\w+)['\"]?\]", r".\1", path).replace("L['self'].", "").strip(".")


def node_loc(node: Any, op: str) -> str:
    """The source layer of a node: `layers.0.self_attn.q_proj:linear`."""
    path = module_path(node)
    return f"{path}:{op}" if path else op


def problem(node: Any, op: str, code: str, message: str, help: str | None = None) -> Problem:
    """A problem with one node of the exported graph."""
    line = source_line(node.meta.get("stack_trace"))
    return Problem(code, message, node_loc(node, op) + (f" ({line})" if line else ""), help)
