"""Small plots as SVG text, for pages that stand alone: points with titles that browsers show under the mouse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor

WIDTH, HEIGHT, MARGIN = 640, 260, 44


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    title: str


def scatter(points: Sequence[Point], x_label: str, y_label: str) -> str:
    """Points over two axes, each from the least to the largest value."""
    low_x, high_x = _range([point.x for point in points])
    low_y, high_y = _range([point.y for point in points])
    marks = []
    for point in points:
        x = MARGIN + (point.x - low_x) / (high_x - low_x) * (WIDTH - 2 * MARGIN)
        y = HEIGHT - MARGIN - (point.y - low_y) / (high_y - low_y) * (HEIGHT - 2 * MARGIN)
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(point.title)}</title></circle>')
    return _frame(marks, (low_x, high_x, low_y, high_y), x_label, y_label)


def bars(points: Sequence[Point], y_label: str) -> str:
    """One bar for each point, side by side; x is not used."""
    low, high = _range([0.0, *(point.y for point in points)])
    step, marks = (WIDTH - 2 * MARGIN) / max(1, len(points)), []
    zero = HEIGHT - MARGIN - (0 - low) / (high - low) * (HEIGHT - 2 * MARGIN)
    for place, point in enumerate(points):
        y = HEIGHT - MARGIN - (point.y - low) / (high - low) * (HEIGHT - 2 * MARGIN)
        box = f'x="{MARGIN + place * step:.1f}" y="{min(y, zero):.1f}" width="{max(step - 1, 1):.1f}"'
        marks.append(f'<rect {box} height="{abs(zero - y):.1f}"><title>{escape(point.title)}</title></rect>')
    return _frame(marks, (0, len(points), low, high), "layer", y_label)


def _frame(marks: Sequence[str], ends: tuple[float, float, float, float], x_label: str, y_label: str) -> str:
    low_x, high_x, low_y, high_y = ends
    bottom = HEIGHT - MARGIN
    axes = f'<path d="M{MARGIN} {MARGIN}V{bottom}H{WIDTH - MARGIN}"/>'
    texts = [
        (MARGIN, bottom + 16, "middle", f"{low_x:g}"),
        (WIDTH - MARGIN, bottom + 16, "middle", f"{high_x:g}"),
        (WIDTH / 2, bottom + 32, "middle", x_label),
        (MARGIN - 6, bottom, "end", f"{low_y:g}"),
        (MARGIN - 6, MARGIN + 4, "end", f"{high_y:g}"),
        (MARGIN, MARGIN - 14, "start", y_label),
    ]
    words = [f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>' for x, y, anchor, text in texts]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{axes}{"".join(marks)}{"".join(words)}</svg>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = floor(min(values, default=0)), ceil(max(values, default=1))
    return (low, high) if high > low else (low, low + 1)
