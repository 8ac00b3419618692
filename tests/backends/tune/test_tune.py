"""`--tune`: which kernels are measured, what the times decide, what the file keeps, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nomul
from nomul.backends import select, tune
from nomul.backends.registry import Kernel, all_kernels
from nomul.backends.target import find_target
from nomul.backends.tune.code import code_version, digest_of
from nomul.backends.tune.cpu import cpu_name, name_in
from nomul.backends.tune.judge import judge
from nomul.backends.tune.rivals import Contest
from nomul.cli import main
from nomul.ir.dim import Dim
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.ir.parser import parse_module
from nomul.ir.types import Tensor
from nomul.options import tune_file
from tests.kernel_harness import make_group

MODEL = """\
nomul.ir 1
dim S in [1, 64]
weight @w : f32[40, 16]
func @main(%x: f32[S, 16]) -> (f32[S, 40]) {
  %y = nn.linear %x, @w : f32[S, 40]
  %z = nn.softmax %y {axis=1} : f32[S, 40]
  return %z
}
"""
SLOW, PACKED = "nn.linear/f32/slow", "nn.linear/f32/packed"


def model() -> Module:
    module = parse_module(MODEL)
    module.weights["w"].fields = {"data": np.random.default_rng(0).standard_normal((40, 16), dtype=np.float32)}
    return module


@pytest.fixture(autouse=True)
def slow_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain loops that claim the highest rank for linear layers."""
    plain = all_kernels()["any/f32/generic"]
    kernels: dict[str, Kernel] = all_kernels() | {SLOW: replace(plain, name=SLOW, op="nn.linear", rank=99)}
    monkeypatch.setattr(select, "all_kernels", lambda: kernels)


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(tune, "measure", refuse)


def measured_as(monkeypatch: pytest.MonkeyPatch, *times: dict[str, Any]) -> None:
    """Instead of measuring, these times at each size."""
    monkeypatch.setattr(tune, "measure", lambda contests, stored: times[: len(contests)])


def compiled(folder: Path, **options: Any) -> nomul.Artifact:
    return nomul.compile(model(), **{"output": folder / "m.so", "tune": True} | options)


def linear(artifact: nomul.Artifact) -> tuple[set[str], dict[str, str]]:
    """The kernels of the linear layer, and why others were not taken."""
    (fact,) = [kernel for kernel in artifact.facts["kernels"] if "nn.linear" in kernel["ops"]]
    return set(fact["kernels"].values()), dict(fact["rejected"])


LOWEST = find_target("host")[-1:]


def chosen(file: Path) -> str:
    """The kernel of the linear layer for the lowest level, without more than it takes to choose."""
    module = nomul.lower(model())
    preferences = tune.tune(module, select.select(module, LOWEST), sizes(1, 8, 64), file, "1.0")
    choices = select.select(module, LOWEST, preferences).choices
    (choice,) = [choice for choice in choices.values() if "nn.linear" in [node.op for node in choice.group.func.nodes]]
    return choice.label


def sizes(*values: int) -> list[dict[str, int]]:
    return [{"S": value} for value in values]


def test_the_quickest_kernel_is_taken_whatever_its_rank(tmp_path: Path) -> None:
    """Slow loops claim a higher rank."""
    assert linear(compiled(tmp_path, tune=False))[0] == {SLOW}
    artifact = compiled(tmp_path)
    kernels, rejected = linear(artifact)
    assert kernels == {PACKED}
    best = find_target("host")[0].level
    assert rejected[SLOW].startswith(f"{best}: measured, takes ") and f"as long as {PACKED} (S=1: " in rejected[SLOW]
    x = np.random.default_rng(1).standard_normal((5, 16), dtype=np.float32)
    assert artifact(x)[0].shape == (5, 40)
    data = json.loads((tmp_path / "m.so.tune.json").read_text())
    (entry,) = data["entries"]  # softmax has one kernel for these shapes
    assert entry["sizes"] == ["S=1", "S=8", "S=64"] and entry["ops"] == "nn.linear"
    assert set(entry["microseconds"]) == {SLOW, PACKED}
    assert all(len(times) == 3 and min(times) > 0 for times in entry["microseconds"].values())


