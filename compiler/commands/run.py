"""Runs an artifact, or a .nir file on the interpreter: `nomul run model.so x=in.npy -o out.npz`.

Inputs are NAME=FILE.npy or FILE.npz; an input of a `--random` run that is not given is drawn at random.
With `--on ssh://user@board` an artifact (or a bundle's folder) runs on that machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nomul.arguments import add_dim_sizes, add_run_options, read_arrays
from nomul.console import say
from nomul.ir.errors import NomulError

HELP = "run an artifact or a .nir file on arrays"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="ARTIFACT|FILE.nir")
    parser.add_argument("--on", metavar="ssh://USER@HOST", help="run on that machine, through ssh")
    parser.add_argument("inputs", nargs="*", metavar="NAME=FILE.npy", help="inputs, or one FILE.npz that holds them")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.npz", help="write the outputs there")
    parser.add_argument("--random", action="store_true", help="run on random inputs of the size that --dim says")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default 0)")
    add_dim_sizes(parser)
    add_run_options(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.dim and not arguments.random:
        raise NomulError("NM012", "--dim is for --random only", help="the sizes of given inputs are the arrays' own")
    outputs = _choose(arguments)(arguments)
    for name, array in outputs.items():
        say(f"{name}: {array.dtype}{list(array.shape)} {summary(array)}")
    if arguments.output:
        with arguments.output.open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
        say(f"wrote {arguments.output}")
    return 0


def _choose(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], dict[str, np.ndarray]]:
    if arguments.on:
        return _run_remote
    return _run_nir if arguments.model.suffix == ".nir" else _run_artifact


def summary(array: np.ndarray) -> str:
    """Least, mean, largest, and the first values."""
    if not array.size:
        return "(empty)"
    numbers = array.astype(np.float64)
    first = ", ".join(f"{value:.6g}" for value in numbers.reshape(-1)[:4])
    return f"min {numbers.min():.6g} mean {numbers.mean():.6g} max {numbers.max():.6g} first [{first}]"


def _run_artifact(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    from nomul.runtime.loader import load
    from nomul.sample import artifact_fits, artifact_specs, pick_dims, sample_inputs

    artifact = load(arguments.model)
    artifact.force_level(arguments.level)
    if arguments.random:
        dims = pick_dims(artifact.dims, dict(arguments.dim), artifact_fits(artifact))
        values = sample_inputs(artifact_specs(artifact), dims, arguments.seed)
    else:
        values = read_arrays(arguments.inputs, [port.name for port in artifact.inputs])
    results = artifact(*values, threads=arguments.threads)
    return named([port.name for port in artifact.outputs], results)


def _run_remote(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    from nomul.deployable import deployable
    from nomul.remote import Host, run_remote
    from nomul.sample import fact_dims, fact_specs, facts_fit, pick_dims, sample_inputs

    host = Host.parse(arguments.on)
    with deployable(arguments.model) as model:
        if arguments.random:
            dims = pick_dims(fact_dims(model.facts), dict(arguments.dim), facts_fit(model.facts))
            values = sample_inputs(fact_specs(model.inputs), dims, arguments.seed)
        else:
            values = read_arrays(arguments.inputs, [port["name"] for port in model.inputs])
        results = run_remote(host, model, values, threads=arguments.threads, level=arguments.level)
        return named([port["name"] for port in model.outputs], results)


def _run_nir(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    from nomul.ir import interpreter
    from nomul.nir import read_nir, require_weights
    from nomul.sample import input_specs, module_fits, pick_dims, sample_inputs

    module = read_nir(arguments.model)
    require_weights(module)
    if arguments.random:
        dims = pick_dims(module.dims, dict(arguments.dim), module_fits(module))
        values = sample_inputs(input_specs(module), dims, arguments.seed)
    else:
        values = read_arrays(arguments.inputs, [param.name for param in module.main.params])
    names = module.main.result_names or [value.name for value in module.main.returns]
    return named(names, interpreter.run(module, *values))


def named(names: Sequence[str], results: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name."""
    return dict(zip(names, results, strict=True))
