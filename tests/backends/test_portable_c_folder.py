"""The folder of `--emit c`: builds without a warning, computes what the interpreter does, needs little of libc."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from portable_c_harness import WARNINGS, build_library, run_library

import nomul
from nomul.backends.portable_c.folder import weights_array
from nomul.cli import main
from nomul.ir import interpreter
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.ir.parser import parse_module
from nomul.nir import write_nir

NETWORK = """\
nomul.ir 1
dim N in [1, 3]
weight @conv.weight : f32[4, 2, 3, 3]
weight @conv.bias : f32[4]
weight @table : f32[9, 4]
weight @half : f16[4]
func @main(%image: f32[N, 2, 6, 6], %ids: i64[N], %keep: bool[N]) -> (scores: f32[N, 4], best: i64[N], h: f16[N, 4]) {
  %c = nn.conv2d %image, @conv.weight, @conv.bias {pads=[1, 1, 1, 1]} : f32[N, 4, 6, 6]  loc("conv")
  %r = ew.relu %c : f32[N, 4, 6, 6]
  %m = reduce.mean %r {axes=[2, 3]} : f32[N, 4]
  %e = index.gather @table, %ids : f32[N, 4]
  %s = ew.add %m, %e : f32[N, 4]
  %z = ew.mul %s, 0.0 : f32[N, 4]
  %k = view.reshape %keep {shape=[N, 1]} : bool[N, 1]
  %y = ew.where %k, %s, %z : f32[N, 4]
  %b = reduce.argmax %y {axis=1} : i64[N]
  %h = ew.cast %y {dtype="f16"} : f16[N, 4]
  %g = ew.mul %h, @half : f16[N, 4]
  return %y, %b, %g
}
"""


def network() -> Module:
    module, generator = parse_module(NETWORK), np.random.default_rng(0)
    for weight in module.weights.values():
        values = generator.standard_normal([int(n) for n in weight.shape])
        weight.fields = {"data": values.astype(weight.dtype.numpy)}
    return module


def inputs(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(count)
    image = generator.standard_normal((count, 2, 6, 6), np.float32)
    return [image, generator.integers(0, 9, count), generator.integers(0, 2, count).astype(bool)]


def check(folder: Path, *flags: str, weights: bytes = b"") -> None:
    library = build_library(folder, *flags)
    for count in (1, 3):
        arrays = inputs(count)
        expected = interpreter.run(network(), *arrays)
        outputs = [np.zeros(array.shape, array.dtype) for array in expected]
        run_library(library, arrays, outputs, weights)
        for given, right in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(given, right, rtol=2e-3 if right.dtype == np.float16 else 0, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sources") / "model"
    return nomul.build(network(), output=output, emit="c", name="network")


def test_computes_what_the_interpreter_does(folder: Path) -> None:
    assert (folder / "weights.c").exists() and not (folder / "weights.bin").exists()
    check(folder)


def test_larger_weights_are_a_file_for_the_assembler(tmp_path: Path) -> None:
    output = nomul.build(network(), output=tmp_path / "model", emit="c", array_limit=100)
    assert (output / "weights.S").exists() and (output / "weights.bin").exists()
    assert "weights.o: weights.S weights.bin" in (output / "Makefile").read_text()
    check(output)


def test_external_weights_are_given_by_the_caller(tmp_path: Path) -> None:
    output = nomul.build(network(), output=tmp_path / "model", emit="c", weights="external")
    assert " weights.o" not in (output / "Makefile").read_text()
    check(output, weights=(output / "weights.bin").read_bytes())


COMPILERS = ("gcc", "clang", "clang-14", "arm-none-eabi-gcc")
CORTEX = {"cortex-m7": "-mfpu=fpv5-d16", "cortex-m55": ""}


def objects(folder: Path, command: list[str], output: Path) -> Path:
    """One object of all sources, compiled without a warning."""
    parts = []
    for source in sorted(folder.glob("*.c")):
        parts.append(str(output / f"{source.stem}.o"))
        flags = [*WARNINGS, "-O2", "-DNM_NO_THREADS", "-DNM_NO_FILES", "-ffreestanding"]
        done = subprocess.run([*command, *flags, "-c", str(source), "-o", parts[-1]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:4000]
    subprocess.run([*command, "-r", "-nostdlib", *parts, "-o", str(output / "all.o")], check=True)
    return output / "all.o"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_builds_without_a_warning_and_needs_only_string_and_math(compiler: str, folder: Path, tmp_path: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"there is no {compiler}")
    cross = compiler.startswith("arm")
    for cpu, fpu in CORTEX.items() if cross else [("", "")]:
        flags = [f"-mcpu={cpu}", "-mthumb", "-mfloat-abi=hard", *fpu.split()] if cross else []
        merged = objects(folder, [compiler, *flags], tmp_path)
        tool = "arm-none-eabi-nm" if cross else "nm"
        symbols = subprocess.run([tool, "-u", str(merged)], capture_output=True, text=True, check=True).stdout.split()
        allowed = {"memcpy", "memset", "memcmp", "memmove", "fmaf", "U"}
        assert {name for name in symbols if not name.startswith("__aeabi_")} <= allowed, symbols


def test_threads_and_files_may_stay(folder: Path, tmp_path: Path) -> None:
    if not shutil.which("cc"):
        pytest.skip("there is no cc")
    for source in sorted(folder.glob("*.c")):
        command = ["cc", *WARNINGS, "-c", str(source), "-o", str(tmp_path / "out.o")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_makefile_builds_for_a_cortex(tmp_path: Path) -> None:
    if not (shutil.which("make") and shutil.which("arm-none-eabi-gcc")):
        pytest.skip("there is no make or no arm-none-eabi-gcc")
    output = nomul.build(network(), output=tmp_path / "model", emit="c", target="cortex-m55")
    done = subprocess.run(["make", "-s", "size"], cwd=output, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr.strip() and "(TOTALS)" in done.stdout, done.stderr


def test_sizes_are_constants(folder: Path) -> None:
    text = (folder / "model.h").read_text()
    assert "#define MODEL_INPUT_IMAGE_ELEMENTS 216 " in text and "#define MODEL_OUTPUT_SCORES_ELEMENTS 12 " in text
    size = int(text.split("#define MODEL_SCRATCH_BYTES ")[1].split()[0])
    check(folder)  # takes the scratch that the model asks for
    assert size % 64 == 0 and 0 < size < 10000


def test_writing_again_keeps_what_others_put_there(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    shutil.copytree(folder, output)
    (output / "main.c").write_text("mine")
    (output / "kernels.c").write_text("old")
    nomul.build(network(), output=output, emit="c", name="network")
    assert (output / "main.c").read_text() == "mine"
    assert (output / "kernels.c").read_bytes() == (folder / "kernels.c").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path != output]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(NomulError) as caught:
        nomul.build(network(), output=tmp_path / "model", emit="c")
    assert caught.value.code == "NM513" and (tmp_path / "model").read_text() == "mine"


def test_strict_and_library_targets_are_refused(tmp_path: Path) -> None:
    for options, code in (({"strict": True}, "NM405"), ({"target": "rpi5"}, "NM402")):
        with pytest.raises(NomulError) as caught:
            nomul.build(network(), output=tmp_path / "model", emit="c", **options)
        assert caught.value.code == code and not list(tmp_path.iterdir())
    with pytest.raises(NomulError, match="is a target of portable C") as caught:
        nomul.build(network(), output=tmp_path / "model.so", target="cortex-m7")
    assert caught.value.code == "NM402"


def test_the_array_of_weights_is_the_image() -> None:
    image = bytes(range(70))
    text = weights_array(image)
    assert bytes(int(n) for n in text.split("{\n")[1].split("}")[0].split(",")) == image


def test_equal_models_give_equal_sources(folder: Path, tmp_path: Path) -> None:
    again = nomul.build(network(), output=tmp_path / "again", emit="c", name="network")
    for path in folder.iterdir():
        if path.suffix in (".c", ".h", ".json") or path.name == "Makefile":
            assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_the_command_line_tells_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_nir(network(), tmp_path / "network.nir")
    source, output = str(tmp_path / "network.nir"), str(tmp_path / "out")
    command = ["compile", source, "--emit", "c", "--target", "cortex-m7", "-o", output]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "weights in weights.c" in text and "target cortex-m7, scratch" in text
    assert "CPU ?= -mcpu=cortex-m7" in (tmp_path / "out" / "target.mk").read_text()
    assert main([*command, "--array-limit", "1", "--dump", str(tmp_path / "dump")]) == 0
    assert "weights in weights.bin" in capsys.readouterr().out and not (tmp_path / "out" / "weights.c").exists()
    assert (tmp_path / "dump" / "kernels.c").read_bytes() == (tmp_path / "out" / "kernels.c").read_bytes()


def test_the_command_prints_notes_on_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_nir(network(), tmp_path / "network.nir")
    command = [
        "compile",
        str(tmp_path / "network.nir"),
        "-o",
        str(tmp_path / "model"),
        "--emit",
        "c",
        "--recipe",
        "int4",
    ]
    assert main(command) == 0
    facts = json.loads((tmp_path / "model" / "model.json").read_text())
    (note,) = facts["notes"]
    assert "fewer than 6 bits" in note and note[:40] in capsys.readouterr().out
