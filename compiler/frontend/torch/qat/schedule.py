"""Counts training steps, for what fades out while a model is trained."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import torch

WARM_UP = 0.1  # share of the steps


class Schedule:
    """A forward pre-hook of the whole module. steps: how many there will be; 0: nothing ever changes."""

    def __init__(self, steps: int) -> None:
        self.steps, self.step = steps, 0

    def __call__(self, module: torch.nn.Module, inputs: Any) -> None:
        if module.training:
            self.step += 1

    @property
    def residual(self) -> float:
        """Arenas' epsilon (arXiv 2601.07892): from 0 to 1 in the first tenth, then back to 0 as a cosine."""
        if self.step >= self.steps:
            return 0.0
        warm = max(1.0, WARM_UP * self.steps)
        if self.step < warm:
            return self.step / warm
        return 0.5 + 0.5 * cos(pi * (self.step - warm) / max(1.0, self.steps - warm))
