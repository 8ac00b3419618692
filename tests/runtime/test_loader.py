"""Artifacts from Python: right results for every way to hand in tensors, clear refusals for the wrong ones."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from toy_artifact import HOST, missing_features, toy_inputs, toy_plan, toy_reference

from nomul.backends.link import link_library
from nomul.backends.plan import Level, Location, Plan, Port, Step
from nomul.backends.zig import compile_source
from nomul.ir.dim import Dim
from nomul.ir.types import DType
from nomul.runtime.errors import RuntimeFault
from nomul.runtime.huge_pages import HugeCopy
from nomul.runtime.loader import Artifact, load


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (5, 7), (100, 512), (4096, 3)])
def test_results_for_all_sizes_and_threads(toy: Artifact, batch: int, length: int, threads: int) -> None:
    x, y = toy_inputs(batch, length)
    z, info = toy(x, y, threads=threads)
    np.testing.assert_array_equal(z, toy_reference(x, y))
    assert info[0] == batch * length and info.dtype == np.int64


def test_an_artifact_describes_itself(toy: Artifact) -> None:
    assert str(toy.inputs[1]) == "y: f32[B, 2*S + 1]"
    assert toy.outputs[1].shape == (2,)
    assert toy.dims == {"B": (1, 4096), "S": (1, 512)}
    assert (toy.name, toy.target) == ("toy", "x86_64-linux")
    assert toy.facts["compiler"] == "test" and toy.facts["weights"]["external"] is False
    assert "toy" in repr(toy)


def test_inputs_by_name_and_in_other_layouts(toy: Artifact) -> None:
    x, y = toy_inputs()
    expected = toy_reference(x, y)
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert not unaligned.flags.aligned
    for value in (
        np.asfortranarray(x),
        np.repeat(x, 2, axis=1)[:, ::2],
        x[:, ::-1].copy()[:, ::-1],
        unaligned,
        x.tolist(),
    ):
        np.testing.assert_array_equal(toy(y=y, x=value)[0], expected)


def test_torch_tensors(toy: Artifact) -> None:
    torch = pytest.importorskip("torch")
    x, y = toy_inputs()
    result = toy(torch.from_numpy(x).requires_grad_(), torch.from_numpy(y.T.copy()).T)[0]
    np.testing.assert_array_equal(result, toy_reference(x, y))
    with pytest.raises(RuntimeFault, match="cannot be taken over"):
        toy(torch.zeros(5, 7, device="meta"), y)


class OnDevice:
    """A DLPack tensor that says it is on a GPU."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self) -> None:
        raise AssertionError("not to be asked")


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        (("x",), {}, "input 'y' is missing"),
        (("x", "y", "x"), {}, "3 values for 2 inputs"),
        (("x",), {"x": "x", "y": "y"}, "'x' is given twice"),
        (("x",), {"w": "x"}, "there is no input 'w'; input 'y' is missing"),
        (("double", "y"), {}, "input 'x' takes f32, not float64"),
        (("text", "y"), {}, "input 'x' takes f32, not <U"),
        (("none", "y"), {}, "input 'x' is a NoneType, not a tensor"),
        (("ragged", "y"), {}, "input 'x'"),
        (("device", "y"), {}, "input 'x' is not in main memory"),
    ],
)
def test_wrong_arguments(toy: Artifact, arguments: tuple[str, ...], named: dict[str, str], message: str) -> None:
    x, y = toy_inputs()
    ragged = [[1.0], [2.0, 3.0]]
    values = {
        "x": x,
        "y": y,
        "double": x.astype("f8"),
        "text": "abc",
        "none": None,
        "ragged": ragged,
        "device": OnDevice(),
    }
    with pytest.raises(RuntimeFault, match=message) as caught:
        toy(*(values[name] for name in arguments), **{name: values[value] for name, value in named.items()})
    assert caught.value.code == "NM610"


