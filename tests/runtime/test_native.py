"""The runtime as native code: under sanitizers, with several threads at once, without a single allocation."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_artifact import KERNELS, toy_plan

from nomul.backends.link import Build, build_objects
from nomul.backends.zig import RUNTIME_SOURCES, write_runtime, zig

HERE = Path(__file__).parent
STRICT = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


@pytest.fixture(scope="module")
def sources() -> Iterator[Build]:
    """A folder with all sources of the toy model, its objects, and the programs beside this file."""
    with build_objects(toy_plan()) as build:
        write_runtime(build.folder, RUNTIME_SOURCES)
        for program in ("stress.c", "no_allocation.c"):
            shutil.copy(HERE / program, build.folder)
        shutil.copy(KERNELS, build.folder)
        yield build


def build_stress(compiler: str, flags: list[str], build: Build) -> None:
    """Compiles everything, kernels included, with `flags`; the levels share one source."""
    objects = []
    for number, level in enumerate(level.name for level in build.plan.levels):
        objects.append(f"sanitized_{level}.o")
        kernel = [KERNELS.name, f"-DLEVEL={level}", f"-DLEVEL_ID={number}", "-c", "-o", objects[-1]]
        subprocess.run([compiler, *STRICT, *flags, *kernel], cwd=build.folder, check=True)
    sources = ["stress.c", "model.c", *RUNTIME_SOURCES, "weights.S", *objects]
    command = [compiler, *STRICT, *flags, *sources, "-lpthread", "-o", "stress"]
    subprocess.run(command, cwd=build.folder, check=True)


@pytest.mark.parametrize("compiler", ["gcc", "clang", "clang-14"])
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_stress_under_sanitizers(sources: Build, compiler: str, sanitizers: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    build_stress(compiler, [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"], sources)
    done = subprocess.run(["./stress", "4", "150"], cwd=sources.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all right\n"), done.stderr[-4000:]


def test_stress_as_users_build_it(sources: Build) -> None:
    command = ["cc", "-target", sources.triple, "-O2", "stress.c", *sources.objects]
    zig([*command, "-lpthread", "-o", "stress"], sources.folder)
    done = subprocess.run(["./stress", "8", "3000"], cwd=sources.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all right\n"), done.stderr[-4000:]


def test_a_run_allocates_nothing(sources: Build) -> None:
    command = ["cc", "-target", sources.triple, "-O2", "no_allocation.c", *sources.objects, "-lpthread", "-o", "count"]
    zig(command, sources.folder)
    done = subprocess.run(["./count"], cwd=sources.folder, capture_output=True, text=True, check=True)
    assert done.stdout == "counted 1, serial 0, parallel 0, status 0\n"


@pytest.mark.parametrize("defines", [[], ["-DNM_NO_THREADS"], ["-DNM_NO_FILES"], ["-DNM_NO_THREADS", "-DNM_NO_FILES"]])
def test_the_runtime_compiles_without_a_warning(sources: Build, defines: list[str]) -> None:
    for triple in ("x86_64-linux-gnu.2.17", "aarch64-linux-gnu.2.17", "aarch64-macos", "riscv64-linux-musl"):
        for source in RUNTIME_SOURCES:
            warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
            arguments = ["cc", "-target", triple, "-std=c11", *warnings, *defines, "-c", source, "-o", "checked.o"]
            zig(arguments, sources.folder)
