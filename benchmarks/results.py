"""Benchmark results for readers: lines, a table for the terminal, and the table in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nomul.console import size_text, table

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
START, END = "<!-- results: benchmarks/models.py --docs -->", "<!-- end of results -->"
COLUMNS = (
    "model",
    "sizes",
    "threads",
    "nomul ms",
    "onnxruntime ms",
    "ratio",
    "ratio of fastest runs",
    "relative difference",
    "code",
    "weights",
    "compile s",
)


def line(row: dict[str, Any]) -> str:
    """One row while the benchmark runs."""
    times = f"{row['nomul_ms']:.3f} ms, onnxruntime {row['onnxruntime_ms']:.3f} ms: {row['ratio']:.2f}x"
    return f"{row['model']} {_sizes(row)} threads={row['threads']}: {times}"


def print_results(result: dict[str, Any]) -> None:
    """All of it, for the terminal."""
    print("\n".join(_limits(result)))
    table("", COLUMNS, [_cells(row) for row in result["rows"]])
    for name, reason in result["skipped"].items():
        print(f"skipped {name}: {reason}")


def update_docs(result: dict[str, Any]) -> None:
    """Replaces the results in docs/benchmarks.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START, 1)
    after = rest.split(END, 1)[1]
    rows = ["| " + " | ".join(map(str, cells)) + " |" for cells in (COLUMNS, *map(_cells, result["rows"]))]
    rows.insert(1, "|" + "---|" * len(COLUMNS))
    body = "\n".join([*(f"- {text}" for text in _limits(result)), "", *rows])
    PAGE.write_text(f"{before}{START}\n{body}\n{END}{after}", encoding="utf-8")


def _limits(result: dict[str, Any]) -> Iterator[str]:
    for when in ("before", "after"):
        for limit in result[f"limits_{when}"]:
            rates = f"{limit['gflops']:.0f} GFLOPS, {limit['read_gbs']:.1f} GB/s read"
            yield f"limits {when}, {limit['threads']} threads: {rates}"


def _sizes(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={size}" for name, size in row["dims"].items())


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["model"],
        _sizes(row),
        str(row["threads"]),
        f"{row['nomul_ms']:.2f}",
        f"{row['onnxruntime_ms']:.2f}",
        f"{row['ratio']:.2f}",
        f"{row['nomul_low_ms'] / row['onnxruntime_low_ms']:.2f}",
        f"{row['max_rel_diff']:.0e}",
        size_text(row["library_bytes"] - row["weights_bytes"]),
        size_text(row["weights_bytes"]),
        f"{row['compile_s']:.0f}",
    )
