"""Builds nomul-run (`runtime/runner/`), the program that runs, checks and times one model on the machine it is for.

On Linux and Android it is linked statically with musl, and so needs nothing there but the kernel."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from nomul.backends.driver_sizes import closed_ranges
from nomul.backends.embed import embedded
from nomul.backends.link import Build
from nomul.backends.macho import finish
from nomul.backends.recording import DATA_FILE, Recording, emit_recording
from nomul.backends.shared_library import HUGE_PAGES, is_macho
from nomul.backends.zig import C_FLAGS, compile_source, runtime_objects, zig, zig_target

FLAGS = ("-Os", "-fvisibility=default")  # a Mach-O linker makes hidden names local when it joins objects
_HEADERS = ("nomul.h", "runner/runner.h")
_LINKED, _OPENED = "model_linked.c", "model_opened.c"  # where the model is: one of the two
_HEADER_SYMBOL = "__mh_execute_header"  # the one symbol that programs for macOS export
DATA_ASSEMBLY = embedded("recorded_data", DATA_FILE)


def static_triple(triple: str) -> str:
    """The triple for a program that needs no library of the machine, where the system can have such programs."""
    arch, system = triple.split("-")[:2]
    if not system.startswith("linux"):
        return triple
    return f"{arch}-linux-{'musleabihf' if 'eabihf' in triple else 'musl'}"


def build_runner(build: Build, recording: Recording, weights_file: str) -> Path:
    """The program with the model of a build inside; its path in the build's folder. Raises NomulError (NM510).

    weights_file: name of the file beside the program that holds the weights, where they are external."""
    triple = static_triple(build.triple)
    folder = build.folder / "runner"
    folder.mkdir()
    runtime = runtime_objects(triple, FLAGS)
    for name, code in runtime.items():
        (folder / name).write_bytes(code)
    (folder / "runner.o").write_bytes(_runner_object(triple, _LINKED))
    recorded = _compile_recording(folder, triple, recording, list(closed_ranges(build.plan)), weights_file)
    model = [f"../{name}" for name in build.objects if name not in runtime]
    objects = [*model, *runtime, "runner.o", *recorded]
    zig(["cc", *zig_target(triple), *_link_flags(triple, build.huge_pages), *objects, "-o", "nomul-run"], folder)
    program = folder / "nomul-run"
    if is_macho(triple):
        program.write_bytes(finish(program.read_bytes(), _HEADER_SYMBOL))
    return program


def build_opening_runner(triple: str, folder: Path) -> Path:
    """The program without a model: it opens a shared library for the same triple. Raises NomulError (NM510)."""
    (folder / "runner.o").write_bytes(_runner_object(triple, _OPENED))
    (folder / "recorded.c").write_text(emit_recording(Recording(), [], "")[0])
    _write_headers(folder)
    objects = ["runner.o", compile_source("recorded.c", triple, FLAGS, folder)]
    zig(["cc", *zig_target(triple), *objects, *([] if is_macho(triple) else ["-s", "-ldl"]), "-o", "nomul-run"], folder)
    return folder / "nomul-run"


def _compile_recording(
    folder: Path, triple: str, recording: Recording, dim_names: list[str], weights_file: str
) -> list[str]:
    text, data = emit_recording(recording, dim_names, weights_file)
    (folder / "recorded.c").write_text(text)
    (folder / DATA_FILE).write_bytes(data)
    (folder / "recorded_data.S").write_text(DATA_ASSEMBLY)
    _write_headers(folder)
    return [compile_source(source, triple, FLAGS, folder) for source in ("recorded.c", "recorded_data.S")]


@cache
def _runner_object(triple: str, model_source: str) -> bytes:
    """All sources of the runner in one relocatable object."""
    source_folder = files("nomul.runtime").joinpath("runner")
    other = {_LINKED, _OPENED} - {model_source}
    names = sorted(item.name for item in source_folder.iterdir() if item.name.endswith(".c") and item.name not in other)
    with TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name)
        for source in names:
            (folder / source).write_bytes(source_folder.joinpath(source).read_bytes())
        _write_headers(folder)
        zig(["cc", *zig_target(triple), *C_FLAGS, *FLAGS, "-r", *names, "-o", "runner.o"], folder, keep=True)
        return (folder / "runner.o").read_bytes()


def _write_headers(folder: Path) -> None:
    for name in _HEADERS:
        (folder / Path(name).name).write_bytes(files("nomul.runtime").joinpath(name).read_bytes())


def _link_flags(triple: str, huge_pages: bool) -> list[str]:
    if is_macho(triple):
        return ["-Wl,-dead_strip"]
    return ["-static", "-s", "-Wl,--gc-sections", "-Wl,--build-id=none", *(HUGE_PAGES if huge_pages else [])]
