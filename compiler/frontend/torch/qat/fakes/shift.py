"""Powers of two train as exponents and signs (DeepShift-PS; ShiftAddViT, NeurIPS 2023)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nomul.frontend.torch.qat.fake import FAKES, Fake, as_array, rounded
from nomul.ir.encodings import Encoding
from nomul.ir.encodings.shift import Shift
from nomul.passes.fit import Fields


class _Product(torch.autograd.Function):
    """power * sign; the gradient of the sign is not multiplied by the power, so that small weights can turn too."""

    @staticmethod
    def forward(ctx: Any, power: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(sign)
        return power * sign

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradients[0] * ctx.saved_tensors[0], gradients[0]


@FAKES.declare("shift")
class FakeShift(Fake):
    """One term: latent exponents and signs of the weight's shape, scales stay. More terms train as other encodings."""

    scale: torch.Tensor

    @classmethod
    def takes(cls, encoding: Encoding) -> bool:
        return isinstance(encoding, Shift) and encoding.terms == 1

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Exponents and signs of float weights; zero where a weight is nearer to zero than to the least power."""
        array = as_array(weight)
        scale = self._encoding.default_scales(array.reshape(len(array), -1).astype(np.float64))["scale"]
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)).to(weight.device))
        ratio = weight.detach() / self._wide(weight.shape)
        least = self._encoding.form.least
        exponent = ratio.abs().clamp(min=2.0**least).log2().nan_to_num(nan=float(least))
        sign = torch.where(ratio.abs() >= 2.0 ** (least - 1), ratio.sign(), 0.0)
        return exponent, sign

    def packed(self, *latent: torch.Tensor) -> Fields:
        exponent, sign = (tensor.numpy() for tensor in self._codes(*latent))
        rows = (1, len(exponent), -1)
        parts = {
            "sign": sign.astype(np.int8).reshape(rows),
            "exponent": np.where(sign != 0, exponent, 0).astype(np.int8).reshape(rows),
            "scale": as_array(self.scale),
        }
        return self._encoding.assemble(parts, exponent.shape)

    def smooth(self, stored: torch.Tensor, *latent: torch.Tensor) -> torch.Tensor:
        exponent, sign = latent
        limited = exponent + (exponent.clamp(self._encoding.form.least, 0) - exponent).detach()
        whole = sign + (rounded(sign).sign() - sign).detach()
        product: torch.Tensor = _Product.apply(2.0 ** rounded(limited), whole)
        return product * self._wide(stored.shape)

    def _codes(self, exponent: torch.Tensor, sign: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return exponent.clamp(self._encoding.form.least, 0).round().cpu(), sign.round().sign().cpu()

    def _wide(self, shape: torch.Size) -> torch.Tensor:
        """The scales of every weight."""
        size = shape[1:].numel() // self.scale.shape[1]
        return self.scale.repeat_interleave(size, dim=1).reshape(shape)

    @property
    def _encoding(self) -> Shift:
        assert isinstance(self.encoding, Shift)
        return self.encoding
