"""The command frame: help, exit codes, errors as text, pipes that close; and the commands that need no compile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nomul.cli import all_commands, main
from nomul.ir.op import all_ops

LINEAR = """\
nomul.ir 1
dim S in [1, 512]
weight @w : f32[3, 4]
func @main(%x: f32[S, 4], %i: i64[S]) -> (f32[S, 3]) {
  %y = nn.linear %x, @w : f32[S, 3]
  %z = ew.mul %y, 2.0 : f32[S, 3]
  return %z
}
"""
DOUBLE = """\
nomul.ir 1
dim S in [1, 512]
func @main(%x: f32[S, 4]) -> (z: f32[S, 4]) {
  %z = ew.mul %x, 2.0 : f32[S, 4]
  return %z
}
"""


@pytest.fixture
def double(tmp_path: Path) -> Path:
    path = tmp_path / "double.nir"
    path.write_text(DOUBLE)
    return path


def test_every_command_has_help_and_a_module_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"bench", "compile", "explain", "fmt", "list", "opt", "reduce", "run", "show", "verify", "view", "why"}
    assert set(all_commands()) >= expected
    for name in expected:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        assert (all_commands()[name].__doc__ or "")[:30] in capsys.readouterr().out.replace("\n", " ")


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ([], ["unknown"], ["list", "nothing"], ["compile"], ["run", "x.so", "--threads", "0"]):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
        assert "usage: nomul" in capsys.readouterr().err


def test_an_error_is_text_with_code_and_help_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "missing.onnx"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error[NM003]: there is no file missing.onnx") and "Traceback" not in err


def test_traceback_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--traceback", "show", "missing.onnx"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["show", "missing.onnx", "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_internal_error_asks_for_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, double: Path
) -> None:
    def crash(*arguments: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("nomul.source.read_model", crash)
    assert main(["show", str(double)]) == 1
    err = capsys.readouterr().err
    assert "error[NM000]: internal error: ZeroDivisionError: planted" in err and "--traceback" in err


def test_ctrl_c_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, double: Path
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nomul.source.read_model", stop)
    assert main(["show", str(double)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m nomul.cli list ops | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout.startswith("op")


def test_list_ops_has_every_op(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "ops"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == sorted(all_ops())


@pytest.mark.parametrize("what", ["kernels", "targets", "encodings", "passes", "rules", "fitters", "errors"])
def test_list_prints_a_table(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and lines[0].split()


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nm101"]) == 0
    assert capsys.readouterr().out.startswith("NM101: The inputs do not fit the model")
    assert main(["explain", "NM1012"]) == 1
    assert "NM101" in capsys.readouterr().err


def test_run_a_nir_file_on_arrays(double: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.save(tmp_path / "x.npy", values)
    assert main(["run", str(double), f"x={tmp_path / 'x.npy'}", "-o", str(tmp_path / "out.npz")]) == 0
    assert "float32[2, 4]" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["z"], 2 * values)


def test_run_names_missing_and_unknown_inputs(double: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    assert main(["run", str(double), f"y={tmp_path / 'x.npy'}"]) == 1
    err = capsys.readouterr().err
    assert "NM012" in err and "no input x" in err and "unknown input y" in err


def test_run_never_unpickles(double: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert main(["run", str(double), f"x={tmp_path / 'x.npy'}"]) == 1
    assert "NM012" in capsys.readouterr().err


def test_run_random_takes_sizes(double: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(double), "--random", "--dim", "S=3"]) == 0
    assert "float32[3, 4]" in capsys.readouterr().out
    assert main(["run", str(double), "--random", "--dim", "S=513"]) == 1
    assert "NM010" in capsys.readouterr().err
    assert main(["run", str(double), "--random", "--dim", "T=3"]) == 1
    assert "NM206" in capsys.readouterr().err


def test_run_needs_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "linear.nir"
    path.write_text(LINEAR)
    assert main(["run", str(path), "--random"]) == 1
    err = capsys.readouterr().err
    assert "NM016" in err and "@w" in err
    save_file({"w": np.eye(3, 4, dtype=np.float32)}, tmp_path / "linear.safetensors")
    assert main(["run", str(path), "--random"]) == 0


def test_opt_prints_the_module_after_the_passes(double: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["opt", str(double)]) == 0
    assert capsys.readouterr().out == DOUBLE
    assert main(["opt", str(double), "-p", "dead_code,fold_constants", "--table"]) == 0
    assert "dead_code" in capsys.readouterr().out
    assert main(["opt", str(double), "-p", "nonsense"]) == 1
    assert "NM456" in capsys.readouterr().err


def test_show_a_nir_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "linear.nir"
    path.write_text(LINEAR)
    assert main(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert "f32[S, 4]" in out and "S in [1, 512]" in out and "2 of 2 kinds" in out
    assert main(["show", str(path), "--ops", "--weights"]) == 0
    out = capsys.readouterr().out
    assert "nn.linear" in out and "f32[3, 4]" in out
    assert main(["show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ops"] == {"ew.mul": 1, "nn.linear": 1}


def test_show_a_file_that_is_no_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.so"
    path.write_bytes(b"\x7fELF" + b"x" * 500)
    assert main(["show", str(path)]) == 1
    assert "NM602" in capsys.readouterr().err


def test_compile_needs_an_output(double: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(double)]) == 1
    assert "NM013" in capsys.readouterr().err


def test_unknown_rule_and_recipe(double: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", str(double), "--rule", "layer_nrom"]) == 1
    assert "NM014" in capsys.readouterr().err
    assert main(["compile", str(double), "-o", str(tmp_path / "m.so"), "--recipe", "float3"]) == 1
    assert "NM009" in capsys.readouterr().err
