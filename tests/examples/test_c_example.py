"""examples/c builds with the compiler that every user has and computes what it says, here on a made-up encoder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nomul.backends.link import link_library
from nomul.backends.plan import Level, Location, Plan, Port, Step
from nomul.backends.target import find_target
from nomul.backends.zig import compile_source, zig
from nomul.ir.dim import Dim
from nomul.ir.types import DType
from nomul.runtime import abi

EXAMPLE = Path(__file__).parents[2] / "examples" / "c" / "sentence_similarity.c"
TRIPLE = find_target("host")[0].zig

ENCODER = """
#include <stdint.h>
int32_t encode__plain(void *ids_data, void *mask_data, void *states_data, int64_t B, int64_t S, int64_t begin,
                      int64_t end, void *scratch) {
  const int64_t *ids = ids_data, *mask = mask_data;
  float *states = states_data;
  (void)B, (void)S, (void)scratch;
  for (int64_t i = begin; i < end; i++) {
    for (int64_t k = 0; k < 4; k++) states[i * 4 + k] = (float)(mask[i] * (ids[i] * (k + 3) % 11));
  }
  return 0;
}
"""


def encoder_plan(folder: Path) -> Plan:
    (folder / "encoder.c").write_text(ENCODER)
    code = (folder / compile_source("encoder.c", TRIPLE, ["-O1"], folder)).read_bytes()
    shape = (Dim.of("B"), Dim.of("S"))
    ports = tuple(Port(name, DType.I64, shape) for name in ("input_ids", "attention_mask"))
    args = (Location("input", 0), Location("input", 1), Location("output", 0))
    return Plan(
        name="encoder",
        inputs=ports,
        outputs=(Port("states", DType.F32, (*shape, Dim.of(4))),),
        dims={"B": (1, 8), "S": (1, 512)},
        slots=(),
        steps=(Step("encode", args, ("B", "S"), shape[0] * shape[1]),),
        weights=b"",
        levels=(Level("plain", (), code),),
        target="x86_64-linux",
    )


def cosines(sentences: list[list[int]]) -> list[float]:
    means = [np.mean([[token * (k + 3) % 11 for k in range(4)] for token in ids], axis=0) for ids in sentences]
    unit = [mean / np.linalg.norm(mean) for mean in means]
    return [float(unit[0] @ one) for one in unit]


@pytest.mark.parametrize("weights", ["embedded", "external"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_similarity(tmp_path: Path, threads: str, weights: str) -> None:
    library = link_library(encoder_plan(tmp_path), tmp_path / "model.so", weights=weights).library  # type: ignore[arg-type]
    header = Path(abi.__file__).parent
    flags = ["-target", TRIPLE, "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{header}"]
    zig(["cc", *flags, str(EXAMPLE), "-o", "similarity", "-ldl", "-lm"], tmp_path)
    sentences = [[1, 2, 3], [9, 4], [1], list(range(1, 300))]
    (tmp_path / "sentences.ids").write_text("".join(" ".join(map(str, ids)) + "\n" for ids in sentences))
    command = ["./similarity", str(library), "sentences.ids", threads]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [int(row[1]) for row in rows] == [3, 2, 1, 299]
    np.testing.assert_allclose([float(row[3]) for row in rows], cosines(sentences), atol=2e-6)


def test_a_file_that_is_no_artifact(tmp_path: Path) -> None:
    header = Path(abi.__file__).parent
    zig(["cc", "-target", TRIPLE, f"-I{header}", str(EXAMPLE), "-o", "similarity", "-ldl", "-lm"], tmp_path)
    command = ["./similarity", "/dev/null", "/dev/null"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("dlopen: ")
