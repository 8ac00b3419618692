"""Benchmark results for readers: lines, a table for the terminal, and the table in docs/benchmarks.md; also what other
benchmarks need to write theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nomul.console import size_text, table

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
START, END = "<!-- results: benchmarks/models.py --docs -->", "<!-- end of results -->"
Result = dict[str, Any]
Cells = Callable[[dict[str, Any]], tuple[str, ...]]
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
    show(COLUMNS, _cells, limit_lines(result), result)


def update_docs(result: dict[str, Any]) -> None:
    """Replaces the results in docs/benchmarks.md."""
    put(PAGE, (START, END), COLUMNS, _cells, limit_lines(result), result)


def show(columns: Sequence[str], cells: Cells, limits: Iterable[str], result: Result) -> None:
    """A benchmark's results for the terminal. cells: of one row; limits: lines on what the machine did."""
    print("\n".join(limits))
    table("", columns, [cells(row) for row in result["rows"]])
    for name, reason in result["skipped"].items():
        print(f"skipped {name}: {reason}")


def put(
    page: Path, marks: tuple[str, str], columns: Sequence[str], cells: Cells, limits: Iterable[str], result: Result
) -> None:
    """The same into a page, between two lines."""
    facts = [f"- {text}" for text in limits]
    replace_section(page, *marks, [*facts, "", *markdown_table(columns, map(cells, result["rows"]))])


def replace_section(page: Path, start: str, end: str, lines: Iterable[str]) -> None:
    """Puts lines between those that are `start` and `end`. Raises ValueError where the page lacks one of these."""
    before, rest = page.read_text(encoding="utf-8").split(start, 1)
    _, after = rest.split(end, 1)
    page.write_text("\n".join([before + start, *lines, end + after]), encoding="utf-8")


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table with a head."""
    head, *body = ("| " + " | ".join(cells) + " |" for cells in (columns, *rows))
    return [head, "|" + "---|" * len(columns), *body]


def limit_lines(result: dict[str, Any]) -> Iterator[str]:
    """What the machine did, before and after."""
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
