"""Which code the kernels have that are measured: times of other code do not count."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

_BACKENDS = Path(__file__).parents[1]


@cache
def code_version() -> str:
    """A digest of the sources that kernels are made by, and the version of TVM that lowers them."""
    return digest_of(_BACKENDS, version("apache-tvm"))


def digest_of(folder: Path, *words: str) -> str:
    """Of the Python files of a folder and those below it, by name and text, and of further words."""
    digest = hashlib.blake2b("\0".join(words).encode(), digest_size=8)
    for path in sorted(folder.rglob("*.py")):
        text = path.read_bytes()
        digest.update(f"\0{path.relative_to(folder).as_posix()}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()
