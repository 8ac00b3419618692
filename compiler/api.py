"""The Python door: `compile`, `lower`, `load`."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nomul.accuracy.write import check_paths, write_reports
from nomul.calibration import read_calibration
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.nir import require_weights
from nomul.options import ARRAY_LIMIT, Emit, Options, Progress, WeightsPlace, silent, tune_file
from nomul.passes.choice import Recipe
from nomul.passes.fit_layers import FitCache
from nomul.recipe import RecipeLike, read_recipe
from nomul.runtime.loader import Artifact, load
from nomul.source import Dims, model_name, read_model

__all__ = ["Artifact", "build", "compile", "load", "lower"]


def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    target: str | Sequence[str] = "host",
    recipe: RecipeLike = None,
    calib: Any = None,
    dims: Dims | None = None,
    output: str | Path | None = None,
    dump: str | Path | None = None,
    check: bool = False,
    weights: WeightsPlace = "auto",
    strict: bool = False,
    tune: bool | str | Path = False,
    report: str | Path | Sequence[str | Path] = (),
    name: str | None = None,
    progress: Progress | None = None,
    **source_options: Any,
) -> Artifact:
    """Compile a model and load the result.

    model: an ONNX file or ModelProto; a torch `nn.Module` with example_inputs, ExportedProgram or .pt2 file; a .nir
    file; a Module.  target: one name or several of one OS and architecture (`nomul list targets`).
    recipe: an encoding for all weights ("f16"), a built-in (`nomul list recipes`), {name pattern: encoding}, or a TOML
    file.  calib: calibration data, a .npz, a folder of .npy, or an iterable of inputs (`compiler/calibration.py`).
    dims: {"S": (1, 512), "B": 1}, ranges or sizes of named dims.
    output: `model.so`, or a folder for the bundle with C source; None: a file that lives as long as the result.
    dump: folder for everything in between.  check: compare with the interpreter after every pass.
    weights: "embedded", "external" (a file beside the library), or "auto" (external from 1 GiB).
    strict: fail where only a generic kernel serves, or where a layer cannot have what the recipe says.
    tune: measure kernels where several can serve, on this machine, and keep the times in this file; True: a file beside
    the artifact.
    report: files, .html or .json, for what the recipe's encodings lose by layer and end to end (`docs/accuracy.md`).
    source_options: for torch, `dynamic_shapes` and `example_kwargs` of `nomul.frontend.torch.import_torch`.
    Raises NomulError with all problems of the stage that failed.
    """
    folder = None if output else Path(tempfile.mkdtemp(prefix="nomul-"))
    try:
        path = build(
            model,
            example_inputs,
            output=output or folder / "model.so",  # type: ignore[operator]
            target=target,
            recipe=recipe,
            calib=calib,
            dims=dims,
            dump=dump,
            check=check,
            weights=weights,
            strict=strict,
            tune=tune,
            report=report,
            name=name,
            progress=progress,
            **source_options,
        )
        artifact = load(path)
    except BaseException:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if folder:
        weakref.finalize(artifact, shutil.rmtree, folder, ignore_errors=True)
    return artifact


def build(
    model: Any,
    example_inputs: Any = None,
    *,
    output: str | Path,
    target: str | Sequence[str] = "host",
    recipe: RecipeLike = None,
    calib: Any = None,
    dims: Dims | None = None,
    dump: str | Path | None = None,
    check: bool = False,
    weights: WeightsPlace = "auto",
    strict: bool = False,
    tune: bool | str | Path = False,
    report: str | Path | Sequence[str | Path] = (),
    emit: Emit = "library",
    array_limit: int = ARRAY_LIMIT,
    name: str | None = None,
    progress: Progress | None = None,
    **source_options: Any,
) -> Path:
    """Compile to a file without loading it: it may be for another machine. Arguments as in `compile`, and

    emit: "c" writes the folder `output` with portable C sources; target then is "c", "cortex-m7" or "cortex-m55".
    array_limit: up to so many bytes of weights are an array in C then, more are a file for the assembler."""
    from nomul import pipeline

    options = Options(
        name=name or model_name(model),
        targets=(target,) if isinstance(target, str) else tuple(target),
        recipe=_recipe(recipe, strict),
        output=Path(output),
        fits=Path(output).absolute().with_name(f"{Path(output).name}.fits"),
        dump=Path(dump) if dump else None,
        check=check,
        weights=weights,
        strict=strict,
        tune=tune_file(Path(output), tune),
        emit=emit,
        array_limit=array_limit,
        progress=progress or silent,
    )
    _check_writable(Path(output).absolute().parent)
    reports = [Path(path) for path in ((report,) if isinstance(report, str | Path) else report)]
    check_paths(reports)
    module = read_model(model, example_inputs, dims, **source_options)
    require_weights(module)
    module, options = _with_source(module, options, name)
    options = _calibrated(options, calib, module)
    if options.emit == "library":
        path = pipeline.build(module, options)
    else:
        from nomul.portable_c import build_sources

        path = build_sources(module, options)
    if reports:
        write_reports(module, options, path, reports)
    if options.fits:
        FitCache(options.fits).clear()
    return path


def lower(
    model: Any,
    example_inputs: Any = None,
    *,
    until: str | None = None,
    recipe: RecipeLike = None,
    calib: Any = None,
    dims: Dims | None = None,
    dump: str | Path | None = None,
    check: bool = False,
    progress: Progress | None = None,
    **source_options: Any,
) -> Module:
    """The module after the phase `until`; None: after all that do not depend on a target. Arguments as in `compile`."""
    from nomul import pipeline

    options = Options(
        name=model_name(model),
        recipe=_recipe(recipe, False),
        dump=Path(dump) if dump else None,
        check=check,
        until=until,
        progress=progress or silent,
    )
    module = read_model(model, example_inputs, dims, **source_options)
    module, options = _with_source(module, options, None)
    return pipeline.optimise(module, _calibrated(options, calib, module))


def _with_source(module: Module, options: Options, name: str | None) -> tuple[Module, Options]:
    """The module with the facts of its source; those of a dump are kept, and its name where the user gives none."""
    from nomul.report import source_facts

    name = name or str(module.source.get("name", options.name))
    if not module.source:
        module = module.clone()
        module.source = source_facts(module, name)
    return module, replace(options, name=name)


def _recipe(recipe: RecipeLike, strict: bool) -> Recipe:
    found = read_recipe(recipe)
    return replace(found, strict=found.strict or strict)


def _calibrated(options: Options, calib: Any, module: Module) -> Options:
    """The options with the batches of the calibration data. Raises NomulError (NM017)."""
    if calib is not None and options.recipe.is_empty:
        message = "calibration data is for a recipe, and there is none"
        raise NomulError("NM017", message, help="give --recipe, or recipe= (nomul list recipes); or leave out the data")
    if calib is not None:
        return replace(options, batches=read_calibration(calib, module))
    if options.recipe.needs_calibration:
        message = 'act = "i8-static", correct_means and scope = "block" need calibration data'
        raise NomulError("NM017", message, help="give --calib, or calib=")
    return options


def _check_writable(folder: Path) -> None:
    """Before the work, not after it. Raises NomulError (NM511)."""
    if not folder.is_dir():
        raise NomulError("NM511", f"cannot write to {folder}: there is no such folder", help="make it first")
    if not os.access(folder, os.W_OK):
        raise NomulError("NM511", f"cannot write to {folder}: no permission", help="choose another folder")
