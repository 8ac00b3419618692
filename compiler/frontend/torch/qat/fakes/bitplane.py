"""Bit planes train with the scales of their planes and offsets as parameters beside the latent weights."""

from __future__ import annotations

import numpy as np
import torch

from nomul.frontend.torch.qat.fake import FAKES, Fake, as_array
from nomul.ir.encodings.bitplane import Bitplane
from nomul.passes.fit import Fields, find_fitter


@FAKES.declare("bitplane")
class FakeBitplane(Fake):
    """Latent: weights, scales [planes, N, G], offsets [N, G], tied or not; the bits are the nearest ones."""

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The weights as they are, and the scales that the encoding's fitter finds for them."""
        array = as_array(weight)
        fields = find_fitter(None, self.encoding)(array, None, self.encoding)
        found = self._encoding.real_scales(self._encoding.parts(fields, array.shape))
        return weight, *(torch.from_numpy(scales.astype(np.float32)).to(weight) for scales in found)

    def packed(self, *latent: torch.Tensor) -> Fields:
        weight, scale, offset = (as_array(tensor) for tensor in latent)
        given = self._encoding.scale_parts(scale, offset)
        matrix = weight.reshape(len(weight), -1).astype(np.float64)
        return self._encoding.assemble(self._encoding.nearest_by_rows(matrix, given), weight.shape)

    def smooth(self, stored: torch.Tensor, *latent: torch.Tensor) -> torch.Tensor:
        weight, scale, offset = latent
        bits = self._encoding.parts(self.packed(*latent), tuple(weight.shape))["bits"]
        size = bits.shape[-1] // offset.shape[-1]
        planes = torch.from_numpy(bits.astype(np.float32)).to(weight)
        if self._encoding.tied:  # stored planes of negative scales are turned round
            scale, offset = scale.abs(), offset + scale.clamp(max=0).sum(dim=0)
        levels = offset.repeat_interleave(size, -1) + (planes * scale.repeat_interleave(size, -1)).sum(dim=0)
        return levels.reshape(weight.shape) + weight - weight.detach()

    @property
    def _encoding(self) -> Bitplane:
        assert isinstance(self.encoding, Bitplane)
        return self.encoding
