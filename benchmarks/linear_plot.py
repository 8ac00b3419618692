"""A roofline of the rows of benchmarks/linear.py as SVG: operations per second over operations per byte of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 900, 560, 70, 50, 40
COLOURS = ("#c0392b", "#2166ac", "#4d9221", "#8e44ad", "#d98500")
STYLE = "text{font:12px sans-serif}path{fill:none;stroke:#555}.grid{stroke:#ddd}.roof{stroke:#000;stroke-width:2}"
Row = dict[str, Any]


class _Axes:
    """Powers of ten around all values."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x_ends = (floor(log10(min(xs))), ceil(log10(max(xs))))
        self.y_ends = (floor(log10(min(ys))), ceil(log10(max(ys))))

    def x(self, value: float) -> float:
        low, high = self.x_ends
        return LEFT + (log10(value) - low) / max(1, high - low) * (WIDTH - 2 * LEFT)

    def y(self, value: float) -> float:
        low, high = self.y_ends
        return HEIGHT - BOTTOM - (log10(value) - low) / max(1, high - low) * (HEIGHT - BOTTOM - TOP)


def roofline(result: dict[str, Any]) -> str:
    """All rows as points, in one colour for each system, under the roofs of each number of threads. Raises ValueError
    where there are no rows."""
    rows = result["rows"]
    roofs = _roofs(result)
    xs = [_intensity(row) for row in rows]
    axes = _Axes(xs, [row["gops"] for row in rows] + [peak for _, _, peak in roofs])
    systems = list(dict.fromkeys(row["system"] for row in rows))
    marks = [*_grid(axes), *(mark for roof in roofs for mark in _roof(axes, *roof)), *_legend(systems)]
    for x, row in zip(xs, rows, strict=True):
        colour = COLOURS[systems.index(row["system"]) % len(COLOURS)]
        place = f'cx="{axes.x(x):.1f}" cy="{axes.y(row["gops"]):.1f}"'
        fill = colour if row["weights"] == "memory" else "none"
        title = f"<title>{escape(_title(row))}</title>"
        marks.append(f'<circle {place} r="4" stroke="{colour}" fill="{fill}">{title}</circle>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"><style>{STYLE}</style>'
        f"{''.join(marks)}</svg>\n"
    )


def _intensity(row: Row) -> float:
    """Operations per byte of weights."""
    return float(16 * row["m"] / row["bits_per_weight"])


def _title(row: Row) -> str:
    layer = f"{row['n']}x{row['k']}, {row['m']} rows, {row['threads']} threads, weights in {row['weights']}"
    return f"{row['system']} {row['encoding']}: {layer}: {row['gops']:.0f} GOPS, {row['gbps']:.1f} GB/s"


def _roofs(result: dict[str, Any]) -> list[tuple[int, float, float]]:
    """(threads, GB/s, peak GOPS), the best that was measured."""
    roofs = []
    for threads in dict.fromkeys(item["threads"] for item in result["limits"]):
        own = [item for item in result["limits"] if item["threads"] == threads]
        peak = max(max(item["int8_gops"], item["gflops"]) for item in own)
        roofs.append((threads, max(item["read_gbs"] for item in own), peak))
    return roofs


def _grid(axes: _Axes) -> Iterator[str]:
    for power in range(axes.x_ends[0], axes.x_ends[1] + 1):
        x = axes.x(10.0**power)
        yield f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{10.0**power:g}</text>'
    for power in range(axes.y_ends[0], axes.y_ends[1] + 1):
        y = axes.y(10.0**power)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - LEFT}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">operations per byte of weights</text>'
    yield f'<text x="{LEFT - 30}" y="{TOP - 22}">GOPS (full points: weights in memory)</text>'


def _roof(axes: _Axes, threads: int, read: float, peak: float) -> Iterator[str]:
    """The slope of the memory up to the multiply peak, then the peak."""
    low, high = (10.0**end for end in axes.x_ends)
    start = max(low, 10.0 ** axes.y_ends[0] / read)
    corner = min(max(peak / read, start), high)
    yield (
        f'<path class="roof" d="M{axes.x(start):.1f} {axes.y(read * start):.1f}'
        f'L{axes.x(corner):.1f} {axes.y(read * corner):.1f}H{axes.x(high):.1f}"/>'
    )
    label = f"{threads} threads: {read:.0f} GB/s, {peak:.0f} int8 GOPS"
    yield f'<text x="{WIDTH - LEFT}" y="{axes.y(peak) - 6:.1f}" text-anchor="end">{label}</text>'


def _legend(systems: Sequence[str]) -> Iterator[str]:
    for place, name in enumerate(systems):
        y, colour = TOP + 18 + 18 * place, COLOURS[place % len(COLOURS)]
        yield f'<circle cx="{LEFT + 14}" cy="{y - 4}" r="4" fill="{colour}"/>'
        yield f'<text x="{LEFT + 24}" y="{y}">{escape(name)}</text>'
