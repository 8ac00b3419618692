"""Training for what a recipe asks: `prepare` before fine-tuning with encodings, `distill_attention` before attention is
exchanged for a linear one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomul.recipe import RecipeLike, read_recipe
from nomul.with_torch import with_torch

if TYPE_CHECKING:
    from nomul.frontend.torch.qat.distill import Distilled

ANY = "*"


def prepare(module: Any, recipe: RecipeLike, *, steps: int = 0) -> Any:
    """Makes a torch module compute, in forward, with weights as the recipe's encodings store them; returns it.

    Its linear layers, convolutions (those with groups where each channel is one) and embeddings (as the recipe's rules
    and its key `embeddings` say; a table that is a head's weight too trains as one) keep latent weights as parameters,
    which any optimiser trains; gradients go straight through. Prepare before the optimiser is made: some encodings have
    parameters of their own. `nomul.compile` of the module stores exactly the weights that forward used in evaluation
    mode.

    recipe: as `nomul.compile` takes it; role "head" is the last linear layer, fitters choose only the first values.
    steps: how many training steps there will be, for a residual that ternary weights have at first (Sherry's Arenas,
    arXiv 2601.07892), where training starts from random weights; 0 for none: a model that is trained already loses by
    it what it knows. It counts calls of the module in training mode.
    Raises NomulError: NM007 without PyTorch, NM009 for act="i8-static" and for rules of attention, NM458 for a rule
    that matches nothing."""
    return with_torch("nomul.frontend.torch.qat", "prepare_module")(module, read_recipe(recipe), steps)


def distill_attention(
    model: Any,
    data: Any,
    example_inputs: Any = None,
    *,
    output: str | Path,
    match: str = ANY,
    form: str = "softmax",
    steps: int = 400,
    rate: float = 0.02,
    **source_options: Any,
) -> dict[str, Distilled]:
    """Learns Hedgehog's maps for softmax attentions (Zhang et al., 2024) and writes them to `output`, a .safetensors
    file that a recipe names: `[[attention]] form = "linear", maps = "FILE"`.

    model, example_inputs, source_options: as `nomul.compile` takes them, ONNX models too; weights stay as they are.
    data: calibration data for it, whose queries and keys the maps are learned from, layer by layer.
    match: glob over the names of the layers (the modules that compute attention).
    form: of the maps, "softmax" or "exp" (`nn.hedgehog_map`).  steps, rate: of Adam for each layer, which takes one
    batch of the data in each step.
    Returns by layer the maps, and how far their attention is from softmax attention on the data (mean
    Kullback-Leibler divergence of rows, nats) before training, with identities for maps, and after it.
    Raises NomulError: NM007 without PyTorch, NM017 for data that does not fit, NM458 where nothing matches, NM464 for
    attention that no linear attention can express, NM465 where the file cannot be written."""
    run = with_torch("nomul.distillation", "distil")
    return run(model, data, example_inputs, Path(output), match, form, steps, rate, source_options)
