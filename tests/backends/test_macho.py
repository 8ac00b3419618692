"""Libraries for macOS: what the system checks before it loads one, and that damage of any kind is noticed."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pass_graphs import Graph
from toy_artifact import toy_plan

import nomul
from nomul.backends.link import link_library
from nomul.backends.macho import hide_symbols
from nomul.backends.macho_check import problems
from nomul.options import Options
from nomul.pipeline import lower_to_plan
from nomul.runtime.errors import RuntimeFault
from nomul.runtime.macho import BUILD_VERSION, ID_DYLIB, LOAD_DYLIB, SEGMENT, MachO, read_uleb
from nomul.runtime.trailer import read_facts

TRIPLE = "aarch64-macos.11.0"
NAME = "model.dylib"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("macos") / NAME
    link_library(toy_plan(TRIPLE), path, triple=TRIPLE, facts={"compiler": "test"})
    return path.read_bytes()


def network():  # type: ignore[no-untyped-def]
    graph = Graph({"B": (1, 8)})
    x = graph.input("x", "B", 32)
    hidden = graph.b.ew.relu(graph.b.nn.linear(x, graph.weight("w", 64, 32)))
    return graph.module(graph.b.ew.cast(graph.b.nn.linear(hidden, graph.weight("v", 16, 64)), dtype="f16"))


@pytest.mark.parametrize("target", ["apple-m1", "apple-m2", "apple-m3", "apple-m4", "aarch64-macos"])
def test_a_compiled_model_passes_every_check(target: str, tmp_path: Path) -> None:
    path = nomul.build(network(), target=target, output=tmp_path / NAME)
    assert problems(path.read_bytes(), NAME) == []
    facts = read_facts(path)
    assert facts["levels"] == (["apple_m2", "apple_m1"] if target == "aarch64-macos" else [target.replace("-", "_")])


def test_another_reader_sees_the_same(library: bytes, tmp_path: Path) -> None:
    if shutil.which("llvm-objdump") is None:
        pytest.skip("llvm-objdump is not installed (Debian: llvm)")
    (tmp_path / NAME).write_bytes(library)

    def objdump(*flags: str) -> str:
        return subprocess.check_output(["llvm-objdump", "--macho", *flags, str(tmp_path / NAME)], text=True)

    assert [line.split()[1] for line in objdump("--exports-trie").splitlines() if line.startswith("0x")] == [
        "_nm_query"
    ]
    assert "/usr/lib/libSystem.B.dylib" in objdump("--dylibs-used")
    assert objdump("--dylib-id").split()[-1] == f"@rpath/{NAME}"
    assert "minos 11.0" in objdump("--private-headers")


def test_two_links_give_equal_bytes(library: bytes, tmp_path: Path) -> None:
    link_library(toy_plan(TRIPLE), tmp_path / NAME, triple=TRIPLE, facts={"compiler": "test"})
    assert (tmp_path / NAME).read_bytes() == library


def test_weights_are_whole_and_aligned(tmp_path: Path) -> None:
    weights = random.Random(0).randbytes(300_000)
    plan = replace(toy_plan(TRIPLE), weights=weights)
    data = link_library(plan, tmp_path / NAME, triple=TRIPLE).library.read_bytes()
    assert problems(data, NAME) == []
    assert data.index(b"nomulwts") % 64 == 0
    assert data.index(weights[:1000]) == data.index(b"nomulwts") + 64 and weights in data


def test_kernels_and_conversions_of_halves_are_hidden_in_objects() -> None:
    plan = lower_to_plan(network(), Options(targets=("apple-m1",))).plan
    visible, hidden = (symbols(code) for code in (plan.levels[0].object, hide_symbols(plan.levels[0].object)))
    kernels = {name for name in visible if name.startswith("_k")}
    assert kernels and {"___truncsfhf2", "___extendhfsf2"} <= set(visible)
    assert all(hidden[name] & 0x11 == 0x11 for name in kernels)
    assert not any(kind & 1 for name, kind in hidden.items() if name.startswith("___"))


def symbols(code: bytes) -> dict[str, int]:
    """n_type of each symbol."""
    file = MachO(code)
    start, count, names, _ = file.unpack("<IIII", file.one(2).offset + 8)
    found = {}
    for place in range(start, start + 16 * count, 16):
        name, kind = file.unpack("<IB", place)
        found[code[names + name : code.index(b"\0", names + name)].decode()] = kind
    return found


# -- defects ---------------------------------------------------------------------------------------------------
def at_command(kind: int, offset: int, change: bytes) -> Callable[[bytearray], None]:
    def damage(data: bytearray) -> None:
        place = MachO(data).find(kind)[0].offset + offset
        data[place : place + len(change)] = change

    return damage


def export_more(data: bytearray) -> None:
    offset, _ = MachO(data).exports_place()
    data[data.index(b"_nm_query", offset)] = ord("z")


DEFECTS = {
    "no Mach-O": lambda data: data.__setitem__(0, 0),
    "no shared library": lambda data: data.__setitem__(12, 2),
    "_nm_query alone": export_more,
    "libSystem alone": at_command(LOAD_DYLIB, 24, b"/opt"),
    "would look for it as": at_command(ID_DYLIB, 24, b"/rpath"),
    "not macOS 11.0": at_command(BUILD_VERSION, 12, struct.pack("<I", 12 << 16)),
    "is misplaced": at_command(SEGMENT, 32, struct.pack("<Q", 5)),
    "can be overwritten": at_command(SEGMENT, 60, struct.pack("<I", 7)),
    "differs from what was signed": lambda data: data.__setitem__(5000, data[5000] ^ 1),
    "something follows": lambda data: data.extend(b"more"),
}


@pytest.mark.parametrize("what", DEFECTS)
def test_every_defect_is_named(library: bytes, what: str) -> None:
    data = bytearray(library)
    DEFECTS[what](data)
    assert any(what in problem for problem in problems(bytes(data), NAME)), problems(bytes(data), NAME)


def test_damaged_libraries_are_refused_and_crash_nothing(library: bytes, tmp_path: Path) -> None:
    chance, path = random.Random(3), tmp_path / NAME
    signed = MachO(library).signature().limit
    for _ in range(400):
        data = bytearray(library)
        place = chance.choice([chance.randrange(signed), chance.randrange(1700)])
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with pytest.raises(RuntimeFault) as caught:
            read_facts(path)
        assert caught.value.code in ("NM602", "NM603")
        problems(bytes(data), NAME)
    for size in (3, 40, 1000, len(library) // 2, len(library) - 1):
        path.write_bytes(library[:size])
        with pytest.raises(RuntimeFault):
            read_facts(path)


def test_facts_stand_in_the_library(library: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(library)
    facts = read_facts(tmp_path / NAME)
    assert (facts["compiler"], facts["name"], facts["triple"]) == ("test", "toy", TRIPLE)


def test_numbers_without_end_are_refused() -> None:
    assert read_uleb(b"\xe5\x8e\x26", 0) == (624485, 3)
    for data in (b"\x80", b"\xff" * 30, b""):
        with pytest.raises(ValueError, match="no end"):
            read_uleb(data, 0)


def test_an_object_file_of_another_machine_is_no_mach_o() -> None:
    with pytest.raises(ValueError, match="64-bit ARM"):
        MachO(b"\xcf\xfa\xed\xfe" + struct.pack("<IIIIIII", 0x01000007, 3, 6, 0, 0, 0, 0))
