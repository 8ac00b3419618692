"""What the linker promises of its files: one export, few imports, equal bytes, small code, whole or not at all."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from elf import code_bytes, dynamic_symbols, sections
from toy_artifact import toy_inputs, toy_plan, toy_reference

from nomul.backends.link import build_objects, disk_errors, link_library, link_static, place_file
from nomul.backends.plan import Level
from nomul.backends.zig import runtime_objects
from nomul.ir.errors import NomulError
from nomul.runtime.loader import load

ARM = "aarch64-linux-gnu.2.17"
MAC = "aarch64-macos"
MEMORY_FUNCTIONS = {"memcpy", "memmove", "memset", "memcmp", "bcmp"}
FILE_FUNCTIONS = {"open", "close", "fstat", "__fxstat", "mmap", "munmap"}
THREAD_FUNCTIONS = {"clock_gettime", "pthread_create", "pthread_join"} | {
    f"pthread_{kind}_{verb}" for kind in ("mutex", "cond") for verb in ("init", "destroy")
}
THREAD_FUNCTIONS |= {"pthread_mutex_lock", "pthread_mutex_unlock"}
THREAD_FUNCTIONS |= {"pthread_cond_wait", "pthread_cond_signal", "pthread_cond_broadcast"}
THREAD_FUNCTIONS |= {"sched_getcpu", "sched_getaffinity", "sched_setaffinity", "__sched_cpucount", "syscall"}


def symbols(library: Path, defined: bool) -> set[str]:
    return {symbol.name for symbol in dynamic_symbols(library.read_bytes()) if symbol.defined == defined}


def test_the_library_exports_one_function_and_imports_no_allocation_and_no_stdio(tmp_path: Path) -> None:
    linked = link_library(toy_plan(), tmp_path / "toy.so")
    assert symbols(linked.library, defined=True) == {"nm_query"}
    assert symbols(linked.library, defined=False) <= MEMORY_FUNCTIONS | FILE_FUNCTIONS | THREAD_FUNCTIONS
    assert linked.header.read_text().startswith("/* nomul.h:")


def test_a_build_without_threads_and_files_imports_only_memory_functions(tmp_path: Path) -> None:
    flags = ("-O2", "-DNM_NO_THREADS", "-DNM_NO_FILES")
    linked = link_library(toy_plan(), tmp_path / "toy.so", flags=flags)
    assert symbols(linked.library, defined=False) <= MEMORY_FUNCTIONS
    with load(linked.library) as artifact:
        x, y = toy_inputs()
        np.testing.assert_array_equal(artifact(x, y)[0], toy_reference(x, y))
        with pytest.raises(Exception, match="built without threads"):
            artifact(x, y, threads=2)


def test_large_weights_can_be_mapped_by_huge_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = link_library(toy_plan(), tmp_path / "small.so").library_bytes
    monkeypatch.setattr("nomul.backends.link._LARGE", 1)
    linked = link_library(toy_plan(), tmp_path / "toy.so")
    assert abs(linked.library_bytes - small) < 4096  # without padding
    data = linked.library.read_bytes()
    header = int.from_bytes(data[32:40], "little")
    segments = [data[header + 56 * number :][:56] for number in range(int.from_bytes(data[56:58], "little"))]
    loaded = [[int.from_bytes(part[at : at + 8], "little") for at in (8, 16, 48)] for part in segments if part[0] == 1]
    assert loaded
    for offset, address, alignment in loaded:
        assert alignment == 1 << 21 and (offset - address) % alignment == 0
    with load(linked.library) as artifact:
        x, y = toy_inputs()
        np.testing.assert_array_equal(artifact(x, y)[0], toy_reference(x, y))


_LINK_IN_A_PROCESS = """
import sys
from pathlib import Path
from toy_artifact import toy_plan
from nomul.backends.link import build_objects, link_shared, link_static
with build_objects(toy_plan()) as build:
    link_shared(build, Path(sys.argv[1]) / "model.so", {"compiler": "test"})
    link_static(build, Path(sys.argv[1]) / "model.a")
