"""A toy model with kernels in C: what driver, linker, runtime and loader need for their tests, without TVM."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nomul.backends.driver import known_features
from nomul.backends.plan import Level, Location, Plan, Port, Step
from nomul.backends.target import find_target
from nomul.backends.zig import compile_source
from nomul.ir.dim import Dim
from nomul.ir.types import DType
from nomul.runtime import abi

HOST = find_target("host")[0].zig
KERNELS = Path(__file__).with_name("toy_kernels.c")
W_OFFSET = 64
SHIFT, SCALE = np.arange(4, dtype=np.float32), np.float32(0.5)


@cache
def kernel_object(level: str, level_id: int, triple: str = HOST) -> bytes:
    """toy_kernels.c compiled for a level."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernels.c").write_bytes(KERNELS.read_bytes())
        flags = ["-O2", f"-DLEVEL={level}", f"-DLEVEL_ID={level_id}"]
        return (folder / compile_source("kernels.c", triple, flags, folder, keep=True)).read_bytes()


def missing_features() -> list[str]:
    """Features that the runtime knows and this CPU lacks."""
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")]
    present = {name.replace("_", "") for line in lines for name in line.partition(":")[2].split()}
    return [name for name in known_features() if name.startswith("avx") and name not in present]


def toy_levels(triple: str = HOST) -> tuple[Level, ...]:
    """An impossible level (where the CPU lacks something), one that needs SSE 4.2, and one that needs nothing."""
    if not triple.startswith("x86_64"):
        return (Level("plain", (), kernel_object("plain", 1, triple)),)
    fast = Level("fast", ("ssse3", "sse4.2"), kernel_object("fast", 2))
    plain = Level("plain", (), kernel_object("plain", 1))
    missing = missing_features()[:1]
    impossible = Level("impossible", ("sse4.2", *missing), kernel_object("impossible", 3))
    return (impossible, fast, plain) if missing else (fast, plain)


def toy_plan(triple: str = HOST, grain: int = 2, levels: tuple[Level, ...] | None = None) -> Plan:
    """x: f32[B, S], y: f32[B, 2*S + 1] -> z: f32[B, S], info: i64[2]; see toy_kernels.c."""
    batch, length = Dim.of("B"), Dim.of("S")
    weights = np.zeros(32, np.float32)
    weights[:4], weights[W_OFFSET // 4] = SHIFT, SCALE
    slot = Location("slot", 1)
    add = (Location("input", 0), Location("input", 1), Location("weight"), slot)
    flip = (slot, Location("weight", 0, Dim.of(W_OFFSET)), Location("output", 0))
    return Plan(
        name="toy",
        inputs=(Port("x", DType.F32, (batch, length)), Port("y", DType.F32, (batch, length * 2 + 1))),
        outputs=(Port("z", DType.F32, (batch, length)), Port("info", DType.I64, (Dim.of(2),))),
        dims={"B": (1, 4096), "S": (1, 512)},
        slots=((Dim.of(100),), (batch * length * 4, batch * 8)),
        steps=(
            Step("add_rows", add, ("B", "S"), batch, grain, comment="%t = ew.add %x, %y (layers.0.add)"),
            Step("flip_scale", flip, ("S",), batch, grain, scratch=length * 4, comment="%z = flip %t (layers.1)"),
            Step("describe", (Location("output", 1),), ("B", "S"), Dim.of(1), comment="%info"),
        ),
        weights=weights.tobytes(),
        levels=toy_levels(triple) if levels is None else levels,
        target="x86_64-linux",
    )


def toy_inputs(batch: int = 5, length: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = ((batch, length), (batch, 2 * length + 1))
    return tuple(random.standard_normal(shape, dtype=np.float32) for shape in shapes)  # type: ignore[return-value]


def toy_reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What z must be."""
    shifted = x + y[:, 1::2] + SHIFT[np.arange(x.shape[1]) % 4]
    return shifted[:, ::-1] * SCALE


class Direct:
    """The C interface of a library, called as a C program would, for tests of wrong calls."""

    def __init__(self, path: Path) -> None:
        self.query = ctypes.CDLL(str(path)).nm_query
        self.query.restype = ctypes.POINTER(abi.NmModel)
        self.model = self.query(abi.ABI).contents
        self.keep: list[object] = []

    def tensors(self, *arrays: np.ndarray) -> ctypes.Array[abi.NmTensor]:
        codes = {"float32": 2, "int64": 5, "float64": 1}
        made = (abi.NmTensor * len(arrays))()
        for tensor, array in zip(made, arrays, strict=True):
            shape = (ctypes.c_int64 * max(1, array.ndim))(*array.shape)
            self.keep += [shape, array]
            tensor.data, tensor.rank, tensor.dtype = array.ctypes.data, array.ndim, codes[array.dtype.name]
            tensor.shape = shape
        return made

    def memory(self, size: int, misalign: int = 0) -> int:
        """The address of so many bytes, `misalign` past a multiple of 64."""
        array = np.zeros(size + 128, np.uint8)
        self.keep.append(array)
        return array.ctypes.data + -array.ctypes.data % 64 + misalign

    def env(self, scratch_size: int = 1 << 20, **fields: object) -> abi.NmEnv:
        scratch = self.memory(scratch_size)
        values = {"size": ctypes.sizeof(abi.NmEnv), "scratch": scratch, "scratch_size": scratch_size} | fields
        return abi.NmEnv(**values)

    def describe(self, status: int) -> str:
        return abi.describe(self.model, status)
