"""What nomul-run holds beside the model: a recorded run with its right results, usual sizes, bounds of integers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nomul.backends import c_text

DATA_FILE = "recorded.bin"
TOLERANCE = 1e-4  # relative to the largest magnitude; other CPUs sum in another order
HALF_TOLERANCE = 2e-2  # outputs of half floats: a few units in the last place of bf16


@dataclass(frozen=True)
class Recording:
    """dims: usual sizes by name.  bounds: for each input the least and largest integer that makes sense.

    inputs, outputs: in the order of the ports; none where no run was recorded.  tolerance: largest right difference,
    relative to the largest magnitude of an output."""

    dims: Mapping[str, int] = field(default_factory=dict)
    bounds: Sequence[tuple[int, int]] = ()
    inputs: Sequence[np.ndarray] = ()
    outputs: Sequence[np.ndarray] = ()
    tolerance: float = TOLERANCE


def tolerance_of(outputs: Sequence[np.ndarray]) -> float:
    """The tolerance that the element types of the outputs call for."""
    halves = ("float16", "bfloat16")
    return HALF_TOLERANCE if any(array.dtype.name in halves for array in outputs) else TOLERANCE


def npy_bytes(array: np.ndarray) -> bytes:
    """The .npy file of an array."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    return file.getvalue()


def emit_recording(recording: Recording, dim_names: Sequence[str], weights_file: str) -> tuple[str, bytes]:
    """recorded.c, and the bytes of `DATA_FILE`, which it points into. dim_names: as the C interface orders them."""
    data = bytearray()
    tables = [_files(name, arrays, data) for name, arrays in _ports(recording)]
    usual = ", ".join(str(recording.dims.get(name, 1)) for name in dim_names) or "0"
    bounds = ", ".join(f"{{{low}, {high}}}" for low, high in recording.bounds) or "{0, 0}"
    pointers = ["inputs", "outputs"] if recording.outputs else ["NULL", "NULL"]
    text = f"""\
/* recorded.c: what the compiler knows of the model for nomul-run. */
#include "runner.h"

extern const uint8_t recorded_data[];
{"".join(tables)}
static const int64_t usual_dims[] = {{{usual}}};
static const int64_t bounds[][2] = {{{bounds}}};
const recorded_facts recorded = {{
  .inputs = {pointers[0]}, .outputs = {pointers[1]}, .bounds = bounds, .usual_dims = usual_dims,
  .tolerance = {recording.tolerance!r}, .weights_file = {c_text.string(weights_file)},
}};
"""
    return text, bytes(data)


def _ports(recording: Recording) -> list[tuple[str, Sequence[np.ndarray]]]:
    return [("inputs", recording.inputs), ("outputs", recording.outputs)] if recording.outputs else []


def _files(name: str, arrays: Sequence[np.ndarray], data: bytearray) -> str:
    rows = []
    for array in arrays:
        npy = npy_bytes(array)
        rows.append(f"{{recorded_data + {len(data)}, {len(npy)}}}")
        data += npy
    return f"static const recorded_file {name}[] = {{{', '.join(rows) or '{NULL, 0}'}}};\n"
