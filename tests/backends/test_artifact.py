"""The bundle folder: everything is there, it builds with a plain C compiler, and its program runs the model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_artifact import HOST, toy_inputs, toy_plan, toy_reference

from nomul.backends.artifact import write_artifact
from nomul.ir.errors import NomulError
from nomul.runtime.loader import load


def build_and_run(bundle: Path, target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make TARGET` with pip's compiler, which also links against glibc 2.17 as the archive wants; then runs it."""
    compiler = f"CC={sys.executable} -m ziglang cc -target {HOST}"
    subprocess.run(["make", "-s", target, compiler, "CFLAGS=-O2 -Wall -Wextra -Werror"], cwd=bundle, check=True)
    return subprocess.run([f"./{target}", *arguments], cwd=bundle, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=["embedded", "external"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "new" / "toy"
    write_artifact(toy_plan(), folder, weights=request.param, model_json={"recipe": "f32"})
    return folder


@pytest.mark.parametrize("name", ["model.so", ""])
def test_the_library_in_the_bundle_loads(bundle: Path, name: str) -> None:
    x, y = toy_inputs()
    with load(bundle / name) as artifact:
        np.testing.assert_array_equal(artifact(x, y)[0], toy_reference(x, y))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_program_runs_statically_and_shared_with_the_same_result(bundle: Path) -> None:
    static = build_and_run(bundle, "main", "B=64", "S=100", "threads=2", "runs=3")
    shared = build_and_run(bundle, "main-shared", "B=64", "S=100")
    assert "z [B, S]: 6400 elements, checksum" in static.stdout, static.stderr
    checksums = [re.findall("checksum ([0-9a-f]{16})", done.stdout) for done in (static, shared)]
    assert len(checksums[0]) == 2 and checksums[0] == checksums[1]
    assert "best of 3 runs" in static.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_program_says_what_is_wrong(bundle: Path) -> None:
    done = build_and_run(bundle, "main", "S=513")
    assert done.returncode == 1 and "S in [1, 512]" in done.stderr


def test_model_json_tells_ports_dims_and_steps(bundle: Path) -> None:
    facts = json.loads((bundle / "model.json").read_text())
    assert facts["inputs"][1] == {"name": "y", "dtype": "f32", "shape": ["B", "2*S + 1"]}
    assert facts["dims"] == {"B": [1, 4096], "S": [1, 512]} and facts["recipe"] == "f32"
    assert [step["kernel"] for step in facts["steps"]] == ["add_rows", "flip_scale", "describe"]


def test_the_sources_are_there_to_read(bundle: Path) -> None:
    present = {path.name for path in bundle.iterdir()}
    assert {"nomul.h", "model.c", "main.c", "Makefile", "libmodel.a", "nomul-run", "src"} <= present
    assert {"nomul.h", "nomul_rt.h", "nomul.c"} <= {path.name for path in (bundle / "src").iterdir()}


def test_an_output_that_is_the_wrong_kind_of_thing(tmp_path: Path) -> None:
    (tmp_path / "folder.so").mkdir()
    (tmp_path / "file").write_text("")
    for name, words in (("folder.so", "is a folder, not a library"), ("file", "is a file, not a folder")):
        with pytest.raises(NomulError, match=words) as caught:
            write_artifact(toy_plan(), tmp_path / name)
        assert caught.value.code == "NM513"


def test_a_name_with_the_suffix_of_a_library_gives_one_file(tmp_path: Path) -> None:
    linked = write_artifact(toy_plan(), tmp_path / "toy.so", facts={"a": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nomul.h", "toy.so"]
    assert linked.library_bytes == (tmp_path / "toy.so").stat().st_size
