"""What `nomul view` reads from dumps, artifacts and .nir files, and the data and the page that it makes of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from view_models import EVIL, evil_text, large_text, small_text, write_dump, write_small

from nomul.cli import main
from nomul.ir.encodings import all_encodings
from nomul.ir.errors import NomulError
from nomul.ir.graph import Weight
from nomul.ir.parser import parse_module
from nomul.ir.syntax import parse_encoding
from nomul.ir.text import print_module
from nomul.ir.types import DType, Tensor
from nomul.ir.weights_file import load_weights
from nomul.memory import scratch_bytes
from nomul.passes.runner import PassRunner, index_table, why_text
from nomul.phases import phases
from nomul.view.dump_text import read_index, read_misses, read_refusals
from nomul.view.fold import MOST_CHILDREN, fold, module_path
from nomul.view.memory import memory_map
from nomul.view.page import render_page
from nomul.view.sources import read_view_source
from nomul.view.tables import page_data
from nomul.view.times import read_times
from nomul.view.weights import stored_bytes


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dump(tmp_path_factory.mktemp("view"))


def data_of(page: str) -> dict[str, Any]:
    """The data in a page."""
    match = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', page)
    assert match
    data: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(match[1])))
    return data


def positions(tree: Any) -> list[int]:
    return [tree] if isinstance(tree, int) else [place for child in tree[1:] for place in positions(child)]


# -- the tables of a dump --------------------------------------------------------------------------------------------
def test_the_tables_of_a_dump_are_read_as_the_runner_writes_them() -> None:
    runner = PassRunner()
    runner.run(parse_module(small_text()), phases())
    runner.records[0].report.note("a note, with x3 in it")
    lines = read_index(index_table(runner.records))
    assert [(line.phase, line.name, line.nodes, line.changed) for line in lines] == [
        (record.phase, record.name, record.nodes, record.changed) for record in runner.records
    ]
    assert lines[0].notes == ["a note, with x3 in it"]
    assert any("bias_into_linear" in line.fired or "linear x" in line.fired for line in lines)
    refusals = ["few for @f: v4: too many", "other"]
    text = why_text(runner.misses, refusals)
    assert [(m.rule, m.root, m.loc, m.text) for m in read_misses(text)] == [
        (miss.rule, miss.root, miss.loc or "", str(miss)) for miss in runner.misses
    ]
    assert read_refusals(text) == refusals and read_refusals(why_text(runner.misses, ())) == []


def test_what_is_nearly_a_layer_norm_is_said_where_it_ends(compiled: Path) -> None:
    misses = read_view_source(compiled / "dump").misses
    assert any(miss.rule == "layer_norm" and miss.root == "%norm" and miss.loc == "net.norm:div" for miss in misses)


# -- folding -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("loc", "path"),
    [
        (None, []),
        ("/model/layer.0/q/Add", ["model", "layer.0", "q"]),
        ("m.encoder.layer.0.self:transpose", ["m", "encoder", "layer.0", "self"]),
        ("layers.0.self_attn.q_proj", ["layers.0", "self_attn", "q_proj"]),
        ("0.1.weight", ["0.1", "weight"]),
    ],
)
def test_module_path(loc: str | None, path: list[str]) -> None:
    assert module_path(loc) == path


def test_folding_keeps_every_node_once_and_few_children() -> None:
    nodes = parse_module(large_text()).main.nodes
    tree = fold(nodes)
    assert sorted(positions(tree)) == list(range(5000))

    def widths(tree: Any) -> list[int]:
        return [] if isinstance(tree, int) else [len(tree) - 1, *(w for child in tree[1:] for w in widths(child))]

    assert max(widths(tree)) <= MOST_CHILDREN
    for node in nodes:
        node.loc = None
    assert sorted(positions(fold(nodes))) == list(range(5000)) and max(widths(fold(nodes))) <= MOST_CHILDREN


def test_chains_of_groups_are_one_and_single_nodes_stay_nodes() -> None:
    tree = fold(parse_module(small_text()).main.nodes)
    (net,) = tree[1:]
    assert [child[0] for child in net[1:]] == ["block.0", "block.1", "norm"]
    assert net[1][1:] == [0, 1, 2, 3]


def test_few_nodes_are_not_folded() -> None:
    assert fold(parse_module(large_text(layers=1)).main.nodes[:8]) == ["", *range(8)]


# -- weights -----------------------------------------------------------------------------------------------------------
def test_weights_have_bytes_ranges_and_the_error_of_their_encoding(compiled: Path) -> None:
    data = page_data(read_view_source(compiled / "dump"), {"S": 8})
    encoded = next(stage for stage in data["stages"] if stage["name"] == "encode")
    rows = {row[0]: row for row in (data["versions"][number] for number in encoded["weights"])}
    original = parse_module(small_text())
    load_weights(original, compiled / "small.safetensors")
    array = original.weights["block.0.up.weight"].array()
    half = array.astype(np.float16).astype(np.float32)
    row = rows["block.0.up.weight"]
    assert row[1:5] == ["f32[64, 32]", "f16", 64 * 32 * 2, 64 * 32]
    assert row[5:7] == [float(half.min()), float(half.max())] and row[7] == 0.0
    assert row[8] == pytest.approx(np.linalg.norm(array - half) / np.linalg.norm(array), rel=1e-5)
    assert rows["block.0.up.bias"][8] is None
    artifact = page_data(read_view_source(compiled / "small.so"), {"S": 8})
    noted = {version[0]: version[8] for version in artifact["versions"]}
    assert noted["block.0.up.weight"] == pytest.approx(row[8], rel=1e-4) and noted["block.0.up.bias"] is None


@pytest.mark.parametrize("name", sorted(all_encodings()))
def test_stored_bytes_are_those_of_the_packed_fields(name: str) -> None:
    encoding = parse_encoding(
        {"nm": "nm<n=1, value=f16>", "split": "split<salient=0.25, value=int8<group=8>, rest=ternary<group=8>>"}.get(
            name, name
        )
    )
    weight = Weight("w", Tensor(DType.F32, Tensor.of("f32", 64, 256).shape, encoding))
    packed = encoding.pack(np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32))
    assert stored_bytes(weight) == sum(array.nbytes for array in packed.values())


# -- memory ------------------------------------------------------------------------------------------------------------
def test_the_memory_map_is_the_arena_of_the_artifact(compiled: Path) -> None:
    source = read_view_source(compiled / "small.so")
    module = source.stages[0].module
    assert module is not None
    dims = {"S": 40}
    found = memory_map(module, dims)
    assert sum(found["slots"]) == scratch_bytes({**source.facts, "thread_scratch": []}, dims)
    assert found["steps"] == len(source.facts["runs"]) > 0
    for slot, first, last, bytes, values in found["spans"]:
        assert 0 <= first <= last < found["steps"] and bytes <= found["slots"][slot] and values
        others = [span for span in found["spans"] if span[0] == slot and span[4] != values]
        assert all(last < span[1] or span[2] < first for span in others)


# -- sources -----------------------------------------------------------------------------------------------------------
def test_an_artifact_holds_the_ir_of_its_last_pass(compiled: Path) -> None:
    last = max((compiled / "dump").glob("*.nir")).read_text()
    module = read_view_source(compiled / "small.so").stages[0].module
    assert module is not None

    def body(text: str) -> str:
        return re.sub(r"^after .*\n| from \"[^\"]*\"$", "", text, flags=re.MULTILINE)

    assert body(print_module(module)) == body(last)


def test_a_dump_gives_all_passes_in_order(compiled: Path) -> None:
    source = read_view_source(compiled / "dump")
    assert [stage.number for stage in source.stages] == list(range(len(source.stages)))
    assert source.stages[0].name == "import" and source.stages[-1].name == "plan_memory"
    assert source.name == "small" and source.weights is not None
    shown = [stage for stage in source.stages if stage.module is not None]
    assert len(shown) == len(list((compiled / "dump").glob("*.nir"))) and all(
        stage.line is None or stage.line.changed for stage in shown
    )


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NomulError, match="NM003"):
        read_view_source(tmp_path / "absent")
    with pytest.raises(NomulError, match="NM025"):
        read_view_source(tmp_path)


def test_times_must_be_of_the_artifact(tmp_path: Path) -> None:
    facts = {"runs": [{"results": ["%y : f32[4]"]}]}
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"steps": [{"step": "%y : f32[4] = ew.mul", "ms": 0.5}], "dims": {}}))
    assert read_times(path, facts)["steps"][0]["ms"] == 0.5
    for text in ("{", "{}", '{"steps": []}', '{"steps": [{"step": "%z : f32[4]", "ms": 1}]}', '{"steps": [{"ms": 1}]}'):
        path.write_text(text)
        with pytest.raises(NomulError, match="NM026"):
            read_times(path, facts)


# -- the page ----------------------------------------------------------------------------------------------------------
def test_the_page_shows_times_beside_kernels(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(compiled / "small.so"), "--seconds", "0.05", "--json", "--steps"]) == 0
    times = compiled / "times.json"
    times.write_text(capsys.readouterr().out)
    page = compiled / "page.html"
    assert main(["view", str(compiled / "dump"), "-o", str(page), "--bench", str(times)]) == 0
    data = data_of(page.read_text())
    assert all(ms >= 0 for _, _, _, ms in data["runs"]) and len(data["runs"]) == data["memory"]["steps"]
    assert data["dims"] == data["bench"]["dims"] and data["kernels"]


def test_the_page_is_the_same_for_the_same_dump(compiled: Path) -> None:
    pages = [render_page(page_data(read_view_source(compiled / "dump"), {"S": 8})) for _ in range(2)]
    assert pages[0] == pages[1]


def test_names_of_a_model_are_no_markup(tmp_path: Path) -> None:
    (tmp_path / "evil.nir").write_text(evil_text())
    source = read_view_source(tmp_path / "evil.nir")
    source.name = EVIL
    page = render_page(page_data(source, {}))
    assert EVIL not in page and page.count("<script") == 2 and data_of(page)["name"] == EVIL
    assert f"%{EVIL}" in data_of(page)["strings"]


def test_the_policy_allows_the_script_of_the_page_alone() -> None:
    page = render_page(page_data(read_view_source_of(small_text()), {"S": 1}))
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"]


def read_view_source_of(text: str) -> Any:
    from nomul.view.sources import Source, Stage

    return Source("text", "nir", [Stage(0, "text", None, parse_module(text))])


def test_a_module_without_weights_is_shown_by_types(tmp_path: Path) -> None:
    model = write_small(tmp_path)
    model.with_suffix(".safetensors").unlink()
    assert main(["view", str(model), "-o", str(tmp_path / "page.html"), "--dim", "S=16"]) == 0
    data = data_of((tmp_path / "page.html").read_text())
    assert data["dims"] == {"S": 16} and data["memory"] is None
    assert {row[0]: row[3] for row in data["versions"]}["block.0.up.bias"] == 256
    assert all(row[5:] == [None] * 4 for row in data["versions"])


def test_sizes_outside_the_ranges_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(write_small(tmp_path)), "-o", str(tmp_path / "page.html"), "--dim", "S=9999"]) == 1
    assert "NM010" in capsys.readouterr().err
