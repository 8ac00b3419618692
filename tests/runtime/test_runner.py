"""nomul-run: it runs, checks and times the model in it, and answers any bad file or word with a message."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from toy_artifact import KERNELS, toy_inputs, toy_plan, toy_reference

from nomul.backends.artifact import write_artifact
from nomul.backends.link import build_objects
from nomul.backends.recording import DATA_FILE, Recording, emit_recording, npy_bytes
from nomul.backends.runner import DATA_ASSEMBLY
from nomul.backends.zig import RUNTIME_SOURCES, write_runtime

HERE = Path(__file__).parent
STRICT = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
RUNNER = Path(str(files("nomul.runtime").joinpath("runner")))
X, Y = toy_inputs()
Z = toy_reference(X, Y)


def recording(tolerance: float = 1e-4, error: float = 0.0) -> Recording:
    info = np.array([35, 2], np.int64)
    return Recording({"B": 5, "S": 7}, [(0, 1)] * 2, [X, Y], [Z + np.float32(error), info], tolerance)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs as files."""
    made = tmp_path_factory.mktemp("inputs")
    np.save(made / "x.npy", X)
    np.save(made / "y.npy", Y)
    return made


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of a bundle."""
    bundle = tmp_path_factory.mktemp("bundle")
    levels = tuple(level for level in toy_plan().levels if level.name != "impossible")
    write_artifact(toy_plan(levels=levels), bundle, recording=recording())
    return bundle / "nomul-run"


@pytest.fixture(scope="module")
def sanitized() -> Iterator[Path]:
    """The same program from source, with sanitizers."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no gcc or clang here, whose sanitizers the test needs")
    with build_objects(toy_plan()) as build:
        write_runtime(build.folder, RUNTIME_SOURCES)
        for path in (KERNELS, HERE / "npy_mutations.c", *RUNNER.glob("*.[ch]")):
            shutil.copy(path, build.folder)
        text, data = emit_recording(recording(), ["B", "S"], "toy.weights")
        (build.folder / "recorded.c").write_text(text)
        (build.folder / DATA_FILE).write_bytes(data)
        (build.folder / "recorded_data.S").write_text(DATA_ASSEMBLY)
        levels = [f"kernels_{level.name}.o" for level in build.plan.levels]
        runner = [path.name for path in RUNNER.glob("*.c") if path.name != "model_opened.c"]
        sources = ["model.c", "weights.S", "recorded.c", "recorded_data.S", *RUNTIME_SOURCES, *runner, *levels]
        command = [compiler, *STRICT, *SANITIZERS, *sources, "-lpthread", "-lm", "-o", "nomul-run"]
        subprocess.run(command, cwd=build.folder, check=True)
        mutations = ["npy_mutations.c", "npy.c", "basics.c", "-o", "npy_mutations"]
        subprocess.run([compiler, *STRICT, *SANITIZERS, *mutations], cwd=build.folder, check=True)
        yield build.folder / "nomul-run"


def run(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return done


def inputs(folder: Path) -> list[str]:
    return [f"x={folder / 'x.npy'}", f"y={folder / 'y.npy'}"]


def test_outputs_are_npy_files(static: Path, folder: Path, tmp_path: Path) -> None:
    done = run(static, *inputs(folder), "-o", tmp_path, "--output", f"info={tmp_path / 'other.npy'}", "--threads=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("z: f32 [5, 7] ")
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), Z)
    assert np.load(tmp_path / "info.npy").tolist()[0] == 35
    assert (tmp_path / "info.npy").read_bytes() == (tmp_path / "other.npy").read_bytes()


def test_it_needs_no_library(static: Path) -> None:
    """Statically linked: an ELF file without a program interpreter."""
    assert b"/lib/ld-" not in static.read_bytes()


def test_the_self_test_passes_and_finds_wrong_results(tmp_path: Path) -> None:
    for error, code, word in ((0.0, 0, "passed"), (0.01, 3, "FAILED")):
        level = (toy_plan().levels[-2],)
        write_artifact(toy_plan(levels=level), tmp_path, recording=recording(error=error))
        done = run(tmp_path / "nomul-run", "--selftest")
        assert done.returncode == code and f"selftest {word}: 2 outputs" in done.stdout, done.stdout
        assert run(tmp_path / "nomul-run", "--selftest", "--tolerance", "0.1").returncode == 0


