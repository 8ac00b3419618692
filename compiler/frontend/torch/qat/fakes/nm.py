"""N:M sparse weights train dense, and those that are not kept decay (SR-STE; Bi-Mask, arXiv 2302.06058)."""

from __future__ import annotations

from typing import Any

import torch

from nomul.frontend.torch.qat.fake import FAKES, Fake

DECAY = 2e-4


class _Decay(torch.autograd.Function):
    """The identity; the gradient of what is not kept has a part that draws it to zero."""

    @staticmethod
    def forward(ctx: Any, latent: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(latent, kept)
        return latent.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        latent, kept = ctx.saved_tensors
        return gradients[0] + DECAY * torch.where(kept, 0, latent), None


@FAKES.declare("nm")
class FakeNm(Fake):
    """The largest of each m stay; a weight that is not stored can come back when it grows."""

    def smooth(self, stored: torch.Tensor, *latent: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _Decay.apply(latent[0], stored != 0)
        return result
