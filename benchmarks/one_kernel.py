"""What benchmarks of single kernels share: memory that starts at a cache line, and a kernel as a C function."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nomul.backends.lower import lower_to_object
from nomul.backends.select import Choice
from nomul.backends.target import Target


def aligned(count: int) -> np.ndarray:
    """Bytes from a multiple of 64 on, all written once."""
    memory = np.ones(count + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + count]


def aligned_copy(array: np.ndarray) -> np.ndarray:
    copy = aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def link(choice: Choice, target: Target) -> Any:
    """The kernel of the best level as a function to call through ctypes."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "k.o").write_bytes(lower_to_object({"kernel": choice.built[0].function}, target))
        command = [sys.executable, "-m", "ziglang", "cc", "-target", target.zig, "-shared", "-o", "k.so", "k.o"]
        subprocess.run(command, cwd=folder, check=True)
        return ctypes.CDLL(str(Path(folder) / "k.so")).kernel
