"""compile, show, run, bench and verify on a small model, through the command line and the Python API."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest

import nomul
from nomul.cli import main
from nomul.ir import interpreter
from nomul.ir.graph import Module
from nomul.ir.parser import parse_module
from nomul.nir import write_nir

MLP = """\
nomul.ir 1
dim B in [1, 4]
dim S in [1, 64]
weight @table : f32[50, 16]
weight @up.weight : f32[32, 16]
weight @up.bias : f32[32]
weight @down.weight : f32[16, 32]
func @main(%ids: i64[B, S], %x: f32[B, S, 16]) -> (result: f32[B, S, 16]) {
  %e = index.gather @table, %ids : f32[B, S, 16]                         loc("embed")
  %s = ew.add %e, %x : f32[B, S, 16]                                     loc("embed")
  %u = nn.linear %s, @up.weight, @up.bias : f32[B, S, 32]                loc("up")
  %g = ew.gelu %u : f32[B, S, 32]                                        loc("act")
  %y = nn.linear %g, @down.weight : f32[B, S, 16]                        loc("down")
  return %y
}
"""


def mlp() -> Module:
    module, generator = parse_module(MLP), np.random.default_rng(0)
    for weight in module.weights.values():
        weight.fields = {"data": generator.standard_normal([int(n) for n in weight.shape], np.float32)}
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("mlp")
    source, artifact = folder / "mlp.nir", folder / "mlp.so"
    write_nir(mlp(), source)
    assert main(["compile", str(source), "-o", str(artifact), "--quiet"]) == 0
    return source, artifact


def inputs(batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(batch * 100 + length)
    return generator.integers(0, 50, (batch, length)), generator.standard_normal((batch, length, 16), np.float32)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 7), (4, 64)])
def test_every_size_and_level_agrees_with_the_interpreter(
    files: tuple[Path, Path], batch: int, length: int
) -> None:
    ids, x = inputs(batch, length)
    (expected,) = interpreter.run(mlp(), ids, x)
    with nomul.load(files[1]) as artifact:
        for level in artifact.levels:
            artifact.force_level(level)
            for threads in (1, 2):
                (given,) = artifact(ids=ids, x=x, threads=threads)
                np.testing.assert_allclose(given, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_verify_says_agrees_and_finds_a_difference(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *map(str, files)]) == 0
    out = capsys.readouterr().out
    assert "interpreter" in out and "B=1 S=1 " in out and "agrees" in out
    other = mlp()
    other.weights["down.weight"].fields["data"] = other.weights["down.weight"].fields["data"] * np.float32(1.01)
    write_nir(other, tmp_path / "mlp.nir")
    assert main(["verify", str(tmp_path / "mlp.nir"), str(files[1])]) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_verify_refuses_another_model(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.nir").write_text(
        "nomul.ir 1\nfunc @main(%x: f32[3]) -> (f32[3]) {\n  %y = ew.neg %x : f32[3]\n  return %y\n}\n"
    )
    assert main(["verify", str(tmp_path / "other.nir"), str(files[1])]) == 1
    assert "NM015" in capsys.readouterr().err


def test_run_with_arrays_and_with_random_ones(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids, x = inputs(2, 5)
    np.savez(tmp_path / "in.npz", ids=ids, x=x)
    assert main(["run", str(files[1]), str(tmp_path / "in.npz"), "-o", str(tmp_path / "a.npz")]) == 0
    assert main(["run", str(files[0]), str(tmp_path / "in.npz"), "-o", str(tmp_path / "b.npz")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "a.npz")["result"], np.load(tmp_path / "b.npz")["result"], atol=1e-3)
    capsys.readouterr()
    assert main(["run", str(files[1]), "--random", "--dim", "B=3", "--threads", "2"]) == 0
    assert "float32[3, 64, 16]" in capsys.readouterr().out


def test_bench_prints_json(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(files[1]), "--dim", "S=8", "--seconds", "0.05", "--json", "--steps"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dims"] == {"B": 1, "S": 8} and facts["threads"] == 1
    assert 0 < facts["low_ms"] <= facts["p50_ms"] <= facts["p90_ms"] and facts["steps"]
    assert main(["bench", str(files[1]), "--seconds", "0.05", "--steps"]) == 0
    assert "nn.linear" in capsys.readouterr().out


def test_show_an_artifact(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(files[1])]) == 0
    out = capsys.readouterr().out
    assert "i64[B, S]" in out and "S in [1, 64]" in out and "levels:" in out
    assert main(["show", str(files[1]), "--ops", "--weights", "--kernels", "--memory", "--dim", "S=2"]) == 0
    out = capsys.readouterr().out
    for expected in ("nn.linear", "up.weight", "runs", "down", "scratch, one thread, B=1 S=2", "arena slots"):
        assert expected in out
    assert main(["show", str(files[1]), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["inputs"][0] == {"name": "ids", "dtype": "i64", "shape": ["B", "S"], "low": 0, "high": 49}
    assert facts["source_ops"] == {"nn.linear": 2, "ew.add": 1, "ew.gelu": 1, "index.gather": 1}


@pytest.mark.parametrize("phase", ["fuse", "group"])
def test_until_writes_what_can_be_compiled(phase: str, tmp_path: Path, files: tuple[Path, Path]) -> None:
    middle = tmp_path / "middle.nir"
    assert main(["compile", str(files[0]), "--until", phase, "-o", str(middle), "--quiet"]) == 0
    artifact = nomul.compile(middle)
    ids, x = inputs(2, 3)
    np.testing.assert_allclose(artifact(ids, x)[0], interpreter.run(mlp(), ids, x)[0], atol=1e-3)


def test_an_unknown_phase_and_target(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(files[0]), "--until", "nothing"]) == 1
    assert "NM455" in capsys.readouterr().err
    assert main(["compile", str(files[0]), "-o", "m.so", "--target", "x86-64-v9"]) == 1
    assert "NM402" in capsys.readouterr().err


def test_compile_without_output_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    artifact = nomul.compile(mlp(), target="x86-64-v3")
    assert artifact.levels == ("v3",) and artifact.path.is_relative_to(tmp_path)
    artifact.close()
    del artifact
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_compile_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(nomul.NomulError, match="NM402"):
        nomul.compile(mlp(), target="pdp11")
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_from_0_to_1(tmp_path: Path) -> None:
    seen: list[float] = []
    nomul.compile(mlp(), progress=lambda phase, fraction: seen.append(fraction))
    assert seen == sorted(seen) and seen[0] >= 0 and seen[-1] == 1.0


def test_dims_narrow_and_fix(tmp_path: Path) -> None:
    artifact = nomul.compile(mlp(), dims={"B": 2, "S": (3, 5)})
    ids, x = inputs(2, 4)
    assert artifact(ids, x)[0].shape == (2, 4, 16)
    with pytest.raises(nomul.RuntimeFault, match="range"):
        artifact(*inputs(2, 6))
    with pytest.raises(nomul.NomulError, match="NM206"):
        nomul.compile(mlp(), dims={"T": 2})


def test_a_recipe_halves_the_weights(files: tuple[Path, Path]) -> None:
    full, half = nomul.load(files[1]), nomul.compile(mlp(), recipe="f16")
    assert half.facts["weights"]["bytes"] < 0.75 * full.facts["weights"]["bytes"]
    ids, x = inputs(2, 9)
    np.testing.assert_allclose(half(ids, x)[0], full(ids, x)[0], atol=0.3)


def test_an_output_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(nomul.NomulError, match="NM511"):
        nomul.compile(tmp_path / "not_even_read.onnx", output=tmp_path / "none" / "model.so")


def test_names_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("hello")
    for wrong, code in ((tmp_path / "model.txt", "NM004"), (tmp_path / "none.onnx", "NM003"), (object(), "NM004")):
        with pytest.raises(nomul.NomulError, match=code):
            nomul.compile(wrong)
