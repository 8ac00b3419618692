"""PyTorch frontend: torch.export's graph becomes a module of the IR. `import_torch` is the door."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nomul.frontend.common import DimRequest
from nomul.frontend.torch.dynamic import Dynamic
from nomul.frontend.torch.importer import Importer
from nomul.frontend.torch.program import decompose, load_or_export
from nomul.frontend.torch.qat.imported import store_trained
from nomul.frontend.torch.qat.prepare import is_prepared, taken_apart
from nomul.ir.graph import Module

__all__ = ["import_torch"]


def import_torch(
    model: Any,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    dims: Mapping[str, DimRequest] | None = None,
) -> Module:
    """A module (level "tensor") from a torch.nn.Module with example inputs, an ExportedProgram, or a `.pt2` file.

    example_inputs: a tuple of arguments for forward, one tensor, or a dict of keyword arguments. example_kwargs: more.
    dynamic_shapes: what torch.export takes, with names allowed in place of Dims: {"input_ids": {0: "B", 1: "S"}};
    arguments left out are static. dims: {"S": (1, 512)} gives the range of a name (default 1 to 4096), {"B": 1} a size.
    For a saved program, dynamic_shapes only names the axes that are dynamic already.

    The model is exported in evaluation mode; one that `nomul.qat.prepare` has seen keeps its trained encodings.
    Raises NomulError with every problem of the model at once: operators
    without lowering (NM201), forms that are not supported (NM202), shapes that depend on data (NM203), dims that do
    not fit (NM206).
    """
    if is_prepared(model):
        model, trained = taken_apart(model)
    else:
        trained = []
    args, kwargs = _arguments(example_inputs, example_kwargs)
    dynamic = Dynamic(dynamic_shapes, dims)
    program = load_or_export(model, args, kwargs, dynamic)
    program = decompose(program, trusted=not isinstance(model, str | os.PathLike))
    return store_trained(Importer(program, dynamic.symbols(program)).run(), trained)


def _arguments(inputs: Any, kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), {**inputs, **(kwargs or {})}
    if inputs is None:
        return (), dict(kwargs or {})
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), dict(kwargs or {})
