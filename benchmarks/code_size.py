"""Where the bytes of a library that are not weights go: `python benchmarks/code_size.py [--model NAME] [--recipe R]`.

For each model of benchmarks/models.py one artifact for every level of x86-64 Linux: code and constants of kernels of
each level that has code of its own, as LLVM makes them at its level 3, at level 2 as we use it, and at level 2 with
kernels that differ only in sizes shared; then the driver and C runtime with what a shared library needs, and the facts.
All in bytes.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import models  # stands beside this file
import real_models
import tvm

import nomul
from nomul.backends import build, lower
from nomul.backends.target import Target
from nomul.console import table
from nomul.runtime.trailer import pack_facts

TARGET = "x86_64-linux"
_CODE = (".text", ".rodata")
COLUMNS = ("model", "level", "kernels", "level 3", "level 2", "shared")


def loaded_bytes(code: bytes) -> int:
    """Size of the sections with code and constants of a relocatable 64-bit ELF file."""
    (start,) = struct.unpack_from("<Q", code, 40)
    size, count, names = struct.unpack_from("<HHH", code, 58)
    headers = [struct.unpack_from("<IIQQQQ", code, start + number * size) for number in range(count)]
    labels = headers[names][4]
    return sum(
        header[5] for header in headers if code[labels + header[0] :].split(b"\0", 1)[0].decode().startswith(_CODE)
    )


class Measure:
    """Stands in for `lower_to_object`, and notes the size of each level's code in every form."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.bytes = 0

    def __call__(self, functions: Mapping[str, Any], target: Target, *_: Any, **__: Any) -> bytes:
        shared = lower.lower_to_object(functions, target)
        with mock.patch.object(lower, "share", dict):
            alone = lower.lower_to_object(functions, target)
            with mock.patch.object(lower, "llvm_target", _at_level_3(lower.llvm_target)):
                unrolled = lower.lower_to_object(functions, target)
        sizes = [loaded_bytes(code) for code in (unrolled, alone, shared)]
        self.rows.append((target.level, len(functions), *sizes))
        self.bytes += sizes[-1]
        return shared


def _at_level_3(plain: Any) -> Any:
    def described(target: Target) -> Any:
        return tvm.target.Target({**plain(target).export(), "opt-level": 3})

    return described


def measure(entry: models.Entry, recipe: str | None = None) -> list[tuple[Any, ...]]:
    """Rows of the table for one model."""
    subject = entry.load()
    options = dict(subject.options)
    label = f"{entry.name} {recipe}" if recipe else entry.name
    sizes = Measure()
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.object(build, "lower_to_object", sizes),
        mock.patch.object(build.os, "cpu_count", lambda: 1),  # one level after the other: they share the patches
    ):
        artifact = nomul.compile(
            subject.model,
            options.pop("example_inputs", None),
            dims=entry.dims,
            output=Path(name) / "model.so",
            target=TARGET,
            recipe=recipe,
            **options,
        )
        whole = artifact.path.stat().st_size - artifact.facts["weights"]["bytes"]
    facts = len(pack_facts(artifact.facts))
    totals = [sum(row[column] for row in sizes.rows) for column in (2, 3, 4)]
    rows: list[tuple[Any, ...]] = [(label, *row) for row in sizes.rows]
    rows.append((label, "all", "", *totals))
    rows.append((label, "driver, runtime, tables", "", "", "", whole - facts - sizes.bytes))
    rows.append((label, "facts", "", "", "", facts))
    rows.append((label, "library without weights", "", "", "", whole))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="only models whose name contains this")
    parser.add_argument("--recipe", action="append", default=[], help="with such weights (default: in f32)")
    arguments = parser.parse_args()
    rows: list[tuple[Any, ...]] = []
    for entry in models.entries():
        if arguments.model and not any(part in entry.name for part in arguments.model):
            continue
        try:
            for recipe in arguments.recipe or [None]:
                rows += measure(entry, recipe)
        except (real_models.PackageMissing, ImportError) as error:
            print(f"skipped {entry.name}: {error}", file=sys.stderr)
    table("", COLUMNS, [tuple(map(str, row)) for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