@pytest.mark.parametrize(
    ("x_shape", "y_shape", "message"),
    [
        ((5, 7), (5, 14), r"does not fit the sizes of the other axes: input 'y', axis 1 of \[B, 2\*S \+ 1\]"),
        ((5, 7), (4, 15), r"does not fit.* input 'y', axis 0"),
        ((5, 513), (5, 1027), r"outside the range .*: S in \[1, 512\]"),
        ((0, 7), (0, 15), r"outside the range .*: B in \[1, 4096\]"),
        ((7,), (5, 15), "too many or too few axes: input 'x'"),
    ],
)
def test_wrong_shapes_name_the_port_and_what_was_given(
    toy: Artifact, x_shape: tuple[int, ...], y_shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(RuntimeFault, match=message) as caught:
        toy(np.zeros(x_shape, np.float32), np.zeros(y_shape, np.float32))
    assert caught.value.code == "NM611"
    assert f"given x: {list(x_shape)}" in str(caught.value.help)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_that_fails(toy: Artifact, threads: int) -> None:
    x, y = toy_inputs(64)
    x[40, 0] = np.nan
    with pytest.raises(RuntimeFault, match="a kernel failed"):
        toy(x, y, threads=threads)
    x[40, 0] = 0
    np.testing.assert_array_equal(toy(x, y, threads=threads)[0], toy_reference(x, y))


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_a_number_of_threads_out_of_range(toy: Artifact, threads: int) -> None:
    with pytest.raises(RuntimeFault, match="it must be from 1 to 256"):
        toy(*toy_inputs(), threads=threads)


def test_levels_can_be_forced(toy: Artifact) -> None:
    x, y = toy_inputs()
    assert toy.level == "fast"
    assert toy(x, y)[1][1] == 2
    toy.force_level("plain")
    assert (toy.level, toy(x, y)[1][1]) == ("plain", 1)
    toy.force_level(None)
    assert toy(x, y)[1][1] == 2
    with pytest.raises(RuntimeFault, match="no level 'fastest'"):
        toy.force_level("fastest")


@pytest.mark.skipif(not missing_features(), reason="this CPU has all features")
def test_a_level_that_this_cpu_cannot_run(toy: Artifact, tmp_path: Path) -> None:
    missing = missing_features()[0]
    with pytest.raises(RuntimeFault, match=f"this CPU lacks {missing}, which level 'impossible' needs"):
        toy.force_level("impossible")
    plan = replace(toy_plan(), levels=toy_plan().levels[:1])
    with load(link_library(plan, tmp_path / "toy.so").library) as artifact:
        with pytest.raises(RuntimeFault, match=f"this CPU lacks {missing}, which toy needs"):
            _ = artifact.level
        with pytest.raises(RuntimeFault, match=f"lacks an instruction set that the kernels need: {missing}"):
            artifact(*toy_inputs())


def test_profile_names_every_step(toy: Artifact) -> None:
    rows = toy.profile(*toy_inputs(), repeat=2)
    assert [comment.split(" ")[0] for comment, _ in rows] == ["%t", "%z", "%info"]
    assert all(0 < seconds < 1 for _, seconds in rows)


def test_a_file_written_anew_is_loaded_anew(tmp_path: Path) -> None:
    path = tmp_path / "toy.so"
    with load(link_library(toy_plan(), path).library) as first:
        with load(link_library(replace(toy_plan(), name="other"), path).library) as second:
            assert (first.name, second.name) == ("toy", "other")
        x, y = toy_inputs()
        np.testing.assert_array_equal(first(x, y)[0], toy_reference(x, y))


def test_a_closed_artifact_refuses(toy_library: Path) -> None:
    artifact = load(toy_library)
    artifact(*toy_inputs(), threads=2)
    artifact.close()
    artifact.close()
    for use in (lambda: artifact(*toy_inputs()), lambda: artifact.level, lambda: artifact.force_level("plain")):
        with pytest.raises(RuntimeFault, match="closed"):
            use()


def test_closing_while_another_thread_runs_is_refused(toy_library: Path) -> None:
    with load(toy_library) as artifact:
        lane = artifact._lanes.take(1)
        with pytest.raises(RuntimeFault, match="toy is running in another thread"):
            artifact.close()
        artifact._lanes.give_back(lane)


_FORK = """
import os, sys
import numpy as np
from nomul.runtime.loader import load
artifact = load(sys.argv[1])
x, y = np.ones((100, 3), np.float32), np.ones((100, 7), np.float32)
expected = artifact(x, y, threads=3)[0]
child = os.fork()
assert np.array_equal(artifact(x, y, threads=3)[0], expected)
artifact.close()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_starts_threads_of_its_own(toy_library: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _FORK, str(toy_library)], timeout=60, check=False)
    assert done.returncode == 0


def test_a_dropped_artifact_stops_its_threads(toy_library: Path) -> None:
    def thread_count() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    gc.collect()
    before = thread_count()
    artifact = load(toy_library)
    artifact(*toy_inputs(100), threads=4)
    assert thread_count() == before + 3
    del artifact
    gc.collect()
    assert thread_count() == before


def test_threads_may_share_an_artifact(toy: Artifact) -> None:
    failures: list[str] = []

    def use(seed: int) -> None:
        for turn in range(50):
            x, y = toy_inputs(1 + (seed * 7 + turn) % 60, 1 + turn, seed)
            if not np.array_equal(toy(x, y, threads=1 + seed % 3)[0], toy_reference(x, y)):
                failures.append(f"thread {seed}, turn {turn}")

    users = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert not failures


COPY = """
#include <stdint.h>
#include <string.h>
int32_t copy__plain(void *from, void *to, int64_t N, int64_t begin, int64_t end, void *scratch) {
  (void)N, (void)scratch;
  memcpy((char *)to + SIZE * begin, (char *)from + SIZE * begin, SIZE * (end - begin));
  return 0;
}
"""


def copy_plan(dtype: DType, folder: Path) -> Plan:
    """x: dtype[N] -> y: dtype[N], and a scalar n: dtype[] that is given and ignored."""
    (folder / "copy.c").write_text(COPY)
    code = folder / compile_source("copy.c", HOST, ["-O2", f"-DSIZE={dtype.bytes}"], folder)
    size = Dim.of("N")
    step = Step("copy", (Location("input", 0), Location("output", 0)), ("N",), size, 64)
    levels = (Level("plain", (), code.read_bytes()),)
    ports = (Port("x", dtype, (size,)), Port("n", dtype, ())), (Port("y", dtype, (size,)),)
    return Plan("copy", *ports, {"N": (0, float("inf"))}, (), (step,), b"", levels, "x86_64-linux")


@pytest.mark.parametrize("dtype", list(DType), ids=str)
def test_every_dtype_a_scalar_and_no_elements(dtype: DType, tmp_path: Path) -> None:
    with load(link_library(copy_plan(dtype, tmp_path), tmp_path / "copy.so").library) as artifact:
        for size in (0, 1, 1000):
            x = (np.arange(size) % 2).astype(dtype.numpy)
            (y,) = artifact(x, np.zeros((), dtype.numpy), threads=2)
            assert y.dtype == dtype.numpy and y.tobytes() == x.tobytes()
        (y,) = artifact(x, 1)
        assert y.tobytes() == x.tobytes()


def test_bfloat16_from_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with load(link_library(copy_plan(DType.BF16, tmp_path), tmp_path / "copy.so").library) as artifact:
        (y,) = artifact(torch.tensor([1.5, -2.0, 3.0], dtype=torch.bfloat16), torch.tensor(0, dtype=torch.bfloat16))
    np.testing.assert_array_equal(y, np.array([1.5, -2, 3], ml_dtypes.bfloat16))


def test_numbers_that_do_not_fit_are_not_bent(tmp_path: Path) -> None:
    with load(link_library(copy_plan(DType.I64, tmp_path), tmp_path / "copy.so").library) as artifact:
        np.testing.assert_array_equal(artifact([1, 2], 0)[0], [1, 2])
        with pytest.raises(RuntimeFault, match="takes i64, not float64"):
            artifact([1.5, 2.0], 0)
    bytes_library = link_library(copy_plan(DType.U8, tmp_path), tmp_path / "bytes.so").library
    with load(bytes_library) as artifact, pytest.raises(RuntimeFault, match="takes u8, not int64"):
        artifact([1, 300], 0)


def test_external_weights(external_library: Path, tmp_path: Path) -> None:
    x, y = toy_inputs()
    with load(external_library) as artifact:
        np.testing.assert_array_equal(artifact(x, y)[0], toy_reference(x, y))
    moved = tmp_path / "moved.weights"
    moved.write_bytes(Path(f"{external_library}.weights").read_bytes())
    with load(external_library, weights=moved) as artifact:
        np.testing.assert_array_equal(artifact(x, y)[0], toy_reference(x, y))


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are Linux's")
@pytest.mark.parametrize("which", ["toy_library", "external_library"])
def test_weights_in_huge_pages(which: str, request: pytest.FixtureRequest) -> None:
    x, y = toy_inputs()
    with load(request.getfixturevalue(which), huge_pages=True) as artifact:
        assert artifact._library.weights.value % 2**21 == 0
        np.testing.assert_array_equal(artifact(x, y, threads=2)[0], toy_reference(x, y))


def test_no_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "freebsd14")
    with pytest.raises(RuntimeFault, match="on Linux only") as error:
        HugeCopy(0, 10)
    assert error.value.code == "NM608"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: None, "cannot be opened or mapped"),
        (lambda data: b"", "cannot be opened or mapped"),
        (lambda data: data[:50], "truncated"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: b"X" + data[1:], "damaged or belong to another model"),
        (lambda data: data[:-3] + b"X" + data[-2:], "damaged or belong to another model"),
    ],
)
def test_damaged_external_weights(external_library: Path, tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    weights = tmp_path / "w"
    data = damage(Path(f"{external_library}.weights").read_bytes())
    if data is not None:
        weights.write_bytes(data)
    with pytest.raises(RuntimeFault, match=message) as caught:
        load(external_library, weights=weights)
    assert caught.value.code == "NM607"
