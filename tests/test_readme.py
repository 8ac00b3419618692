"""What the README tells users to type works as it is written there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{name}.md" for name in ("architecture", "benchmarks", "deploy", "how-to-add"))]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str, page: str = "README.md") -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [body for kind, body in BLOCK.findall(text) if kind == language]


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make (\w+)", "\n".join(blocks("bash")), re.MULTILINE)
    assert named and all(f"\n{target}:" in makefile for target in named)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+[A-Za-z0-9_]+\.(?:py|c|h|md))`", text))
    assert named and [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_commands(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    lines = [
        line
        for body in blocks("bash")
        for line in body.splitlines()
        if line.startswith(("nomul ", "MODEL=", "make -C "))
    ]
    assert len(lines) >= 8
    out = run(["bash", "-ec", "\n".join(lines)], tmp_path)
    assert "agrees" in out and "p50" in out
    assert (tmp_path / "out.npz").exists() and (tmp_path / "bundle" / "model.c").exists()


@pytest.mark.slow
def test_commands_of_the_deployment_page(tmp_path: Path) -> None:
    """Those that run on the laptop: compiling for every machine, and the program of a bundle for this one."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "main.c").symlink_to(ROOT / "runtime" / "bundle_main.c")
    lines = [line for body in blocks("bash", "docs/deploy.md") for line in body.splitlines()]
    here = [line for line in lines if line.startswith(("nomul list", "nomul compile", "MODEL=", "python -m ziglang"))]
    programs = [line for line in lines if line.startswith("./nomul-run --")]
    assert len(here) >= 7 and len(programs) == 3
    own = "nomul compile $MODEL -o here --dim batch_size=1:8 --dim sequence_length=1:512"
    run(["bash", "-ec", "\n".join([*here, own, "cd here", *programs])], tmp_path)
    assert (tmp_path / "mac" / "model.dylib").exists() and (tmp_path / "phone" / "model.so").exists()


@pytest.mark.slow
def test_python(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "readme.py").write_text("\n".join(blocks("python")))
    assert run([sys.executable, "readme.py"], tmp_path) == "(5, 64) (7, 64)\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["from_onnx.py", "from_pytorch.py"])
def test_examples(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch" if "torch" in name else "onnxruntime")
    out = run([sys.executable, str(ROOT / "examples" / name)], tmp_path)
    differences = [float(number) for number in re.findall(r"difference ([\d.e+-]+)", out)]
    assert len(differences) == 3 and max(differences) < 1e-4


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = run([sys.executable, str(ROOT / "examples" / "sentence_encoder.py")], tmp_path)
    assert "bit-identical" in out and "Latency" in out
    found = re.search(r"relative to the largest output +([\d.e+-]+)", out)
    assert found and float(found[1]) < 1e-4
