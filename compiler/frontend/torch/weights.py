"""Parameters, buffers and constants of a torch model as weights: not copied, names kept, tied ones shared."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from nomul.frontend.common import value_name
from nomul.frontend.torch.dtypes import dtype_of
from nomul.frontend.torch.lazy import Affine, Uniform, recognise
from nomul.ir.graph import Module, Weight

SMALL = 1 << 20  # integer constants up to this many elements are looked at for a formula


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory as an array; bfloat16 through its bits. Raises Unsupported for other element types."""
    dtype_of(tensor.dtype)
    plain = tensor.detach().cpu().resolve_neg()
    if plain.dtype is torch.bfloat16:
        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return plain.numpy()


class WeightTable:
    """Makes each weight once, and once each view of one."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._by_memory: dict[tuple[Any, ...], Weight] = {}
        self._views: dict[tuple[Any, ...], Weight] = {}
        self._origin: dict[Weight, tuple[Weight, tuple[int, ...]]] = {}

    def constant(self, name: str, tensor: torch.Tensor, trained: bool) -> Weight | Affine | Uniform:
        """A tensor of the model. A rank 0 one, and an integer buffer that counts evenly, become formulas."""
        if tensor.dim() == 0:
            return Uniform(dtype_of(tensor.dtype), (), tensor.item())
        if not trained and not tensor.dtype.is_floating_point and tensor.numel() <= SMALL:
            formula = recognise(to_numpy(tensor))
            if formula is not None:
                return formula
        key = (
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
        )
        if tensor.numel() == 0 or key not in self._by_memory:
            self._by_memory[key] = self.add(name, to_numpy(tensor))
        return self._by_memory[key]

    def add(self, name: str, array: np.ndarray) -> Weight:
        return self._module.add_weight(Weight.dense(value_name(name), array))

    def permuted(self, weight: Weight, perm: tuple[int, ...]) -> Weight:
        """The weight with its axes permuted; permuting back gives the first one again."""
        base, before = self._origin.get(weight, (weight, tuple(range(weight.type.rank))))
        whole = tuple(before[axis] for axis in perm)
        if whole == tuple(range(len(whole))):
            return base
        key = (base, whole)
        if key not in self._views:
            suffix = "T" if len(whole) == 2 else f"p{''.join(map(str, whole))}"
            view = self.add(f"{base.name}.{suffix}", np.ascontiguousarray(base.array().transpose(whole)))
            self._views[key] = view
            self._origin[view] = (base, whole)
        return self._views[key]

    def reshaped(self, weight: Weight, shape: tuple[int, ...]) -> Weight:
        """The weight under another shape."""
        if weight.array().shape == shape:
            return weight
        key = (weight, "shape", shape)
        if key not in self._views:
            self._views[key] = self.add(f"{weight.name}.r", weight.array().reshape(shape))
        return self._views[key]

    def prune(self) -> None:
        """Drop weights that nobody uses."""
        for weight in list(self._module.weights.values()):
            if not weight.users and not any(
                weight is kept for func in self._module.funcs.values() for kept in func.returns
            ):
                self._module.remove_weight(weight)
