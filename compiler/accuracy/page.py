"""The accuracy report as one HTML page without anything from outside: tables, and plots as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from nomul.accuracy.svg import Point, bars, scatter
from nomul.console import count_text, size_text

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 75em; color: #222; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto }
th, td { padding: 2px 10px; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child, td.text { text-align: left }
svg { width: 640px; max-width: 100%; font-size: 11px } svg path { stroke: #888; fill: none }
svg circle, svg rect { fill: #2463a8; fill-opacity: .65 } svg text { fill: #444 }
"""
_LAYERS = (
    "layer",
    "encoding",
    "fitter",
    "act",
    "bits",
    "bytes",
    "weights SQNR dB",
    "cosine",
    "worst channel",
    "its error",
    "outputs SQNR dB",
    "cosine",
    "worst channel",
    "its error",
    "alone, model SQNR dB",
)
_OUTPUTS = ("output", "SQNR dB", "cosine", "worst channel", "its error", "KL, nats")
_ATTENTION = ("layer", "form", *_OUTPUTS[1:-1], "alone, model SQNR dB")
_WORK = ("layer", "weights", "inputs", "multiply", "add", "shift", "look up", "scale", "uJ", "uJ in f32")


def page(data: dict[str, Any]) -> str:
    """HTML of what `report.measure` found; the layers stand worst first."""
    layers = worst_first(data["layers"])
    title = f"Accuracy of {escape(data['name'])}"
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{len(layers)} encoded layers; inputs: {escape(data['inputs'])}.</p>",
        "<h2>End to end</h2>",
        _table(_OUTPUTS, map(_output, data["outputs"])),
        *_attention(data),
        "<h2>Library beside the interpreter</h2>",
        _library(data["library"]),
        "<h2>Layers, worst first</h2>",
        _plots(data["layers"]),
        _table(_LAYERS, map(_layer, layers)),
        "<h2>Operations and energy</h2>",
        _work(data["work"]),
    ]
    if data["notes"]:
        items = "".join(f"<li>{escape(note)}</li>" for note in data["notes"])
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _attention(data: dict[str, Any]) -> list[str]:
    """Layers whose attention was exchanged, and what that alone does to the model; nothing where none was."""
    if not data["attention"]:
        return []
    rows = (
        [fact["name"], fact["form"], *_accuracy(fact["outputs"]), _decibels(fact["sensitivity"])]
        for fact in data["attention"]
    )
    return [
        "<h2>Exchanged attention</h2>",
        _table(_ATTENTION, rows),
        "<p>End to end, with all of these and no encoding:</p>",
        _table(_OUTPUTS, map(_output, data["attention_outputs"])),
    ]


def _decibels(number: float | None) -> str:
    return "" if number is None else f"{number:.1f}"


def _work(facts: dict[str, Any]) -> str:
    """A row for each layer, and what all of them come to."""
    totals = [sum(layer[key] for layer in facts["layers"]) / 1e6 for key in ("picojoules", "dense_picojoules")]
    sizes = " ".join(f"{name}={size}" for name, size in facts["dims"].items())
    text = f"At {sizes}: " if sizes else ""
    text += f"{totals[0]:.2f} uJ in a 45 nm chip, {totals[1]:.2f} uJ with f32 weights; without look-ups and memory."
    rows = (
        [
            layer["layer"],
            layer["encoding"],
            layer["act"],
            *(count_text(layer[key]) for key in ("multiplies", "additions", "shifts", "lookups", "scalings")),
            f"{layer['picojoules'] / 1e6:.3f}",
            f"{layer['dense_picojoules'] / 1e6:.3f}",
        ]
        for layer in facts["layers"]
    )
    return f"<p>{escape(text)}</p>" + _table(_WORK, rows)


def worst_first(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those first that the model is most sensitive to; behind them, the ones where this is not known, by weights."""
    known = [layer for layer in layers if layer["sensitivity"] is not None]
    others = [layer for layer in layers if layer["sensitivity"] is None]
    by_weights = sorted(others, key=lambda layer: layer["weights"]["sqnr_db"])
    return sorted(known, key=lambda layer: layer["sensitivity"]) + by_weights


def _plots(layers: Sequence[dict[str, Any]]) -> str:
    if not layers:
        return "<p>The recipe encodes no layer.</p>"
    error = [Point(fact["bits"], fact["weights"]["sqnr_db"], _label(fact)) for fact in layers]
    alone = [Point(0, fact["sensitivity"], _label(fact)) for fact in layers if fact["sensitivity"] is not None]
    plots = scatter(error, "stored bits of a weight", "SQNR of the weights, dB")
    return plots + bars(alone, "SQNR of the model with this layer alone encoded, dB")


def _label(fact: dict[str, Any]) -> str:
    alone = "" if fact["sensitivity"] is None else f", alone {fact['sensitivity']:.1f} dB"
    return f"{fact['name']}: {fact['encoding']}, {fact['weights']['sqnr_db']:.1f} dB{alone}"


def _layer(fact: dict[str, Any]) -> list[str]:
    name = fact["name"] if fact["loc"] in (None, fact["name"]) else f"{fact['name']} ({fact['loc']})"
    stored = [f"{fact['bits']:.2f}", size_text(fact["bytes"])]
    found = [*_accuracy(fact["weights"]), *_accuracy(fact["outputs"])]
    return [name, fact["encoding"], fact["fitter"], fact["act"], *stored, *found, _decibels(fact["sensitivity"])]


def _accuracy(fact: dict[str, Any] | None) -> list[str]:
    if fact is None:
        return [""] * 4
    numbers = (
        f"{fact['sqnr_db']:.1f}",
        f"{fact['cosine']:.5f}",
        str(fact["worst_channel"]),
        f"{fact['worst_error']:.4f}",
    )
    return list(numbers)


def _output(fact: dict[str, Any]) -> list[str]:
    return [fact["name"], *_accuracy(fact), "" if fact["kl"] is None else f"{fact['kl']:.4g}"]


def _library(fact: dict[str, Any]) -> str:
    if "reason" in fact:
        return f"<p>Not compared: {escape(fact['reason'])}</p>"
    rows = ([item["name"], f"{item['absolute']:.2e}", f"{item['relative']:.2e}"] for item in fact["outputs"])
    return _table(("output", "largest difference", "of the largest value"), rows)


def _table(columns: Sequence[str], rows: Any) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
