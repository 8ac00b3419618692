"""Which frontend reads a model: by file name, or by the type of the object. Frontends are imported only when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nomul.frontend.common import BAD_DIM, DimRequest, dim_range
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module

Dims = Mapping[str, DimRequest]
READABLE = "an .onnx file, a .pt2 file of torch.export.save, or a .nir file of nomul"


def read_model(model: Any, example_inputs: Any = None, dims: Dims | None = None, **options: Any) -> Module:
    """The module of a path, an ONNX ModelProto, a torch Module or ExportedProgram, or a module itself.

    example_inputs, options: for torch only, see `nomul.frontend.torch.import_torch`. dims: sizes or (lowest, highest)
    of named dims. Raises NomulError (NM003, NM004, NM007, or as the frontend) for a source that no frontend reads.
    """
    module = _read(model, example_inputs, dict(dims or {}), options)
    names = tuple(value.name or f"output_{index}" for index, value in enumerate(module.main.returns))
    module.main.result_names = module.main.result_names or names  # passes may rename values
    return module


def _read(model: Any, example_inputs: Any, ranges: dict[str, DimRequest], options: dict[str, Any]) -> Module:
    if isinstance(model, Module):
        return with_ranges(model, ranges)
    if isinstance(model, str | Path):
        return _read_file(Path(model), example_inputs, ranges, options)
    kind = _framework(model)
    if kind == "torch":
        return _torch(model, example_inputs, ranges, options)
    if kind == "onnx":
        return _onnx(model, ranges)
    raise NomulError("NM004", f"cannot compile a {type(model).__name__}", help=f"give {READABLE}, or the model object")


def model_name(model: Any) -> str:
    """A short name for the artifact: the file's, or the class's."""
    return Path(model).stem if isinstance(model, str | Path) else type(model).__name__


def with_ranges(module: Module, ranges: Dims) -> Module:
    """A copy of the module with other ranges. Raises NomulError (NM206) for an empty one or an unknown dim."""
    unknown = [name for name in ranges if name not in module.dims]
    if unknown:
        known = ", ".join(module.dims) or "none"
        raise NomulError(BAD_DIM, f"the model has no dim {', '.join(unknown)}", help=f"its dims: {known}")
    copy = module.clone()
    copy.dims.update({name: dim_range(name, request) for name, request in ranges.items()})
    return copy


def _read_file(path: Path, example_inputs: Any, ranges: dict[str, DimRequest], options: Any) -> Module:
    if not path.is_file():
        raise NomulError("NM003", f"there is no file {path}")
    if path.suffix == ".onnx":
        return _onnx(path, ranges)
    if path.suffix == ".nir":
        from nomul.nir import read_nir

        return with_ranges(read_nir(path), ranges)
    if path.suffix in (".pt2", ".pt", ".pth"):
        return _torch(path, example_inputs, ranges, options)
    raise NomulError("NM004", f"{path} has the unknown suffix '{path.suffix}'", help=f"give {READABLE}")


def _onnx(model: Any, ranges: dict[str, DimRequest]) -> Module:
    from nomul.frontend import import_onnx

    return import_onnx(model, dims=ranges)


def _torch(model: Any, example_inputs: Any, ranges: dict[str, DimRequest], options: Any) -> Module:
    from nomul.frontend import import_torch

    try:
        return import_torch(model, example_inputs, dims=ranges, **options)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise NomulError("NM007", "PyTorch is not installed", help="pip install 'nomul[torch]'") from None


def _framework(model: Any) -> str:
    """`torch` or `onnx`, by where the classes of the object come from; empty for anything else."""
    packages: Sequence[str] = [kind.__module__.partition(".")[0] for kind in type(model).__mro__]
    return next((name for name in ("torch", "onnx") if name in packages), "")
