"""Turns a Plan into files: the shared library with its facts, `nomul.h`, the weights file, a static archive.

Equal plans give equal bytes, whatever the folder, the time and the machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any, Literal

from nomul.backends.driver import emit_driver
from nomul.backends.embed import embedded
from nomul.backends.macho import hide_symbols
from nomul.backends.plan import Plan
from nomul.backends.shared_library import is_macho, link_objects
from nomul.backends.target import find_target
from nomul.backends.weights_image import WeightsImage
from nomul.backends.zig import RUNTIME_HEADERS, compile_source, runtime_objects, write_runtime, zig
from nomul.ir.errors import NomulError

LARGEST_EMBEDDED = 2**30  # bytes of weights; larger ones go into a file of their own, unless asked otherwise
LARGEST_REACHABLE = 2**31 - 2**24  # code reaches its data within 2 GiB, on x86-64 and RISC-V
WeightsPlace = Literal["auto", "embedded", "external"]
WEIGHTS_ASSEMBLY = embedded("nm_weights", "weights.bin")
_LARGE = 32 << 20  # bytes of weights; smaller ones stay in a cache
_PIECE = 8 << 20  # bytes written at a time: file systems keep what came in one piece in huge pages


@dataclass(frozen=True)
class Linked:
    """What was written. library_bytes: the whole file; weights_bytes: the weights image, embedded or in `weights`."""

    library: Path
    header: Path
    weights: Path | None
    library_bytes: int
    weights_bytes: int


@dataclass(frozen=True)
class Build:
    """A temporary folder with model.c, weights.bin (the weights image) and all object files of a library."""

    folder: Path
    plan: Plan
    triple: str
    objects: tuple[str, ...]
    weights: WeightsImage
    external: bool

    @property
    def huge_pages(self) -> bool:
        """Whether Linux shall be able to map embedded weights by huge pages: memory is read faster through them."""
        return not self.external and self.weights.size >= _LARGE


@contextmanager
def build_objects(
    plan: Plan, *, triple: str | None = None, weights: WeightsPlace = "auto", flags: Sequence[str] = ("-O2",)
) -> Iterator[Build]:
    """Compiles the driver, the runtime and the weights. triple: zig's; None: this machine's. Raises NomulError."""
    triple = triple or find_target("host")[0].zig
    image = WeightsImage(plan.weights)
    external = weights == "external" or (weights == "auto" and image.size > LARGEST_EMBEDDED)
    if not external and image.size > LARGEST_REACHABLE:
        raise NomulError("NM512", f"{image.size} bytes of weights are too many to embed", help="use external weights")
    model_c = emit_driver(plan, external_weights=external)
    with TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name)
        with disk_errors(folder):
            objects = _compile(folder, plan, model_c, image, external, triple, tuple(flags))
        yield Build(folder, plan, triple, objects, image, external)


def _compile(
    folder: Path, plan: Plan, model_c: str, image: WeightsImage, external: bool, triple: str, flags: tuple[str, ...]
) -> tuple[str, ...]:
    objects = dict(runtime_objects(triple, flags))
    for level in plan.levels:
        if level.object:
            objects[f"kernels_{level.name}.o"] = hide_symbols(level.object) if is_macho(triple) else level.object
    for name, code in objects.items():
        (folder / name).write_bytes(code)
    write_runtime(folder, RUNTIME_HEADERS)
    (folder / "model.c").write_text(model_c)
    with (folder / "weights.bin").open("wb") as file:
        file.writelines((image.header, image.payload))
    sources = ["model.c"]
    if not external:
        (folder / "weights.S").write_text(WEIGHTS_ASSEMBLY)
        sources.append("weights.S")
    return (*objects, *(compile_source(source, triple, flags, folder) for source in sources))


def link_library(
    plan: Plan,
    output: Path,
    *,
    triple: str | None = None,
    weights: WeightsPlace = "auto",
    flags: Sequence[str] = ("-O2",),
    facts: Mapping[str, Any] | None = None,
) -> Linked:
    """Writes the shared library `output`, `nomul.h` beside it and, with external weights, `<output>.weights`.

    triple: zig's name of the machine; None: this one.
    facts: JSON for the library, beside what the plan says.  Each file appears whole or not at all.
    Raises NomulError NM510 (toolchain), NM511 (cannot write), NM512 (too large to embed), or as `emit_driver`."""
    with build_objects(plan, triple=triple, weights=weights, flags=flags) as build:
        return link_shared(build, output, facts or {})


def link_shared(build: Build, output: Path, facts: Mapping[str, Any]) -> Linked:
    """The files of `link_library` from compiled objects."""
    with disk_errors(output.parent):
        library = link_objects(
            build.folder, build.objects, build.triple, output.name, _facts(build) | dict(facts), build.huge_pages
        )
        weights = Path(f"{output}.weights") if build.external else None
        if weights:
            place_file(build.folder / "weights.bin", weights)
        header = output.with_name("nomul.h")
        place_file(build.folder / "nomul.h", header)
        place_file(library, output, executable=True)
        return Linked(output, header, weights, output.stat().st_size, build.weights.size)


def _facts(build: Build) -> dict[str, Any]:
    plan = build.plan
    return {
        "name": plan.name,
        "target": plan.target,
        "triple": build.triple,
        "levels": [level.name for level in plan.levels],
        "steps": [step.comment for step in plan.steps],
        "weights": {"bytes": build.weights.size, "sha256": build.weights.digest.hex(), "external": build.external},
    }


def link_static(build: Build, output: Path) -> None:
    """Writes a static archive of the same objects. Raises NomulError."""
    zig(["ar", "rcsD", "archive.a", *build.objects], build.folder)
    with disk_errors(output.parent):
        place_file(build.folder / "archive.a", output)


def place_file(source: Path, output: Path, executable: bool = False) -> None:
    """Copies `source` to `output` by way of a temporary file beside it, so that no reader sees half of it."""
    with NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", delete=False) as temporary:
        path = Path(temporary.name)
    try:
        with source.open("rb") as given, path.open("wb") as file:
            shutil.copyfileobj(given, file, _PIECE)
        path.chmod((0o777 if executable else 0o666) & ~_umask())
        path.replace(output)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Says of a failure of the file system in `folder` what a user can do."""
    try:
        yield
    except OSError as error:
        help = "is the folder there, may you write to it, and is there room?"
        raise NomulError("NM511", f"cannot write to {folder}: {error.strerror or error}", help=help) from error