def test_the_second_compile_measures_nothing_and_gives_the_same_bytes(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = compiled(tmp_path).path.read_bytes()
    times = (tmp_path / "m.so.tune.json").read_bytes()
    request.getfixturevalue("no_measuring")
    assert compiled(tmp_path).path.read_bytes() == first
    elsewhere = compiled(tmp_path, output=tmp_path / "m2.so", tune=tmp_path / "m.so.tune.json", name="m")
    assert (tmp_path / "m.so.tune.json").read_bytes() == times and not (tmp_path / "m2.so.tune.json").exists()
    assert linear(elsewhere)[0] == {PACKED}


def test_times_are_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_as(monkeypatch, {SLOW: [1.5, 20.0, 1e-5], PACKED: None})
    assert chosen(tmp_path / "t.json") == SLOW
    text = (tmp_path / "t.json").read_text()
    assert f'"{SLOW}": [1.5, 20.0, 1e-05]' in text and f'"{PACKED}": null' in text


@pytest.mark.parametrize(("name", "value"), [("cpu", "another"), ("nomul", "0.0.0"), ("level", "v1"), ("group", "00")])
def test_times_of_something_else_do_not_count_and_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    measured_as(monkeypatch, {SLOW: [1, 1, 1], PACKED: [9, 9, 9]})
    assert chosen(tmp_path / "t.json") == SLOW
    path = tmp_path / "t.json"
    data = json.loads(path.read_text())
    data["entries"][0][name] = value
    path.write_text(json.dumps(data))
    measured_as(monkeypatch, {SLOW: [9, 9, 9], PACKED: [1, 1, 1]})
    assert chosen(tmp_path / "t.json") == PACKED
    entries = json.loads(path.read_text())["entries"]
    assert len(entries) == 2 and value in [entry[name] for entry in entries]


def test_times_of_other_sources_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_as(monkeypatch, {SLOW: [1, 1, 1], PACKED: [9, 9, 9]})
    assert chosen(tmp_path / "t.json") == SLOW
    measured_as(monkeypatch, {SLOW: [9, 9, 9], PACKED: [1, 1, 1]})
    assert chosen(tmp_path / "t.json") == SLOW
    monkeypatch.setattr(tune, "code_version", lambda: "other")
    assert chosen(tmp_path / "t.json") == PACKED


def test_a_digest_of_sources_follows_names_and_text(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    found = [digest_of(tmp_path)]
    for name, text in (("a.py", "x"), ("a.py", "y"), ("below/b.py", "y")):
        (tmp_path / name).write_text(text)
        found.append(digest_of(tmp_path))
    (tmp_path / "below/b.py").rename(tmp_path / "c.py")
    found += [digest_of(tmp_path), digest_of(tmp_path, "0.27")]
    assert len(set(found)) == len(found)
    (tmp_path / "notes.txt").write_text("z")
    assert digest_of(tmp_path) == found[-2] and code_version() == code_version()


def test_a_new_kernel_makes_a_group_be_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_as(monkeypatch, {SLOW: [1, 1, 1], PACKED: [9, 9, 9]})
    assert chosen(tmp_path / "t.json") == SLOW
    more = select.all_kernels()
    other = "nn.linear/f32/other"
    monkeypatch.setattr(select, "all_kernels", lambda: more | {other: replace(more[PACKED], name=other)})
    measured_as(monkeypatch, {SLOW: [9, 9, 9], PACKED: [2, 2, 2], other: [1, 1, 1]})
    assert chosen(tmp_path / "t.json") == other
    assert len(json.loads((tmp_path / "t.json").read_text())["entries"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "\xff\xfe",
        '{"format": 0, "entries": []}',
        '{"format": 1, "entries": [{}]}',
        '{"format": 1, "entries": [{"cpu": "", "level": "", "nomul": "", "group": "", "ops": "", "microseconds": {}}]}',
        '{"format": 1, "entries": [{"cpu": "", "level": "", "nomul": "", "group": "", "ops": "",'
        ' "microseconds": {"k": [0, 1]}}]}',
        '{"format": 1, "entries": [{"cpu": "", "level": "", "nomul": "", "group": "", "ops": "",'
        ' "microseconds": {"k": ["1"]}}]}',
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "times.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(NomulError) as caught:
        compiled(tmp_path, tune=path)
    assert caught.value.code == "NM406" and str(path) in str(caught.value) and "delete it" in str(caught.value)
    assert path.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("target", ["aarch64-linux", "x86_64-linux+avx512fp16"])
def test_what_does_not_run_here_is_not_measured(tmp_path: Path, target: str) -> None:
    if find_target(target)[0].features <= find_target("host")[0].features:
        pytest.skip("this machine runs it")
    with pytest.raises(NomulError) as caught:
        compiled(tmp_path, target=target)
    assert caught.value.code == "NM407"


def test_lower_levels_of_this_machine_are_measured_too(tmp_path: Path) -> None:
    lowest = find_target("host")[-1]
    assert linear(compiled(tmp_path, target=lowest.name))[0] == {PACKED}
    (entry,) = json.loads((tmp_path / "m.so.tune.json").read_text())["entries"]
    assert entry["level"] == lowest.level


def test_the_command_line_measures_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "m.nir"
    source.write_text(MODEL.replace("weight @w : f32[40, 16]\n", "").replace("nn.linear %x, @w", "ew.exp %x"))
    source.write_text(source.read_text().replace("[S, 40]", "[S, 16]"))
    assert main(["compile", str(source), "-o", str(tmp_path / "m.so"), "--tune", str(tmp_path / "t.json")]) == 0
    assert "times of kernels" not in capsys.readouterr().out  # no group has two kernels
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize(
    ("times", "order"),
    [
        ({"a": [1.0, 1.0], "b": [0.98, 0.98]}, ["a", "b"]),  # noise
        ({"a": [1.0, 1.0], "b": [0.9, 0.9]}, ["b", "a"]),
        ({"a": [1.0, 100.0], "b": [2.0, 40.0]}, ["b", "a"]),  # sizes count alike, not their times
        ({"a": [1.0, 100.0], "b": [3.0, 40.0]}, ["a", "b"]),
        ({"a": [1.0, 1.0], "b": None, "c": [0.5, 0.5]}, ["c", "a"]),
    ],
)
def test_judgement(times: dict[str, Sequence[float] | None], order: list[str]) -> None:
    found = judge(times, "a", sizes(1, 128))
    assert list(found.order) == order
    assert [name for name, _ in found.reasons] == order[1:]


def test_a_reason_has_the_times() -> None:
    ((name, reason),) = judge({"a": [4.0, 9.0], "b": [1.0, 1.0]}, "a", sizes(1, 7)).reasons
    assert (name, reason) == ("a", "measured, takes 6.00 times as long as b (S=1: 4 against 1 us; S=7: 9 against 1 us)")


def test_only_sizes_that_the_group_has_count() -> None:
    choice = select.choose(make_group(lambda b, x: b.ew.exp(x), Tensor.of("f32", Dim.of("S"), 4)), LOWEST)
    contest = Contest.of(choice, {}, [{"S": 1, "T": 1}, {"S": 1, "T": 9}, {"S": 4, "T": 9}])
    assert contest.sizes == ({"S": 1}, {"S": 4})


def test_names_of_cpus() -> None:
    assert name_in("processor\t: 0\nmodel name\t: A CPU @ 3 GHz\nmodel name\t: B\n") == "A CPU @ 3 GHz"
    assert name_in("CPU implementer\t: 0x41\nCPU part\t: 0xd0b\nModel\t\t: Board 5\n") == "0x41 0xd0b Board 5"
    assert cpu_name()


def test_where_times_are_kept() -> None:
    assert tune_file(Path("a/m.so"), True) == Path("a/m.so.tune.json")
    assert tune_file(Path("a/m.so"), False) is None
    assert tune_file(Path("a/m.so"), "b.json") == Path("b.json")
