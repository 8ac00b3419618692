"""Writes the folder of `--emit c`: kernels, driver, runtime, weights and a Makefile, all of it source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nomul.backends.artifact import plan_json
from nomul.backends.driver import emit_driver
from nomul.backends.link import LARGEST_EMBEDDED, WEIGHTS_ASSEMBLY, WeightsPlace, disk_errors, place_file
from nomul.backends.plan import Plan
from nomul.backends.portable_c.sizes import sizes_header
from nomul.backends.portable_c.targets import CTarget
from nomul.backends.weights_image import WeightsImage
from nomul.backends.zig import write_runtime
from nomul.ir.errors import NomulError

RUNTIME = ("nomul.c", "nomul_cpu_none.c", "nomul_pool.c", "nomul_text.c", "nomul_weights.c")
_WEIGHTS_FILES = ("weights.c", "weights.S", "weights.bin")
HEADERS = ("nomul.h", "nomul_rt.h", "nomul_kernel.h")

_MAKEFILE = """\
# Builds libmodel.a. target.mk names the tools and the processor; CFLAGS is what you like; DEFINES leaves out threads
# (which need POSIX) and files (which need mmap).
include target.mk
DEFINES ?= -DNM_NO_THREADS -DNM_NO_FILES
CFLAGS ?= -O2
FLAGS = -std=c11 -Wall -Wextra -pedantic -ffunction-sections -fdata-sections -fno-math-errno $(CPU) $(DEFINES) $(CFLAGS)
OBJECTS = {objects}

libmodel.a: $(OBJECTS)
\trm -f $@
\t$(AR) rcs $@ $(OBJECTS)
%.o: %.c {headers}
\t$(CC) $(FLAGS) -c $< -o $@
{weights_rule}size: libmodel.a
\t$(SIZE) -t libmodel.a
clean:
\trm -f libmodel.a $(OBJECTS)
.PHONY: size clean
"""


_TARGET = """\
# target.mk: how to build for {name}; each may be set on the command line of make.
ifeq ($(origin CC),default)
CC = {compiler}
endif
ifeq ($(origin AR),default)
AR = {tools}ar
endif
SIZE ?= {tools}size
CPU ?= {cpu}
"""


def write_folder(
    plan: Plan,
    kernels: str,
    output: Path,
    target: CTarget,
    *,
    weights: WeightsPlace = "auto",
    array_limit: int,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes the folder `output`, which appears whole; where it is there already, each file is replaced whole.

    array_limit: embedded weights of at most so many bytes are an array in C, larger ones a file for the assembler.
    facts: further ones for model.json.
    Raises NomulError NM511 (cannot write), NM513 (`output` is a file), or as `emit_driver`."""
    if output.exists() and not output.is_dir():
        raise NomulError("NM513", f"{output} is a file, not a folder", help="name the folder for the sources")
    image = WeightsImage(plan.weights)
    external = weights == "external" or (weights == "auto" and image.size > LARGEST_EMBEDDED)
    header, scratch = sizes_header(plan)
    texts = {"kernels.c": kernels, "model.c": emit_driver(plan, external_weights=external), "model.h": header}
    with disk_errors(output.parent), TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as name:
        folder = Path(name) / "sources"
        folder.mkdir()
        weights_files = _write_weights(folder, image, external, array_limit)
        write_runtime(folder, (*RUNTIME, *HEADERS))
        texts["Makefile"] = _makefile(weights_files)
        texts["target.mk"] = _TARGET.format(
            name=target.name, compiler=target.compiler, tools=target.tools, cpu=target.cpu
        )
        placed = {"weights_bytes": image.size, "weights_file": weights_files[-1], "scratch_bytes": scratch}
        known = plan_json(plan) | placed | dict(facts or {})
        texts["model.json"] = json.dumps(known, indent=2, ensure_ascii=False) + "\n"
        for file, text in texts.items():
            (folder / file).write_text(text)
        _place(folder, output)


def _write_weights(folder: Path, image: WeightsImage, external: bool, array_limit: int) -> list[str]:
    """The files of the weights: the one to compile first, unless they are external."""
    if not external and image.size <= array_limit:
        (folder / "weights.c").write_text(weights_array(image.header + image.payload))
        return ["weights.c"]
    with (folder / "weights.bin").open("wb") as file:
        file.writelines((image.header, image.payload))
    if external:
        return ["weights.bin"]
    (folder / "weights.S").write_text(WEIGHTS_ASSEMBLY)
    return ["weights.S", "weights.bin"]


def weights_array(image: bytes) -> str:
    """weights.c: the weights image as an aligned array."""
    rows = [",".join(map(str, image[at : at + 32])) for at in range(0, len(image), 32)]
    return (
        "/* weights.c: the weights image, written by nomul. */\n"
        '#include "nomul_rt.h"\n\n'
        "extern NM_HIDDEN const uint8_t nm_weights[];\n"
        f"_Alignas(NM_ALIGNMENT) const uint8_t nm_weights[{len(image)}] = {{\n" + ",\n".join(rows) + "};\n"
    )


def _makefile(weights_files: list[str]) -> str:
    embedded = weights_files[0] != "weights.bin"
    sources = ["kernels.c", "model.c", *RUNTIME, *(weights_files[:1] if embedded else [])]
    return _MAKEFILE.format(
        objects=" ".join(f"{Path(source).stem}.o" for source in sources),
        headers=" ".join(HEADERS),
        weights_rule=f"weights.o: {' '.join(weights_files)}\n\t$(CC) $(FLAGS) -c $< -o $@\n" if embedded else "",
    )


def _place(folder: Path, output: Path) -> None:
    if not output.exists():
        folder.rename(output)
        return
    for file in sorted(folder.iterdir()):
        place_file(file, output / file.name)
    for name in _WEIGHTS_FILES:  # of a compile before, which put them elsewhere
        if not (folder / name).exists():
            (output / name).unlink(missing_ok=True)
