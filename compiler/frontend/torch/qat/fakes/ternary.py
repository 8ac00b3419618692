"""Ternary weights train with a residual of their latent weights that fades out (Arenas, arXiv 2601.07892)."""

from __future__ import annotations

import torch

from nomul.frontend.torch.qat.fake import FAKES, Fake


@FAKES.declare("ternary")
class FakeTernary(Fake):
    """In training Q(W) + epsilon W, with the epsilon of the schedule; in evaluation Q(W)."""

    def forward(self, *latent: torch.Tensor) -> torch.Tensor:
        stored = super().forward(*latent)
        share = self.schedule.residual if self.training else 0.0
        return stored + share * latent[0] if share else stored
