"""Bytes of a model's weights in each recipe, with tables of embeddings in floats and as the recipe stores them, beside
the file of onnxruntime's dynamic quantisation: `python benchmarks/model_sizes.py [--model L3] [--recipe int8]`.

Sizes do not depend on how bytes are chosen: weights are rounded to the nearest, and no kernel is made.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import model_recipes
import models  # these stand beside this file
import real_models

from nomul.api import lower
from nomul.console import size_text, table
from nomul.passes.choice import Recipe
from nomul.passes.fit_layers import QUICK
from nomul.recipe import read_recipe

COLUMNS = ("model", "recipe", "weights with f32 embeddings", "weights", "onnxruntime int8, its file")


def rows_of(entry: models.Entry, recipes: list[str]) -> Iterator[tuple[str, ...]]:
    """One row for each recipe."""
    subject = entry.load()
    with tempfile.TemporaryDirectory() as name:
        file = model_recipes.onnx_files(subject, Path(name)).get(model_recipes.EIGHT_BITS)
        theirs = size_text(file.stat().st_size) if file else ""
    options = dict(subject.options)
    fused = lower(subject.model, options.pop("example_inputs", None), until="fuse", dims=entry.dims, **options)
    for text in recipes:
        recipe = read_recipe(text)
        quick = replace(recipe, rules=tuple(replace(rule, fitter=QUICK) for rule in recipe.rules))

        def stored(recipe: Recipe) -> str:
            weights = lower(fused, until="encode", recipe=recipe).weights.values()
            return size_text(sum(field.nbytes for weight in weights for field in weight.fields.values()))

        yield entry.name, text, stored(replace(quick, embeddings=None)), stored(quick), theirs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="only models whose name contains this")
    parser.add_argument("--recipe", action="append", default=[], help="only these recipes")
    arguments = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    for entry in models.entries():
        if arguments.model and not any(part in entry.name for part in arguments.model):
            continue
        try:
            rows += rows_of(entry, arguments.recipe or list(model_recipes.RECIPES))
        except (real_models.PackageMissing, ImportError) as error:
            print(f"skipped {entry.name}: {error}", file=sys.stderr)
    table("", COLUMNS, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