"""


def link_in_a_process(folder: Path) -> tuple[bytes, bytes]:
    """Links in a process of its own with another temporary folder, so that nothing is remembered."""
    (folder / "tmp").mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", _LINK_IN_A_PROCESS, str(folder)], env=environment, check=True)
    return (folder / "model.so").read_bytes(), (folder / "model.a").read_bytes()


def test_two_builds_give_equal_bytes(tmp_path: Path) -> None:
    assert link_in_a_process(tmp_path / "one") == link_in_a_process(tmp_path / "another_and_longer")


def test_weights_are_aligned_for_vector_loads(tmp_path: Path) -> None:
    linked = link_library(toy_plan(), tmp_path / "toy.so")
    data = linked.library.read_bytes()
    (rodata,) = (section.data for section in sections(data) if section.name == ".rodata")
    assert rodata.index(b"nomulwts") % 64 == 0 and data.index(rodata) % 64 == 0


def test_the_runtime_has_at_most_16_kb_of_code_on_aarch64() -> None:
    sizes = {name: code_bytes(data) for name, data in runtime_objects(ARM, ("-Os",)).items()}
    assert 2_000 < sum(sizes.values()) <= 16 * 1024, sizes


def test_external_weights_lie_beside_the_library_and_not_in_it(tmp_path: Path) -> None:
    plan = replace(toy_plan(), weights=os.urandom(1 << 20))
    linked = link_library(plan, tmp_path / "toy.so", weights="external")
    assert linked.weights == tmp_path / "toy.so.weights"
    assert linked.weights.read_bytes()[64:] == plan.weights
    assert linked.library_bytes < 100_000 and linked.weights_bytes == (1 << 20) + 64


def test_weights_beyond_the_limit_are_external_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomul.backends.link.LARGEST_EMBEDDED", 100)
    assert link_library(toy_plan(), tmp_path / "toy.so").weights is not None
    assert link_library(toy_plan(), tmp_path / "toy.so", weights="embedded").weights is None
    monkeypatch.setattr("nomul.backends.link.LARGEST_REACHABLE", 100)
    with pytest.raises(NomulError, match="too many to embed"):
        link_library(toy_plan(), tmp_path / "toy.so", weights="embedded")


def test_a_broken_object_is_an_error_with_the_linkers_words(tmp_path: Path) -> None:
    plan = toy_plan(levels=(Level("plain", (), b"no object file"),))
    with pytest.raises(NomulError, match="zig cc") as caught:
        link_library(plan, tmp_path / "toy.so")
    assert caught.value.code == "NM510"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NomulError, match=r"cannot write to .*nowhere") as caught:
        link_library(toy_plan(), tmp_path / "nowhere" / "toy.so")
    assert caught.value.code == "NM511"


def test_a_full_disk_leaves_the_old_file_and_no_half_of_the_new(tmp_path: Path) -> None:
    source, output = tmp_path / "new.so", tmp_path / "toy.so"
    source.write_bytes(b"new" * 10_000)
    output.write_bytes(b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))  # no write goes beyond, as on a full disk
    try:
        with pytest.raises(NomulError, match="cannot write") as caught, disk_errors(tmp_path):
            place_file(source, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.code == "NM511"
    assert output.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.so", "toy.so"]


def test_a_static_archive_holds_the_same_objects(tmp_path: Path) -> None:
    with build_objects(toy_plan()) as build:
        link_static(build, tmp_path / "toy.a")
        assert {"model.o", "weights.o", "nomul.o", "kernels_plain.o"} <= set(build.objects)
    assert (tmp_path / "toy.a").read_bytes().startswith(b"!<arch>\n")


def test_linking_for_apple_gives_a_dylib(tmp_path: Path) -> None:
    linked = link_library(toy_plan(MAC), tmp_path / "toy.dylib", triple=MAC)
    assert linked.library.read_bytes()[:4] == b"\xcf\xfa\xed\xfe"


@pytest.mark.slow  # the first time, zig builds a C library for ARM
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-user")
def test_the_runtime_works_on_aarch64_linux(tmp_path: Path) -> None:
    from nomul.backends.artifact import write_artifact
    from nomul.backends.zig import zig

    write_artifact(toy_plan(ARM), tmp_path / "bundle", triple=ARM)
    static = ["-target", "aarch64-linux-musl", "-static", "-O2"]
    zig(["cc", *static, "main.c", "libmodel.a", "-o", "main"], tmp_path / "bundle")
    command = ["qemu-aarch64", str(tmp_path / "bundle" / "main"), "threads=2", "B=64"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "level plain" in done.stdout and "z [B, S]: 1024 elements" in done.stdout
