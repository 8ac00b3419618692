"""examples/raspberry_pi and examples/macos build with the compiler that every user has, here for a made-up encoder."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nomul.backends.artifact import write_artifact
from nomul.backends.plan import Level, Location, Plan, Port, Step
from nomul.backends.zig import compile_source
from nomul.ir.dim import Dim
from nomul.ir.types import DType
from nomul.runtime.macho import MachO

EXAMPLES = Path(__file__).parents[2] / "examples"
SENTENCES = ["1 2 3", "9 4", "2 2 3", "9 5 1"]
KERNEL = """
#include <stdint.h>
int32_t pool__plain(void *ids_data, void *mask_data, void *out_data, int64_t B, int64_t S, int64_t begin, int64_t end,
                    void *scratch) {
  const int64_t *ids = ids_data, *mask = mask_data;
  float *out = out_data;
  (void)B, (void)scratch;
  for (int64_t b = begin; b < end; b++) {
    for (int64_t k = 0; k < 4; k++) {
      out[b * 4 + k] = 0;
      for (int64_t i = 0; i < S; i++) out[b * 4 + k] += (float)(mask[b * S + i] * (ids[b * S + i] * (k + 3) % 11));
    }
  }
  return 0;
}
"""


def make(example: str, triple: str, folder: Path, *words: str) -> Path:
    """The program `nearest` of an example, made with a bundle of the encoder in a copy of examples/."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    (folder / "kernel.c").write_text(KERNEL)
    code = (folder / compile_source("kernel.c", triple, ["-O1"], folder)).read_bytes()
    batch, length = Dim.of("B"), Dim.of("S")
    plan = Plan(
        name="encoder",
        inputs=tuple(Port(name, DType.I64, (batch, length)) for name in ("input_ids", "attention_mask")),
        outputs=(Port("embedding", DType.F32, (batch, Dim.of(4))),),
        dims={"B": (1, 8), "S": (1, 512)},
        slots=(),
        steps=(Step("pool", (Location("input", 0), Location("input", 1), Location("output", 0)), ("B", "S"), batch),),
        weights=b"",
        levels=(Level("plain", (), code),),
        target=triple,
    )
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("data"))
    place = folder / "examples" / example
    write_artifact(plan, place / "bundle", triple=triple)
    subprocess.run(["make", "-s", "nearest", f"PYTHON={sys.executable}", "CFLAGS=-O2 -Wall -Wextra -Werror", *words],
                   cwd=place, check=True)  # fmt: skip
    return place / "nearest"


def expected() -> list[tuple[int, float]]:
    ids = [list(map(int, line.split())) for line in SENTENCES]
    found = np.array([[sum(token * (k + 3) % 11 for token in line) for k in range(4)] for line in ids], np.float64)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = unit @ unit.T - 3 * np.eye(len(ids))
    return [(int(row.argmax()) + 1, float(row.max())) for row in cosines]


def test_the_program_for_the_pi_finds_the_nearest_sentences(tmp_path: Path) -> None:
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        pytest.skip("no qemu-aarch64 here")
    triple = "aarch64-linux-musl"
    program = make("raspberry_pi", triple, tmp_path, f"TRIPLE={triple}")
    (tmp_path / "sentences.ids").write_text("\n".join(SENTENCES) + "\n")
    command = [qemu, str(program), str(tmp_path / "sentences.ids")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [(int(a), float(b)) for a, b in re.findall(r"nearest (\d+), cosine ([\d.-]+)", out)]
    assert [row[0] for row in rows] == [row[0] for row in expected()]
    np.testing.assert_allclose([row[1] for row in rows], [row[1] for row in expected()], atol=1e-5)
    done = subprocess.run([qemu, str(program), "nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr == "nearest: nowhere: cannot be opened\n"


def test_the_program_for_the_mac_asks_for_the_dylib(tmp_path: Path) -> None:
    program = MachO(make("macos", "aarch64-macos.11.0", tmp_path).read_bytes())
    assert program.libraries() == ["/usr/lib/libSystem.B.dylib", "@rpath/model.dylib"]
    assert program.is_intact()


@pytest.mark.slow
def test_demo_arm(tmp_path: Path) -> None:
    script = EXAMPLES / "arm_and_apple.py"
    pytest.importorskip("onnxruntime")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all right" in done.stdout
    code = re.search(r"code of the library\S* kernels, driver, runtime +([\d.]+) kB", done.stdout)
    assert code and float(code[1]) < 500
    if shutil.which("qemu-aarch64"):
        assert "selftest passed" in done.stdout
        found = re.search(r"largest difference ([\d.e+-]+)", done.stdout)
        assert found and float(found[1]) < 1e-4
