"""Compares an artifact with its model on random inputs of several sizes: `nomul verify model.onnx model.so`.

The model runs on the numpy interpreter and, for ONNX and where it is installed, on onnxruntime. Layers with encoded
weights are listed, those first that lost most, and attention that a recipe exchanged.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomul.arguments import add_dim_sizes, add_run_options, positive
from nomul.console import say, say_exchanged, table
from nomul.ir.errors import NomulError

if TYPE_CHECKING:
    from nomul.compare import Implementation
    from nomul.ir.graph import Module
    from nomul.runtime.loader import Artifact

LITTLE = 16  # share of what sizes that nobody named may take, for those of many rows
HELP = "compare an artifact with its model on random inputs"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="the .onnx, .pt2 or .nir file that was compiled")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--samples", type=positive, default=3, help="how many sizes, beside a large batch (default 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest allowed relative difference (default 1e-4)"
    )
    parser.add_argument(
        "--absolute", type=float, default=1e-6, help="differences up to this much always agree (default 1e-6)"
    )
    add_dim_sizes(parser)
    add_run_options(parser)


def run(arguments: argparse.Namespace) -> int:
    from nomul.compare import difference
    from nomul.runtime.loader import load
    from nomul.sample import artifact_specs, sample_inputs
    from nomul.source import read_model

    artifact = load(arguments.artifact)
    artifact.force_level(arguments.level)
    module = read_model(arguments.model)
    module.dims = dict.fromkeys(module.dims, (0, inf))  # the artifact's ranges count, which may be wider
    _check_ports(module, artifact)
    specs = artifact_specs(artifact)
    references = _references(module, arguments.model)
    rows: list[tuple[str, ...]] = []
    worst, agrees = 0.0, True
    for number, dims in enumerate(_sizes(artifact, arguments)):
        values = sample_inputs(specs, dims, arguments.seed + number)
        results = artifact(*values, threads=arguments.threads)
        for name, reference in references.items():
            found = [difference(left, right) for left, right in zip(reference(values), results, strict=True)]
            sizes = " ".join(f"{dim}={size}" for dim, size in dims.items())
            for port, apart in zip(artifact.outputs, found, strict=True):
                rows.append((name, sizes, port.name, f"{apart.absolute:.2e}", f"{apart.relative:.2e}"))
            worst = max([worst, *(apart.relative for apart in found)])
            agrees &= all(a.absolute <= arguments.absolute or a.relative <= arguments.tolerance for a in found)
    table("", ("reference", "sizes", "output", "max abs diff", "max rel diff"), rows)
    say_exchanged(artifact.facts)
    _print_layers(artifact.facts.get("encoded", []))
    verdict = "agrees" if agrees else "DIFFERS"
    allowed = f"allowed {arguments.tolerance:g}, or {arguments.absolute:g} absolute"
    say(f"{verdict}: largest relative difference {worst:.2e} ({allowed})")
    if not agrees and any(artifact.facts.get(name) for name in ("encoded", "exchanged")):
        say("A recipe has changed the model: --tolerance says how far; --report of nomul compile, what it costs")
    return 0 if agrees else 1


def _sizes(artifact: Artifact, arguments: argparse.Namespace) -> list[dict[str, int]]:
    """Sizes of all dims to try: as many as are asked for, and where a batch is open one of many rows."""
    from nomul.sample import artifact_fits, many_rows, spread_dims

    given = dict(arguments.dim)
    cases = spread_dims(artifact.dims, given, arguments.samples, arguments.seed, artifact_fits(artifact))
    many = many_rows(artifact.dims, given, artifact_fits(artifact, LITTLE))
    return cases if many is None or many in cases else [*cases, many]


def _print_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """Encoded layers, those first whose weights lost most."""
    rows = []
    for layer in sorted(layers, key=lambda layer: layer["weights"]["sqnr_db"]):
        lost = layer["weights"]
        worst = f"{lost['worst_channel']} ({lost['worst_error']:.4f})"
        stored = (layer["encoding"], layer["fitter"], f"{layer['bits']:.2f}")
        rows.append((f"{lost['sqnr_db']:.1f}", f"{lost['cosine']:.5f}", worst, *stored, layer["name"]))
    if rows:
        columns = ("SQNR dB", "cosine", "worst channel", "encoding", "fitter", "bits", "weight")
        table("encoded layers, worst first", columns, rows)


def _references(module: Module, path: Path) -> dict[str, Implementation]:
    from nomul.compare import onnxruntime_of
    from nomul.ir import interpreter

    references: dict[str, Implementation] = {"interpreter": lambda values: interpreter.run(module, *values)}
    other = onnxruntime_of(path) if path.suffix == ".onnx" else None
    return references | ({"onnxruntime": other} if other else {})


def _check_ports(module: Module, artifact: Artifact) -> None:
    expected = [(param.name, str(param.dtype), len(param.shape)) for param in module.main.params]
    given = [(port.name, port.dtype, len(port.shape)) for port in artifact.inputs]
    if [item[1:] for item in expected] != [item[1:] for item in given]:
        message = f"the artifact takes {given}, the model {expected} (name, dtype, rank)"
        raise NomulError("NM015", message, help="was it compiled from another model?")
