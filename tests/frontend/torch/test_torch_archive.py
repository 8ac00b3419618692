"""Saved programs: `.pt2` files load without running code from the file, whatever stands in them."""

from __future__ import annotations

import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch_models import check, imported, same, torch

from nomul.frontend.torch.sanitise import check_expression
from nomul.ir.errors import NomulError

Edit = Callable[[Any], Any]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 5)
        self.tied = torch.nn.Linear(4, 5)
        self.tied.weight = self.linear.weight
        self.register_buffer("shift", torch.arange(5.0))
        self.constant = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, x: Any) -> dict[str, Any]:
        y = self.linear(x + self.constant) + self.tied(x)
        return {"sum": y + self.shift, "pair": (x * 2, y.reshape(-1))}


EXAMPLE = (torch.ones(3, 4),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.manual_seed(0)
    rows = torch.export.Dim("rows", min=2, max=9)
    torch.export.save(torch.export.export(Model(), EXAMPLE, dynamic_shapes=({0: rows},)), path)
    return path


def rewritten(source: Path, target: Path, edits: dict[str, Edit], extra: dict[str, bytes] | None = None) -> Path:
    """A copy of an archive with some of its entries changed (found by the end of their names) and others added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.namelist():
            data = old.read(entry)
            for suffix, edit in edits.items():
                if entry.endswith(suffix):
                    data = edit(data)
            new.writestr(entry, data)
        root = old.namelist()[0].split("/")[0]
        for name, data in (extra or {}).items():
            new.writestr(f"{root}/{name}", data)
    return target


def as_json(change: Callable[[Any], None]) -> Edit:
    def edit(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return edit


class Trap:
    """Its pickle touches a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_saved_program_gives_the_model_again(saved: Path) -> None:
    torch.manual_seed(0)
    model = Model().eval()
    module = imported(str(saved), dynamic_shapes={"x": {0: "rows"}})
    assert module.dims == {"rows": (2, 9)}
    assert [value.name for value in module.main.returns] == ["sum", "pair.0", "pair.1"]
    assert set(module.weights) == {"linear.weight", "linear.bias", "tied.bias", "shift", "constant"}
    for rows in (2, 7):
        same(module, model, (torch.randn(rows, 4),))


def test_unnamed_axes_get_a_name(saved: Path) -> None:
    assert imported(saved).dims == {"x_0": (2, 9)}
    assert imported(saved, dims={"x_0": (3, 5)}).dims == {"x_0": (3, 5)}
    with pytest.raises(NomulError, match="outside the model's own range"):
        imported(saved, dims={"x_0": (1, 5)})


def test_a_program_in_memory_imports_as_well() -> None:
    model = Model().eval()
    check(model, EXAMPLE)
    program = torch.export.export(model, EXAMPLE)
    same(imported(program), model, EXAMPLE)


def test_sample_inputs_are_not_opened(saved: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    path = rewritten(saved, tmp_path / "m.pt2", {"sample_inputs/model.pt": lambda data: pickle.dumps(Trap(trap))})
    imported(path)
    assert not trap.exists()


def _pickled_weight(content: Any) -> None:
    entry = next(iter(content["config"].values()))
    entry["use_pickle"] = True


def _opaque_constant(content: Any) -> None:
    next(iter(content["config"].values()))["path_name"] = "opaque_obj_0"


def _too_large(content: Any) -> None:
    next(iter(content["config"].values()))["tensor_meta"]["sizes"] = [{"as_int": 1 << 40}, {"as_int": 4}]


def _outside(content: Any) -> None:
    next(iter(content["config"].values()))["path_name"] = "../../models/model.json"


@pytest.mark.parametrize(
    ("entry", "change", "message"),
    [
        ("model_weights_config.json", _pickled_weight, "never opened"),
        ("model_constants_config.json", _opaque_constant, "never opened"),
        ("model_weights_config.json", _too_large, "more bytes than the file has"),
        ("model_weights_config.json", _outside, "never opened"),
    ],
)
def test_weights_are_raw_bytes(
    saved: Path, tmp_path: Path, entry: str, change: Callable[[Any], None], message: str
) -> None:
    trap = tmp_path / "sprung"
    payload = pickle.dumps(Trap(trap))
    path = rewritten(
        saved, tmp_path / "m.pt2", {entry: as_json(change)}, extra={"data/constants/opaque_obj_0": payload}
    )
    with pytest.raises(NomulError, match=message):
        imported(path)
    assert not trap.exists()


def graph(content: Any) -> Any:
    return content["graph_module"]["graph"]


def edit_size(text: str) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        graph(content)["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = text

    return change


def edit_node(key: str, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        graph(content)["nodes"][0][key] = value

    return change


def edit_argument(content: Any) -> None:
    graph(content)["nodes"][0]["inputs"][0]["arg"] = {"as_operator": "torch.os.system"}


CODE = "__import__('pathlib').Path('SPRUNG').touch()"


@pytest.mark.parametrize(
    "change",
    [
        edit_size(CODE),
        edit_size("Pow(Integer(9), Pow(Integer(9), Integer(9)))"),
        edit_size("s0.__class__"),
        edit_node("name", f"x = {CODE}"),
        edit_node("target", "torch.os.system"),
        edit_node("target", "torch.hub.load"),
        edit_node("target", "torch.ops.evil.run.default"),
        edit_argument,
    ],
)
def test_strings_that_torch_would_evaluate_are_refused(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = rewritten(saved, tmp_path / "m.pt2", {"models/model.json": as_json(change)})
    with pytest.raises(NomulError, match="does not write"):
        imported(path)
    assert not (tmp_path / "SPRUNG").exists()


def test_guards_and_classes_in_tree_specifications_are_dropped(saved: Path, tmp_path: Path) -> None:
    def change(content: Any) -> None:
        content["guards_code"] = [CODE]
        signature = content["graph_module"]["module_call_graph"][0]["signature"]
        spec = json.loads(signature["out_spec"])
        spec[1]["type"] = "nobody.knows.this.Output"
        signature["out_spec"] = json.dumps(spec)

    path = rewritten(saved, tmp_path / "m.pt2", {"models/model.json": as_json(change)})
    module = imported(path)
    assert [value.name for value in module.main.returns] == ["sum", "pair.0", "pair.1"]


def test_compiled_code_in_an_archive_is_refused(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "m.pt2", {}, extra={"data/aotinductor/model/model.so": b"\x7fELF"})
    with pytest.raises(NomulError, match="compiled code"):
        imported(path)


def test_pickles_are_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(NomulError, match="weights_only=True"):
        imported(path)
    with pytest.raises(NomulError, match="no file"):
        imported(tmp_path / "absent.pt2")


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip archive" * 100])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(NomulError, match="NM200"):
        imported(path)


def damaged(data: bytes, number: int) -> bytes:
    """Cut off, or with some bits flipped."""
    chance = random.Random(number)
    if number % 4 == 0:
        return data[: chance.randrange(len(data))]
    broken = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        broken[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(broken)


def fuzz(saved: Path, path: Path, numbers: range) -> None:
    data = saved.read_bytes()
    for number in numbers:
        path.write_bytes(damaged(data, number))
        try:
            imported(path)
        except NomulError as error:
            assert error.code.startswith("NM"), number


def test_damaged_files(saved: Path, tmp_path: Path) -> None:
    fuzz(saved, tmp_path / "m.pt2", range(60))


@pytest.mark.slow
def test_many_damaged_files(saved: Path, tmp_path: Path) -> None:
    fuzz(saved, tmp_path / "m.pt2", range(60, 2000))


def test_damaged_program_text(saved: Path, tmp_path: Path) -> None:
    """Flips inside the JSON pass the archive's own checks."""
    for number in range(60):
        path = rewritten(saved, tmp_path / "m.pt2", {"models/model.json": lambda data, n=number: damaged(data, n)})
        try:
            imported(path)
        except NomulError as error:
            assert error.code.startswith("NM"), number


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Add(Integer(1), Mul(Integer(2), Symbol('s0', integer=True)))",
        "FloorDiv(Symbol('s0', integer=True), Integer(2))",
        "Pow(Symbol('s0'), Integer(2))",
        "2*s0 + 1",
    ],
)
def test_sizes_that_torch_writes(text: str) -> None:
    assert check_expression(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "Symbol('s0; import os')",
        "[].append(1)",
        "(lambda: 1)()",
        "9**9**9",
        "Pow(Integer(2), Integer(99))",
        "open",
        "s0 if s1 else s2",
        "(" * 500,
    ],
)
def test_sizes_that_it_does_not(text: str) -> None:
    with pytest.raises(NomulError):
        check_expression(text)
