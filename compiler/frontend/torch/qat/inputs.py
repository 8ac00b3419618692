"""Activations as a layer with eight-bit inputs sees them, as `ir/quantise.py` says; gradients go through."""

from __future__ import annotations

from typing import Any

import torch

from nomul.ir.quantise import LEAST, LEVELS


def eight_bits(x: torch.Tensor, axes: Any, levels: int, scale: float = 0.0) -> torch.Tensor:
    """Rounded to integers of at most `levels` times a scale. axes: whose elements share one.  scale: of all, or 0."""
    with torch.no_grad():
        if scale:
            seen = (x * (1 / torch.tensor(scale))).round().clamp(-levels, levels) * scale
        else:
            most = x.abs().amax(dim=axes, keepdim=True)
            zero = most < float(LEAST)
            inverse = torch.where(zero, 0, levels / most)
            steps = (x * inverse).round().clamp(-levels, levels)
            seen = steps * torch.where(zero, 0, most / levels)
    return x + (seen - x).detach()


class EightBitInput:
    """A forward pre-hook: the first input has a scale for each row (images: for each image)."""

    act = "i8"

    def __init__(self, levels: int = LEVELS) -> None:
        self.levels = levels

    def __call__(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        axes = -1 if isinstance(module, torch.nn.Linear) else tuple(range(1, x.dim()))
        return eight_bits(x, axes, self.levels), *inputs[1:]
