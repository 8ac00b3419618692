"""A parametrization of a torch weight: latent tensors in, the weights that an encoding stores for them out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nomul.frontend.torch.qat.schedule import Schedule
from nomul.ir.encodings import Encoding
from nomul.ir.registry import Registry
from nomul.passes.fit import Fields

FAKES: Registry[str, type[Fake]] = Registry("nomul.frontend.torch.qat.fakes", "training of encoding {}")


def fake_of(encoding: Encoding, schedule: Schedule) -> Fake:
    """The parametrization for an encoding: one of its own, or the general one."""
    kind = FAKES.find(encoding.name)
    return kind(encoding, schedule) if kind is not None and kind.takes(encoding) else Fake(encoding, schedule)


class Fake(torch.nn.Module):
    """Packs and unpacks by the encoding itself; the gradient of the weight is that of what was unpacked.

    Several latent tensors: `right_inverse` makes them from the float weight, the other methods take them in order."""

    def __init__(self, encoding: Encoding, schedule: Schedule) -> None:
        super().__init__()
        self.encoding, self.schedule = encoding, schedule

    @classmethod
    def takes(cls, encoding: Encoding) -> bool:
        """Whether it serves this form of the encoding."""
        return True

    def packed(self, *latent: torch.Tensor) -> Fields:
        """The fields that are stored for latent tensors. Raises ValueError where training made what has no code."""
        return self.encoding.pack(as_array(latent[0]))

    def smooth(self, stored: torch.Tensor, *latent: torch.Tensor) -> torch.Tensor:
        """A tensor of the weight's shape: its gradient is the one that latent tensors get."""
        return latent[0]

    def forward(self, *latent: torch.Tensor) -> torch.Tensor:
        shape = tuple(latent[0].shape)
        array = self.encoding.unpack(self.packed(*latent), shape)
        stored = torch.from_numpy(np.ascontiguousarray(array)).to(latent[0])
        result: torch.Tensor = _Stored.apply(self.smooth(stored, *latent), stored)
        return result


class _Stored(torch.autograd.Function):
    """The stored weights, exactly; the gradient goes to the smooth ones."""

    @staticmethod
    def forward(ctx: Any, smooth: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        return stored.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """f32, without its gradient."""
    return tensor.detach().to("cpu", torch.float32).numpy()


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """To the nearest integers; the gradient goes straight through."""
    return tensor + (tensor.round() - tensor).detach()