def test_without_a_recorded_run(tmp_path: Path) -> None:
    write_artifact(toy_plan(), tmp_path)
    done = run(tmp_path / "nomul-run", "--selftest")
    assert done.returncode == 1 and "the compiler recorded no run" in done.stderr


def test_info_tells_ports_dims_levels_and_scratch(static: Path) -> None:
    out = run(static, "--info", "--dim", "S=100").stdout.splitlines()
    assert out[:2] == ["toy for x86_64-linux", "input x: f32 [B, S]"]
    assert "dim S: 1 to 512" in out and "level plain (): runs on this CPU" in out
    assert out[-1] == "scratch memory of a run, 1 thread, B = 5, S = 100: 2624 bytes"


def test_bench_prints_latency_and_memory(static: Path, folder: Path) -> None:
    options = ("--bench", "--seconds", "0.05", "--threads", 2, "--level", "plain")
    found = json.loads(run(static, *options, "--json", "--dim=B=3").stdout)
    assert found["level"] == "plain" and found["threads"] == 2 and found["dims"] == [3, 7] and found["runs"] >= 10
    assert 0 < found["low_ms"] <= found["p50_ms"] <= found["p90_ms"] < 100
    assert found["scratch_bytes"] < 10_000 < found["peak_bytes"] < 50_000_000
    assert "B = 5, S = 7\np50 " in run(static, "--bench", "--seconds=0", *inputs(folder)).stdout


def npy(header: str, data: bytes = b"", version: int = 1, pad: int = 0) -> bytes:
    text = header.encode() + b" " * pad + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


