"""Compiled models under qemu-user: right results on every architecture, and a message where the CPU lacks a feature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from elf import dynamic_symbols, sections
from emulate import Fault, Program, emulated, opened, opened_for_macos, sysroot
from pass_graphs import Graph
from toy_artifact import toy_inputs, toy_plan, toy_reference

import nomul
from nomul.backends.link import link_library
from nomul.backends.plan import Plan
from nomul.backends.target import find_target
from nomul.ir import interpreter
from nomul.ir.graph import Module
from nomul.options import Options
from nomul.pipeline import lower_to_plan

MISSING_CPU = 15


def mixture() -> Module:
    """A linear layer, norm, attention, convolution, half floats, integers: kernels of most kinds."""
    graph = Graph({"B": (1, 3), "S": (1, 9)})
    nn, ew, view = graph.b.nn, graph.b.ew, graph.b.view
    ids, x = graph.input("ids", "B", "S", dtype="i64"), graph.input("x", "B", "S", 24)
    rows = ew.add(graph.b.index.gather(graph.weight("table", 50, 24), ids), x)
    wide = ew.gelu(nn.linear(rows, graph.weight("up", 48, 24), graph.weight("up_bias", 48)))
    rows = nn.layer_norm(nn.linear(wide, graph.weight("down", 24, 48)), graph.weight("g", 24), graph.weight("b", 24))
    heads = view.reshape(rows, shape=("B", "S", 3, 8))
    seen = nn.attention(heads, heads, heads, scale=8**-0.5)
    half = ew.cast(ew.tanh(rows), dtype="f16")
    image = view.reshape(rows, shape=("B", 1, "S", 24))
    pixels = nn.conv2d(image, graph.weight("filter", 8, 1, 3, 3), strides=(1, 2), pads=(1, 1, 1, 1))
    best = graph.b.reduce.argmax(nn.softmax(rows, axis=2), axis=2)
    return graph.module(seen, half, pixels, best)


def plan_for(target: str) -> Plan:
    return lower_to_plan(mixture(), Options(targets=(target,))).plan


def arrays(batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(length)
    return random.integers(0, 50, (batch, length)), random.standard_normal((batch, length, 24), np.float32)


def check(program: Program, cpu: str | None, level: str | None = None) -> None:
    for batch, length in ((1, 1), (3, 7)):
        inputs = arrays(batch, length)
        expected = interpreter.run(mixture(), *inputs)
        for given, wanted in zip(program(*inputs, cpu=cpu, level=level), expected, strict=True):
            assert (given.dtype, given.shape) == (wanted.dtype, wanted.shape)
            tolerance = 1e-3 if wanted.dtype == np.float16 else 2e-5
            np.testing.assert_allclose(given, wanted, rtol=0, atol=tolerance * max(1, np.abs(wanted).max()))


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return emulated(mixture(), "aarch64-linux", tmp_path_factory.mktemp("arm64"))


@pytest.mark.parametrize(
    ("cpu", "level"), [("cortex-a53", "neon"), ("cortex-a72", "neon"), ("cortex-a76", "dotprod"), ("max", "i8mm")]
)
def test_a_cpu_runs_the_best_level_that_it_has(arm64: Program, cpu: str, level: str) -> None:
    assert arm64.best_level(*arrays(1, 2), cpu=cpu) == level
    check(arm64, cpu)


@pytest.mark.parametrize("level", ["i8mm", "dotprod", "neon"])
def test_every_level_gives_the_results_of_the_interpreter(arm64: Program, level: str) -> None:
    check(arm64, "max", level)


@pytest.mark.parametrize(
    ("cpu", "level", "missing"),
    [("cortex-a76", "i8mm", "i8mm"), ("cortex-a72", "i8mm", "fp16"), ("cortex-a72", "dotprod", "fp16")],
)
def test_a_level_that_the_cpu_lacks_is_refused_by_name(arm64: Program, cpu: str, level: str, missing: str) -> None:
    with pytest.raises(Fault, match=f"^{missing}$") as caught:
        arm64(*arrays(1, 2), cpu=cpu, level=level)
    assert caught.value.code == MISSING_CPU


@pytest.mark.parametrize(
    ("target", "lacking", "having", "missing"),
    [
        ("rpi5", "cortex-a72", "cortex-a76", "fp16"),
        ("aarch64-linux+dotprod", "a64fx", "neoverse-n1", "dotprod"),
        ("aarch64-linux+fp16", "cortex-a57", "a64fx", "fp16"),
        ("aarch64-linux+i8mm", "neoverse-n1", "max", "i8mm"),
        ("aarch64-linux+bf16", "neoverse-n1", "max", "bf16"),
        ("graviton3-musl", "cortex-a76", "max", "i8mm"),
        ("arm-linux", "cortex-a8", "cortex-a7", "vfp4"),
        ("arm-linux", "cortex-a9", "cortex-a15", "vfp4"),
        ("riscv64-linux", "", "rv64", ""),
    ],
)
def test_a_cpu_without_a_feature_gets_its_name(
    target: str, lacking: str, having: str, missing: str, tmp_path: Path
) -> None:
    program = emulated(mixture(), target, tmp_path)
    check(program, having)
    if missing:
        with pytest.raises(Fault, match=f"^{missing}$") as caught:
            program(*arrays(1, 2), cpu=lacking)
        assert caught.value.code == MISSING_CPU


@pytest.mark.parametrize("target", ["rpi4", "arm-linux", "riscv64-linux"])
def test_a_program_on_the_board_opens_the_library(target: str, tmp_path: Path) -> None:
    library = nomul.build(mixture(), target=target, output=tmp_path / "model.so")
    program = opened(library, plan_for(target), find_target(target)[0].arch, tmp_path)
    check(program, None)
    for one, three in zip(program(*arrays(2, 5)), program(*arrays(2, 5), threads=3), strict=True):
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("target", ["rpi4", "arm-linux", "riscv64-linux", "arm-linux-musl"])
def test_rounding_is_exact_and_needs_no_libm(target: str, tmp_path: Path) -> None:
    graph = Graph()
    x, ew = graph.input("x", "B", 16), graph.b.ew
    wide = ew.cast(x, dtype="f64")
    rounded = [(ew.floor(v), ew.ceil(v), ew.round(v), ew.trunc(v)) for v in (x, wide)]
    module = graph.module(*(value for values in rounded for value in values))
    library = nomul.build(module, target=target, output=tmp_path / "model.so")
    needs = {symbol.name for symbol in dynamic_symbols(library.read_bytes()) if not symbol.defined}
    assert not {name for name in needs if name.startswith(("floor", "ceil", "rint", "trunc", "__aeabi"))}
    numbers = [0.0, -0.0, 0.5, -0.5, 1.5, -2.5, 0.7, -0.7, 1e9, -8388607.5, 4194303.5, np.inf, -np.inf, np.nan, 3, -3.2]
    values = np.array([numbers], np.float32)
    for given, wanted in zip(emulated(module, target, tmp_path)(values), interpreter.run(module, values), strict=True):
        np.testing.assert_array_equal(given, wanted)
        np.testing.assert_array_equal(np.signbit(given), np.signbit(wanted))


# Names that the NDK's libc.so has for Android 5 (API level 21).
BIONIC = """
__errno __sched_cpucount bcmp clock_gettime close fstat getauxval memcmp memcpy memmove memset mmap munmap open strlen
pthread_cond_broadcast pthread_cond_destroy pthread_cond_init pthread_cond_signal pthread_cond_wait pthread_create
pthread_join pthread_mutex_destroy pthread_mutex_init pthread_mutex_lock pthread_mutex_unlock sched_getaffinity
sched_getcpu sched_setaffinity syscall
"""


def test_an_android_library_needs_only_what_bionic_has(tmp_path: Path) -> None:
    triple = "aarch64-linux-android.21"
    library = link_library(toy_plan(triple), tmp_path / "model.so", triple=triple).library
    symbols = dynamic_symbols(library.read_bytes())
    assert {symbol.name for symbol in symbols if not symbol.defined} <= set(BIONIC.split())
    assert [symbol.name for symbol in symbols if symbol.defined] == ["nm_query"]
    assert needed(library) == ["libc.so"]


def test_an_android_library_runs_with_the_libc_of_another_system(tmp_path: Path) -> None:
    triple = "aarch64-linux-android.21"
    plan = toy_plan(triple)
    library = link_library(plan, tmp_path / "model.so", triple=triple).library
    (tmp_path / "libc.so").symlink_to(sysroot("aarch64") / "lib" / "libc.so.6")
    program = opened(library, plan, "aarch64", tmp_path, libraries=tmp_path)
    x, y = toy_inputs()
    np.testing.assert_array_equal(program(x, y)[0], toy_reference(x, y))


def needed(library: Path) -> Sequence[str]:
    """DT_NEEDED of a 64-bit ELF library."""
    by_name = {section.name: section.data for section in sections(library.read_bytes())}
    table = np.frombuffer(by_name[".dynamic"], "<i8").reshape(-1, 2)
    names = by_name[".dynstr"]
    return [names[int(at) : names.index(b"\0", int(at))].decode() for tag, at in table if tag == 1]


@pytest.mark.parametrize(("target", "machine", "level"), [("apple-m1", "1", None), ("aarch64-macos", "2", "apple_m2")])
def test_a_library_for_macos_runs_in_a_loader_of_our_own(
    target: str, machine: str, level: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NM_APPLE", machine)
    library = nomul.build(mixture(), target=target, output=tmp_path / "model.dylib")
    program = opened_for_macos(library, plan_for(target), tmp_path)
    check(program, "max", level)
    np.testing.assert_array_equal(program(*arrays(3, 7), cpu="max")[0], program(*arrays(3, 7), cpu="max", threads=3)[0])


def test_an_m1_refuses_what_the_m2_has(tmp_path: Path) -> None:
    library = nomul.build(mixture(), target="apple-m2", output=tmp_path / "model.dylib")
    program = opened_for_macos(library, plan_for("apple-m2"), tmp_path)
    with pytest.raises(Fault, match=r"^i8mm$"):
        program(*arrays(1, 2), cpu="max")
