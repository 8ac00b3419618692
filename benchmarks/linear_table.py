"""Results of benchmarks/linear.py for readers: lines, a table for the terminal, and that in docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import limits
from results import PAGE, put, show

START, END = "<!-- results: benchmarks/linear.py --docs -->", "<!-- end of linear results -->"
COLUMNS = (
    "layer",
    "rows",
    "threads",
    "weights in",
    "system",
    "encoding",
    "bits",
    "ms",
    "fastest ms",
    "GB/s",
    "of read",
    "GOPS",
    "of int8 peak",
)
Row = dict[str, Any]


def line(row: Row) -> str:
    """One row while the benchmark runs."""
    kernel = f"  {row['kernel']}" if row["kernel"] else ""
    return (
        f"{row['n']}x{row['k']} m={row['m']} threads={row['threads']} {row['weights']:6} {row['system']:11} "
        f"{row['encoding']:32} {row['bits_per_weight']:5.2f} bits {row['ms']:9.4f} ms {row['gbps']:6.1f} GB/s "
        f"{row['gops']:7.1f} GOPS{kernel}"
    )


def print_result(result: dict[str, Any]) -> None:
    """All of it, for the terminal."""
    show(COLUMNS, _cells, _limits(result), result)


def update_docs(result: dict[str, Any]) -> None:
    """Replaces the results in docs/benchmarks.md."""
    put(PAGE, (START, END), COLUMNS, _cells, _limits(result), result)


def _limits(result: dict[str, Any]) -> list[str]:
    """The range of what the machine did, from before the first row until after the last."""
    lines = [f"kernels for {result['level']}; times are medians of runs in turns"]
    for threads in dict.fromkeys(item["threads"] for item in result["limits"]):
        own = [limits.Limits(**item) for item in result["limits"] if item["threads"] == threads]
        for name, of in (("least", min), ("most", max)):
            rates = [of(values) for values in zip(*(astuple(item) for item in own), strict=True)]
            lines.append(f"limits, {name} of {len(own)} times, {limits.text(limits.Limits(*rates))}")
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    share = row["fraction_of_int8_peak"]
    return (
        f"{row['n']}x{row['k']}",
        str(row["m"]),
        str(row["threads"]),
        row["weights"],
        row["system"],
        row["encoding"],
        f"{row['bits_per_weight']:.2f}",
        f"{row['ms']:.4f}",
        f"{row['low_ms']:.4f}",
        f"{row['gbps']:.1f}",
        f"{row['fraction_of_read_bandwidth']:.0%}" if row["weights"] == "memory" else "",
        f"{row['gops']:.0f}",
        "" if share is None else f"{share:.0%}",
    )
