"""Writes what the user asked for with `-o`: one library, or a folder with everything one needs to build with the model.

The folder holds the shared library, a static archive, `nomul.h`, `nomul-run` (the model as a program, which also checks
and times it), an example in C, files for make, CMake and pkg-config, and the source of driver and runtime.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nomul.backends.bundle import text_files
from nomul.backends.link import (
    Build,
    Linked,
    WeightsPlace,
    build_objects,
    disk_errors,
    link_shared,
    link_static,
    place_file,
)
from nomul.backends.plan import Plan, Port
from nomul.backends.recording import Recording
from nomul.backends.runner import build_runner
from nomul.backends.zig import RUNTIME_HEADERS, RUNTIME_SOURCES, write_runtime
from nomul.ir.errors import NomulError

LIBRARY_SUFFIXES = (".so", ".dylib")
BUNDLE_LIBRARIES = ("model.so", "model.dylib")  # the name of the library in a bundle, by the kind of file


def is_library(output: Path) -> bool:
    """Whether this is the name of a library, and not that of a bundle's folder."""
    return output.suffix in LIBRARY_SUFFIXES


def write_artifact(
    plan: Plan,
    output: Path,
    *,
    triple: str | None = None,
    weights: WeightsPlace = "auto",
    facts: Mapping[str, Any] | None = None,
    model_json: Mapping[str, Any] | None = None,
    recording: Recording | None = None,
) -> Linked:
    """Writes the library `output`, or the bundle folder where its name does not end in .so or .dylib.

    facts: for the trailer of the library; model_json: for the bundle's model.json, beside what the plan says.
    recording: for `nomul-run` in the bundle; None: usual sizes are the smallest, and no run is recorded.
    Raises NomulError as `link_library`, and NM513 where `output` cannot be what it should."""
    if is_library(output) and output.is_dir():
        raise NomulError("NM513", f"{output} is a folder, not a library", help="name a file, or a folder without .so")
    if not is_library(output) and output.exists() and not output.is_dir():
        raise NomulError("NM513", f"{output} is a file, not a folder", help="end the name in .so for a library")
    with build_objects(plan, triple=triple, weights=weights) as build:
        if is_library(output):
            return link_shared(build, output, facts or {})
        return _write_bundle(build, output, facts or {}, model_json or {}, recording or _least_recording(plan))


def _least_recording(plan: Plan) -> Recording:
    return Recording({name: int(low) for name, (low, _) in plan.dims.items()}, [(0, 1)] * len(plan.inputs))


def _write_bundle(
    build: Build, output: Path, facts: Mapping[str, Any], model_json: Mapping[str, Any], recording: Recording
) -> Linked:
    library = BUNDLE_LIBRARIES["macos" in build.triple]
    with disk_errors(output):
        (output / "src").mkdir(parents=True, exist_ok=True)
    linked = link_shared(build, output / library, facts)
    link_static(build, output / "libmodel.a")
    runner = build_runner(build, recording, f"{library}.weights")
    texts = text_files(build.plan.name, build.plan.target, build.triple, library)
    texts["model.json"] = json.dumps(plan_json(build.plan) | dict(model_json), indent=2, ensure_ascii=False) + "\n"
    with disk_errors(output):
        place_file(runner, output / "nomul-run", executable=True)
        place_file(build.folder / "model.c", output / "model.c")
        _place_sources(build.folder, output)
        for name, text in texts.items():
            (build.folder / name).write_text(text, encoding="utf-8")
            place_file(build.folder / name, output / name)
    return linked


def _place_sources(folder: Path, output: Path) -> None:
    write_runtime(folder, (*RUNTIME_SOURCES, "bundle_main.c"))
    place_file(folder / "bundle_main.c", output / "main.c")
    for name in (*RUNTIME_SOURCES, *RUNTIME_HEADERS):
        place_file(folder / name, output / "src" / name)


def plan_json(plan: Plan) -> dict[str, Any]:
    """What a Plan tells a reader: ports, dims, levels and the steps with their kernels."""
    return {
        "name": plan.name,
        "target": plan.target,
        "inputs": [_port_json(port) for port in plan.inputs],
        "outputs": [_port_json(port) for port in plan.outputs],
        "dims": {name: [low, high if isinstance(high, int) else None] for name, (low, high) in plan.dims.items()},
        "levels": [{"name": level.name, "features": list(level.features)} for level in plan.levels],
        "steps": [{"kernel": step.symbol, "tiles": str(step.tiles), "comment": step.comment} for step in plan.steps],
        "weights_bytes": len(plan.weights),
    }


def _port_json(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype.value, "shape": [str(size) for size in port.shape]}
