"""Names of a model's outputs: keys of dicts and fields of result classes, else `output`, or `output_0` and so on."""

from __future__ import annotations

from typing import Any

import torch


def output_names(program: torch.export.ExportedProgram) -> list[str]:
    """One name per leaf of what the model returns, in order."""
    spec = program.call_spec.out_spec
    if spec is None:
        return [f"output_{number}" for number, _ in enumerate(program.graph_signature.user_outputs)]
    paths = _paths(spec)
    if paths == [[]]:
        return ["output"]
    if paths == [["0"]]:
        return ["output"]
    joined = [".".join(path) for path in paths]
    return [f"output_{name}" if name[0].isdigit() else name for name in joined]


def _paths(spec: Any) -> list[list[str]]:
    if spec.is_leaf():
        return [[]]
    children = spec.children()
    keys = _keys(spec, len(children))
    return [[key, *path] for key, child in zip(keys, children, strict=True) for path in _paths(child)]


def _keys(spec: Any, count: int) -> list[str]:
    """Names of a container's children: dict keys, fields of a named tuple or of a registered class, else numbers."""
    context = spec.context
    fields = getattr(context, "_fields", None)
    if fields is not None:
        return list(fields)
    if isinstance(context, list | tuple) and context and isinstance(context[0], list | tuple):
        context = context[0]  # dataclasses: (names, names of None fields)
    if isinstance(context, list | tuple) and len(context) == count and all(isinstance(key, str) for key in context):
        return list(context)
    return [str(number) for number in range(count)]
