"""Quantisation-aware training: `nomul.qat.prepare(module, recipe)`, train as usual, `nomul.compile(module, inputs)`."""

from __future__ import annotations

from typing import Any

from nomul.ir.errors import NomulError
from nomul.recipe import RecipeLike, read_recipe


def prepare(module: Any, recipe: RecipeLike, *, steps: int = 0) -> Any:
    """Makes a torch module compute, in forward, with weights as the recipe's encodings store them; returns it.

    Its linear layers and convolutions without groups keep latent weights as parameters, which any optimiser trains;
    gradients go straight through. Prepare before the optimiser is made: some encodings have parameters of their own.
    `nomul.compile` of the module stores exactly the weights that forward used in evaluation mode.

    recipe: as `nomul.compile` takes it; role "head" is the last linear layer, fitters choose only the first values.
    steps: how many training steps there will be, for a residual that ternary weights have at first (Sherry's Arenas,
    arXiv 2601.07892), where training starts from random weights; 0 for none: a model that is trained already loses by
    it what it knows. It counts calls of the module in training mode.
    Raises NomulError: NM007 without PyTorch, NM009 for act="i8-static", NM458 for a rule that matches nothing."""
    try:
        from nomul.frontend.torch.qat import prepare_module
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise NomulError("NM007", "PyTorch is not installed", help="pip install 'nomul[torch]'") from None
    return prepare_module(module, read_recipe(recipe), steps)
