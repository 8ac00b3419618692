"""Activations as a layer with eight-bit inputs sees them: a forward pre-hook that does what `ir/quantise.py` says."""

from __future__ import annotations

from typing import Any

import torch

from nomul.ir.quantise import LEAST, LEVELS


class EightBitInput:
    """Rounds the first input to integers of at most `levels` with a scale for each row (images: for each image).

    Gradients go through."""

    act = "i8"

    def __init__(self, levels: int = LEVELS) -> None:
        self.levels = levels

    def __call__(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        axes = -1 if isinstance(module, torch.nn.Linear) else tuple(range(1, x.dim()))
        with torch.no_grad():
            most = x.abs().amax(dim=axes, keepdim=True)
            zero = most < float(LEAST)
            inverse = torch.where(zero, 0, self.levels / most)
            steps = (x * inverse).round().clamp(-self.levels, self.levels)
            seen = steps * torch.where(zero, 0, most / self.levels)
        return x + (seen - x).detach(), *inputs[1:]
