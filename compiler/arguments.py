"""Command-line arguments that several sub-commands share: dims, targets, input arrays."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nomul.ir.errors import NomulError

_DIM = re.compile(r"([^=]+)=(\d+)(?::(\d+))?")


def dim_range(text: str) -> tuple[str, tuple[int, int]]:
    """`S=1:512` or `S=128`."""
    match = _DIM.fullmatch(text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=SIZE or NAME=LOWEST:HIGHEST")
    low = int(match[2])
    return match[1], (low, int(match[3]) if match[3] else low)


def dim_size(text: str) -> tuple[str, int]:
    """`S=128`."""
    name, (low, high) = dim_range(text)
    if low != high:
        raise argparse.ArgumentTypeError(f"'{text}' must be one size, NAME=SIZE")
    return name, low


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return int(text)


def add_dim_ranges(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dim", action="append", type=dim_range, default=[], metavar="NAME=LOW:HIGH", help="size range of a named dim"
    )


def add_dim_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dim", action="append", type=dim_size, default=[], metavar="NAME=SIZE", help="size of a named dim"
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Threads and instruction-set level of a run."""
    parser.add_argument("--threads", type=positive, default=1, help="threads of a run (default 1)")
    parser.add_argument("--level", help="instruction-set level instead of the best that this CPU has (v2, v3, v4, ...)")


def read_arrays(arguments: Sequence[str], names: Sequence[str]) -> list[np.ndarray]:
    """Arrays in the order of `names` from `NAME=FILE.npy` and `FILE.npz`. Raises NomulError (NM012)."""
    given: dict[str, np.ndarray] = {}
    for argument in arguments:
        name, _, path = argument.rpartition("=")
        loaded = load_arrays(Path(path))
        if isinstance(loaded, Mapping):
            given.update(loaded)
        elif name:
            given[name] = loaded
        else:
            raise NomulError("NM012", f"'{argument}' does not say which input it is", help=f"write NAME={argument}")
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in names]
    if missing or unknown:
        what = [f"no input {name}" for name in missing] + [f"unknown input {name}" for name in unknown]
        raise NomulError("NM012", "; ".join(what), help=f"the inputs: {', '.join(names)}")
    return [given[name] for name in names]


def load_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a .npy file, or all of a .npz file; never unpickles. Raises NomulError (NM012)."""
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except OSError as error:
        raise NomulError("NM012", f"cannot read {path}: {error.strerror or error}") from None
    except Exception:  # numpy and zipfile raise many kinds for damaged files, and numpy tells to unpickle
        raise NomulError("NM012", f"{path} is no .npy or .npz file, is damaged, or holds Python objects") from None
