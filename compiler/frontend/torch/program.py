"""From what the user has (a module and inputs, an ExportedProgram, a `.pt2`) to a decomposed ExportedProgram."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nomul.frontend.common import BAD_SOURCE, DATA_DEPENDENT
from nomul.frontend.torch.archive import load_program
from nomul.frontend.torch.dynamic import Dynamic
from nomul.frontend.torch.errors import source_line
from nomul.frontend.torch.flex import without_flex_attention, without_shortcuts, without_tiles
from nomul.frontend.torch.registry import further_decompositions, handler_of
from nomul.frontend.torch.support import is_plain, undecomposable_ops
from nomul.ir.errors import NomulError

_NO_TORCH_EXPORT = "see the message of torch.export below with --traceback"


def load_or_export(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Dynamic
) -> torch.export.ExportedProgram:
    """The program before decomposition. Raises NomulError for anything that is not a model."""
    if isinstance(model, torch.export.ExportedProgram):
        return model
    if isinstance(model, str | os.PathLike):
        with _quiet():
            return load_program(os.fspath(model))
    if not isinstance(model, torch.nn.Module):
        kind = type(model).__name__
        raise NomulError(
            BAD_SOURCE, f"a model is a torch.nn.Module, an ExportedProgram or the path of a .pt2 file, not {kind}"
        )
    if not args and not kwargs:
        raise NomulError(
            BAD_SOURCE,
            "a torch.nn.Module needs example inputs",
            help="pass example_inputs=(tensor, ...) of typical shapes",
        )
    return _export(model, args, kwargs, dynamic)


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Dynamic
) -> torch.export.ExportedProgram:
    args, kwargs, spec = dynamic.prepare(model, args, kwargs)
    with _inference(model), without_tiles(), without_shortcuts(), _quiet():
        try:
            return torch.export.export(model, args, kwargs, dynamic_shapes=spec, strict=False)
        except Exception as error:
            raise _export_error(error) from error


@contextmanager
def _inference(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode (as it was afterwards), no gradients, and no fused kernels of torch's own."""
    training = [module for module in model.modules() if module.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module in training:
            module.training = True


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _export_error(error: Exception) -> NomulError:
    """torch.export's failure in a line: what, at which source line, and what may help."""
    text = str(error)
    line = source_line(text)
    first = next((part.strip() for part in text.splitlines() if part.strip()), type(error).__name__)
    kind = type(error).__name__
    if "DataDependent" in kind or "data-dependent" in text:
        help = "a compiled model takes every branch before it runs: use torch.where, torch.cond is not supported"
        return NomulError(DATA_DEPENDENT, f"the model decides by data: {first}", line, help)
    if "Constraint" in text or "specialized" in text:
        return Dynamic.refused(text)
    return NomulError(BAD_SOURCE, f"torch.export cannot trace the model ({kind}): {first}", line, _NO_TORCH_EXPORT)


def decompose(program: torch.export.ExportedProgram, trusted: bool) -> torch.export.ExportedProgram:
    """The program in terms of the operators that have a lowering, as far as torch can decompose into them.

    torch runs a program on fake tensors to decompose it. Of one that is not trusted (from a file), every operator must
    be known before. Raises NomulError."""
    program = without_flex_attention(program)
    if is_plain(program):
        return program
    unknown = undecomposable_ops(program)
    if unknown and not trusted:
        raise NomulError.many(unknown)
    table = torch.export.default_decompositions()
    for target in list(table):
        if isinstance(target, torch._ops.OpOverload) and handler_of(target) is not None:
            table.pop(target)
    for target, function in further_decompositions().items():
        if handler_of(target) is None and target not in table:
            table[target] = function
    with _quiet(), torch.no_grad():
        try:
            return program.run_decompositions(table)
        except Exception as error:
            raise (NomulError.many(unknown) if unknown else _export_error(error)) from error
