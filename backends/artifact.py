"""Writes what the user asked for with `-o`: one library, or a folder with everything one needs to build with the model.

The folder holds the shared library, a static archive, `nomul.h`, the source of driver and runtime, `model.json`, a
program that runs the model, and a Makefile for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nomul.backends.link import (
    HOST_TRIPLE,
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
from nomul.backends.zig import RUNTIME_HEADERS, RUNTIME_SOURCES, write_runtime
from nomul.ir.errors import NomulError

LIBRARY_SUFFIXES = (".so", ".dylib")

_MAKEFILE = """\
# Builds main from main.c, statically (main) or with the shared library (main-shared). CC picks the compiler.
CC ?= cc
CFLAGS ?= -O2 -Wall -Wextra
all: main
main: main.c nomul.h libmodel.a
\t$(CC) -std=c11 $(CFLAGS) main.c libmodel.a -lpthread -o $@
main-shared: main.c nomul.h {library}
\t$(CC) -std=c11 $(CFLAGS) main.c ./{library} -o $@
clean:
\trm -f main main-shared
.PHONY: all clean
"""


def write_artifact(
    plan: Plan,
    output: Path,
    *,
    triple: str = HOST_TRIPLE,
    weights: WeightsPlace = "auto",
    facts: Mapping[str, Any] | None = None,
    model_json: Mapping[str, Any] | None = None,
) -> Linked:
    """Writes the library `output`, or the bundle folder where its name does not end in .so or .dylib.

    facts: for the trailer of the library; model_json: for the bundle's model.json, beside what the plan says.
    Raises NomulError as `link_library`, and NM513 where `output` cannot be what it should."""
    is_library = output.suffix in LIBRARY_SUFFIXES
    if is_library and output.is_dir():
        raise NomulError("NM513", f"{output} is a folder, not a library", help="name a file, or a folder without .so")
    if not is_library and output.exists() and not output.is_dir():
        raise NomulError("NM513", f"{output} is a file, not a folder", help="end the name in .so for a library")
    with build_objects(plan, triple=triple, weights=weights) as build:
        if is_library:
            return link_shared(build, output, facts or {})
        return _write_bundle(build, output, facts or {}, model_json or {})


def _write_bundle(build: Build, output: Path, facts: Mapping[str, Any], model_json: Mapping[str, Any]) -> Linked:
    library = "model.dylib" if "macos" in build.triple else "model.so"
    with disk_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    linked = link_shared(build, output / library, facts)
    link_static(build, output / "libmodel.a")
    write_runtime(build.folder, (*RUNTIME_SOURCES, "bundle_main.c"))
    (build.folder / "Makefile").write_text(_MAKEFILE.format(library=library))
    text = json.dumps(plan_json(build.plan) | dict(model_json), indent=2, ensure_ascii=False)
    (build.folder / "model.json").write_text(text + "\n")
    with disk_errors(output):
        for name in ("model.c", "model.json", "Makefile", *RUNTIME_SOURCES, *RUNTIME_HEADERS):
            place_file(build.folder / name, output / name)
        place_file(build.folder / "bundle_main.c", output / "main.c")
    return linked


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
