"""examples/c_embedded trains, builds without a warning, and reads its digits on emulated microcontrollers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "c_embedded"
TOOLS = ("make", "arm-none-eabi-gcc", "qemu-system-arm")


def make(board: str, output: Path, *flags: str) -> tuple[int, str]:
    """The exit status and all that `make run` prints; the board's own text is among it."""
    variables = [f"BOARD={board}", f"OUT={output}", f"PYTHON={sys.executable}", *flags]
    command = ["make", "-C", str(EXAMPLE), *variables, "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("board", ["mps2-an500", "mps3-an547"])
def test_digits_are_read(board: str, tmp_path: Path) -> None:
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        pytest.skip(f"there is no {', '.join(missing)}")
    status, text = make(board, tmp_path)
    assert status == 0 and "wrong: 0, scores agree" in text, text[-3000:]
    assert "warning" not in text, text
    samples = tmp_path / "samples.h"
    samples.write_text(re.sub(r"(sample_scores.*\{\n  \{)", r"\g<1>1000 + ", samples.read_text()))
    (tmp_path / "digits.elf").unlink()
    status, text = make(board, tmp_path)
    assert status != 0 and "scores differ" in text, text[-3000:]
