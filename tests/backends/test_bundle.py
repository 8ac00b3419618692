"""The bundle for other tools and other machines: CMake and pkg-config find it, its program runs where it should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from toy_artifact import toy_inputs, toy_plan, toy_reference

from nomul.backends.artifact import write_artifact
from nomul.backends.bundle import package_name, text_files
from nomul.backends.recording import HALF_TOLERANCE, TOLERANCE, Recording, tolerance_of
from nomul.backends.runner import static_triple
from nomul.runtime.macho import MachO

COMPILER = f"{sys.executable} -m ziglang cc -target x86_64-linux-gnu.2.17"
CMAKE_LISTS = """\
cmake_minimum_required(VERSION 3.10)
project(user C)
find_package(toy CONFIG REQUIRED)
find_package(toy CONFIG REQUIRED)
foreach(kind shared static)
  add_executable(${kind} main.c)
  target_link_libraries(${kind} toy::${kind})
endforeach()
"""


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here")
    return found


def call(command: Sequence[str | Path], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def recording() -> Recording:
    x, y = toy_inputs()
    info = np.array([35, 1], np.int64)  # the level is the plain one
    return Recording({"B": 5, "S": 7}, [(0, 1)] * 2, [x, y], [toy_reference(x, y), info])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "a folder"
    write_artifact(toy_plan(), folder)
    return folder


def compiler(folder: Path) -> Path:
    """Zig's compiler as a program of one word, which also links with the old glibc that the archive wants."""
    path = folder / "cc"
    path.write_text(f'#!/bin/sh\nexec {COMPILER} "$@"\n')
    path.chmod(0o755)
    return path


def test_cmake_finds_both_libraries(bundle: Path, tmp_path: Path) -> None:
    cmake = tool("cmake")
    tool("make")
    shutil.copy(bundle / "main.c", tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE_LISTS)
    options = [f"-DCMAKE_PREFIX_PATH={bundle}", f"-DCMAKE_C_COMPILER={compiler(tmp_path)}"]
    call([cmake, "-S", ".", "-B", "build", "-G", "Unix Makefiles", *options], tmp_path)
    call([cmake, "--build", "build"], tmp_path)
    for kind in ("shared", "static"):
        assert "best of 10 runs" in call([f"build/{kind}"], tmp_path)


def test_pkg_config_finds_the_library_and_the_archive(tmp_path: Path) -> None:
    pkg_config = tool("pkg-config")
    write_artifact(toy_plan(), tmp_path / "toy")  # pkg-config has no good way with blanks in names
    shutil.copy(tmp_path / "toy" / "main.c", tmp_path)
    found = {
        option: call([pkg_config, option, "toy"], tmp_path, PKG_CONFIG_PATH=str(tmp_path / "toy")).split()
        for option in ("--cflags", "--libs", "--variable=archive")
    }
    for libraries in (found["--libs"], [*found["--variable=archive"], "-lpthread"]):
        call([compiler(tmp_path), "main.c", *found["--cflags"], *libraries, "-o", "main"], tmp_path)
        assert "best of 10 runs" in call(["./main"], tmp_path)


def test_the_shared_program_finds_its_library_from_anywhere(bundle: Path, tmp_path: Path) -> None:
    tool("make")
    call(["make", "-s", "main-shared", f"CC={COMPILER}"], bundle)
    assert "best of 10 runs" in call([bundle / "main-shared"], tmp_path)


def test_two_bundles_have_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        write_artifact(toy_plan(), tmp_path / name, recording=recording())
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("triple", "emulator", "cpu"),
    [
        ("aarch64-linux-gnu.2.17", "qemu-aarch64", "cortex-a53"),
        ("aarch64-linux-android.21", "qemu-aarch64", "cortex-a53"),
        # The program itself, which says what a CPU lacks, must do without NEON.
        pytest.param("arm-linux-gnueabihf.2.17", "qemu-arm", "cortex-a7,neon=off", marks=pytest.mark.slow),
        pytest.param("riscv64-linux-gnu.2.27", "qemu-riscv64", "sifive-u54", marks=pytest.mark.slow),
    ],
)
def test_the_program_runs_on_other_machines(triple: str, emulator: str, cpu: str, tmp_path: Path) -> None:
    program = [tool(emulator), "-cpu", cpu, "./nomul-run"]
    write_artifact(toy_plan(triple), tmp_path, triple=triple, recording=recording())
    assert "selftest passed: 2 outputs" in call([*program, "--selftest"], tmp_path)
    assert "level plain, threads 2" in call([*program, "--bench", "--threads=2", "--seconds=0"], tmp_path)


def test_the_program_for_macos_is_signed_and_needs_the_system_only(tmp_path: Path) -> None:
    triple = "aarch64-macos.11.0"
    write_artifact(toy_plan(triple), tmp_path, triple=triple, recording=recording())
    program = MachO((tmp_path / "nomul-run").read_bytes())
    assert program.is_intact() and program.signature().is_adhoc
    assert program.libraries() == ["/usr/lib/libSystem.B.dylib"]
    assert program.minimum_system() == (1, (11, 0, 0)) and set(program.exports()) == {"__mh_execute_header"}
    assert "@rpath/model.dylib" in (tmp_path / "toy-config.cmake").read_text()
    assert "@loader_path" in (tmp_path / "Makefile").read_text()


def test_triples_of_programs() -> None:
    assert static_triple("x86_64-linux-gnu.2.17") == "x86_64-linux-musl"
    assert static_triple("arm-linux-gnueabihf.2.17") == "arm-linux-musleabihf"
    assert static_triple("aarch64-linux-android.21") == "aarch64-linux-musl"
    assert static_triple("riscv64-linux-musl") == "riscv64-linux-musl"
    assert static_triple("aarch64-macos.11.0") == "aarch64-macos.11.0"


def test_names_that_cmake_does_not_take() -> None:
    assert package_name("my model/v2") == "my_model_v2" and package_name("") == "model"
    texts = text_files("my model\n# v2", "rpi5", "aarch64-linux-gnu", "model.so")
    assert set(texts) == {"Makefile", "README.md", "my_model___v2-config.cmake", "my_model___v2.pc"}
    assert len([line for line in texts["README.md"].splitlines() if line.startswith("    ")]) == 3


def test_tolerances_by_element_type() -> None:
    assert tolerance_of([np.zeros(1, np.float32), np.zeros(1, np.int64)]) == TOLERANCE
    assert tolerance_of([np.zeros(1, np.float32), np.zeros(1, np.float16)]) == HALF_TOLERANCE
