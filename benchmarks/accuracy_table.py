"""Accuracy results for readers: lines, tables for the terminal, and the tables in docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results import markdown_table, replace_section

from nomul.console import table

PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
START, END = "<!-- results: benchmarks/accuracy.py --docs -->", "<!-- end of results -->"
FIRST = ("weights", "fitter", "data", "bits", "weight error")
NEAREST = "round_to_nearest"
Row = dict[str, Any]


def line(row: Row) -> str:
    """One row while the benchmark runs."""
    scores = ", ".join(f"{name} {_number(value)}" for name, value in row["scores"].items())
    calibrated = " calibrated" if row["calibrated"] else ""
    facts = f"{row['bits']:.2f} bits, {scores}, {row['seconds']:.0f} s"
    return f"{row['model']} {row['weights']} {row['fitter']}{calibrated}: {facts}"


def print_rows(result: dict[str, Any]) -> None:
    """All of it, for the terminal."""
    for model, rows in _by_model(result["rows"]).items():
        table(model, _columns(rows), [_cells(row, rows) for row in rows])
        print(_worse(rows))
    for name, reason in result["skipped"].items():
        print(f"skipped {name}: {reason}")


def update_docs(result: dict[str, Any]) -> None:
    """Replaces the results in docs/accuracy.md."""
    lines: list[str] = []
    for model, rows in _by_model(result["rows"]).items():
        lines += [f"### {model}", "", *markdown_table(_columns(rows), (_cells(row, rows) for row in rows)), ""]
        lines += [_worse(rows), ""]
    replace_section(PAGE, START, END, lines[:-1])


def _worse(rows: Sequence[Row]) -> str:
    """Names fitters whose models are farther from fp32, by the last score, than those rounded to the nearest."""
    plain = next((_nearness(row) for row in rows if row["weights"] == "f32" and not row["fitter"]), None)
    nearest = {row["weights"]: _nearness(row) for row in rows if row["fitter"] == NEAREST}
    fitted = [row for row in rows if row["weights"] in nearest and row["fitter"] != NEAREST]
    if plain is None or not fitted:
        return "No fitter stands beside round to nearest."
    worse: dict[bool, list[str]] = {True: [], False: []}
    for row in fitted:
        if abs(_nearness(row) - plain) > abs(nearest[row["weights"]] - plain):
            worse[row["calibrated"]].append(f"`{row['weights']}` by {row['fitter']}")
    texts = {flag: ", ".join(names) or "none" for flag, names in worse.items()}
    score = list(rows[0]["scores"])[-1]
    return f"Farther from fp32 than round to nearest ({score}): calibrated {texts[True]}; without data {texts[False]}."


def _nearness(row: Row) -> float:
    """The last score: the one that says how near a model is to fp32."""
    return float(list(row["scores"].values())[-1])


def _by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by model, those of one encoding together, in the order in which they came first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["model"], []).append(row)
    for model, own in found.items():
        order = {name: place for place, name in enumerate(dict.fromkeys(row["weights"] for row in own))}
        found[model] = sorted(own, key=lambda row: order[row["weights"]])
    return found


def _columns(rows: Sequence[Row]) -> tuple[str, ...]:
    return (*FIRST, *rows[0]["scores"], f"{rows[0]['main']} of fp32's")


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    plain = next((other for other in rows if other["weights"] == "f32" and not other["fitter"]), None)
    share = row["scores"][row["main"]] / plain["scores"][row["main"]] if plain else float("nan")
    error = "" if row["error"] is None else f"{row['error']:.5f}"
    data = "calibrated" if row["calibrated"] else "none"
    numbers = [_number(value) for value in row["scores"].values()]
    return (row["weights"], row["fitter"], data, f"{row['bits']:.2f}", error, *numbers, f"{100 * share:.1f} %")


def _number(value: float) -> str:
    return f"{value:.2f}" if value >= 10 else f"{value:.4f}"
