"""Frontends: one package for each kind of source model. torch and onnx are imported only below here, when used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nomul.ir.graph import Module

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nomul.frontend.common import DimRequest

__all__ = ["import_onnx", "import_torch"]


def import_onnx(source: Any, *, dims: Mapping[str, DimRequest] | None = None) -> Module:
    """A module from an ONNX file, its bytes or a ModelProto; see `nomul.frontend.onnx.importer.import_onnx`."""
    from nomul.frontend.onnx.importer import import_onnx as run

    return run(source, dims=dims)


def import_torch(model: Any, example_inputs: Any = None, **options: Any) -> Module:
    """A module from a PyTorch model, an ExportedProgram or a `.pt2` file; see `nomul.frontend.torch`."""
    from nomul.frontend.torch import import_torch as run

    return run(model, example_inputs, **options)