FORM = "{{'descr': '{0}', 'fortran_order': {1}, 'shape': {2}, }}"
GOOD = npy(FORM.format("<f4", False, "(5, 7)"), X.tobytes())
BAD = {
    "empty": (b"", "it is no .npy file"),
    "magic": (b"PK" + GOOD[2:], "it is no .npy file"),
    "version": (npy(FORM.format("<f4", False, "(5, 7)"), X.tobytes(), 9), "unknown version"),
    "cut in the header": (GOOD[:40], "cut off"),
    "cut in the data": (GOOD[:-1], "fewer bytes than its shape says"),
    "more data": (GOOD + b"\0", "more bytes than its shape says"),
    "a huge header": (npy(FORM.format("<f4", False, "(5, 7)"), X.tobytes(), 2, 100_000), "header is too long"),
    "a header that says so": (GOOD[:6] + b"\2\0\xff\xff\xff\xff" + GOOD[12:], "header is too long"),
    "no dictionary": (npy("[1, 2]"), "no dictionary"),
    "no end": (npy("{'descr': '<f4'"), "damaged"),
    "another entry": (npy("{'what': 1}"), "should not be there"),
    "twice": (npy("{'descr': '<f4', 'descr': '<f4'}"), "should not be there"),
    "no shape": (npy("{'descr': '<f4', 'fortran_order': False}"), "damaged"),
    "doubles": (npy_bytes(X.astype(np.float64)), "its elements are f64, those of x f32"),
    "big-endian": (npy_bytes(X.astype(">f4")), "big-endian"),
    "complex": (npy_bytes(X.astype(np.complex64)), "none that a model takes"),
    "objects": (npy(FORM.format("|O", False, "(5, 7)")), "none that a model takes"),
    "Fortran": (npy(FORM.format("<f4", True, "(5, 7)"), X.tobytes()), "Fortran order"),
    "axes": (npy_bytes(X[0]), "it has 1 axes, x has 2"),
    "many axes": (npy(FORM.format("<f4", False, "(" + "1, " * 17 + ")"), b"1234"), "too many axes"),
    "overflow": (npy(FORM.format("<f4", False, "(4294967296, 4294967296)")), "fewer bytes"),
    "a huge size": (npy(FORM.format("<f4", False, "(99999999999999999999, 1)")), "no proper shape"),
    "negative": (npy(FORM.format("<f4", False, "(-5, 7)"), X.tobytes()), "no proper shape"),
    "half a bool": (npy(FORM.format("|b1", False, "(2,)"), b"\1\2"), "neither 0 nor 1"),
    "another shape": (npy_bytes(X[:, :6]), "inputs: "),
    "no rows": (npy_bytes(X[:0]), "B in [1, 4096]"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_gives_a_message(what: str, sanitized: Path, folder: Path, tmp_path: Path) -> None:
    content, message = BAD[what]
    (tmp_path / "bad.npy").write_bytes(content)
    done = run(sanitized, f"x={tmp_path / 'bad.npy'}", f"y={folder / 'y.npy'}")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("nomul-run: ") and message in done.stderr, done.stderr


def test_damaged_files_never_crash_the_reader(sanitized: Path, tmp_path: Path) -> None:
    paths = []
    for number, array in enumerate((X, np.arange(3, dtype=np.int64), np.array(True), np.zeros((2, 0, 3), np.int8))):
        paths.append(tmp_path / f"{number}.npy")
        paths[-1].write_bytes(npy_bytes(array))
    done = run(sanitized.with_name("npy_mutations"), 30_000, *paths)
    assert done.returncode == 0 and int(done.stdout.removeprefix("accepted ")) > 1000, done.stdout


def test_every_command_is_clean_under_sanitizers(sanitized: Path, folder: Path, tmp_path: Path) -> None:
    for words in (["--info"], ["--bench", "--seconds=0", "--threads=3"], ["--selftest", "--level", "fast"]):
        assert run(sanitized, *words).returncode == 0
    assert run(sanitized, *inputs(folder), "-o", tmp_path, "--threads", 4).returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), Z)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["x"], 2, "no option and no INPUT=FILE.npy: x"),
        (["--nothing"], 2, "no option"),
        (["--threads"], 2, "no value behind --threads"),
        (["--threads", "0"], 2, "no proper number: 0"),
        (["--threads", "1000"], 2, "too many threads"),
        (["--threads", "two"], 2, "no proper number: two"),
        ([], 1, "input x is missing"),
        (["w=x.npy"], 1, "no such input"),
        (["x=nowhere.npy"], 1, "cannot open nowhere.npy"),
        (["x=/"], 1, "cannot "),
        (["--info", "--dim", "S=513"], 1, "dim S goes from 1 to 512, not 513"),
        (["--info", "--dim", "S=1x"], 1, "dim S goes from 1 to 512, not 1x"),
        (["--info", "--dim", "T=1"], 1, "names no dim"),
        (["--info", "--level", "v9"], 1, "the model has no level v9"),
        (["--info", "--library", "m.so"], 1, "takes no --library"),
    ],
)
def test_wrong_words(words: list[str], code: int, message: str, sanitized: Path) -> None:
    done = run(sanitized, *words)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert ("usage: nomul-run" in done.stderr) == (code == 2)


def test_outputs_that_cannot_be_written(static: Path, folder: Path, tmp_path: Path) -> None:
    for options, message in (
        (["-o", tmp_path / "nowhere"], "cannot write"),
        (["--output", "z=/dev/full"], "is the disk full?"),
        (["--output", f"w={tmp_path / 'w.npy'}"], "no such output"),
    ):
        done = run(static, *inputs(folder), *options)
        assert done.returncode == 1 and message in done.stderr, done.stderr


def test_weights_in_a_file_of_their_own(folder: Path, tmp_path: Path) -> None:
    write_artifact(toy_plan(), tmp_path, weights="external", recording=recording())
    program = tmp_path / "nomul-run"
    assert run(program, *inputs(folder), "-o", tmp_path).returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), Z)
    weights = (tmp_path / "model.so.weights").rename(tmp_path / "elsewhere")
    assert "model.so.weights" in run(program, "--selftest").stderr
    assert run(program, *inputs(folder), "--weights", weights).returncode == 0
    weights.write_bytes(weights.read_bytes()[:100])
    assert run(program, *inputs(folder), "--weights", weights).returncode == 1
