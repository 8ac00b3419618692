"""The error of a block's outputs, and its slopes by the weights of the block's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nomul.frontend.torch.blocks.twin import changed_attributes, refusal, twin_of
from nomul.ir.graph import Constant, Node, Value, Weight
from nomul.ir.interpreter import concrete
from nomul.ir.types import DType
from nomul.passes.blocks import Block
from nomul.passes.fit_blocks import Sample


class TorchBlock:
    """A block of an encoded module. samples: of its inputs, and of the outputs that it should have."""

    def __init__(self, block: Block, samples: Sequence[Sample]) -> None:
        self._block, self._samples = block, samples
        self._known: dict[Value, torch.Tensor] = {}
        self._power = [sum(float(np.vdot(target, target)) for target in sample.targets) for sample in samples]

    @staticmethod
    def refusal(block: Block) -> str | None:
        """Why this block cannot be learned, or None."""
        reasons = [_strange_dtype(node) or refusal(node) for node in block.nodes]
        return next((reason for reason in reasons if reason), None)

    def __call__(
        self, arrays: Mapping[str, np.ndarray], number: int, slopes: bool = True
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Squared error of the outputs over their squares for one sample, and its slopes. arrays: by weight name."""
        learned = {name: torch.from_numpy(array).requires_grad_(slopes) for name, array in arrays.items()}
        with torch.set_grad_enabled(slopes):
            error = self._error(learned, number)
        if not slopes:
            return error.item(), {}
        found = torch.autograd.grad(error, list(learned.values()))
        return error.item(), {name: slope.numpy() for name, slope in zip(learned, found, strict=True)}

    def _error(self, learned: Mapping[str, torch.Tensor], number: int) -> torch.Tensor:
        sample = self._samples[number]
        values = {value: torch.from_numpy(np.ascontiguousarray(array)) for value, array in sample.inputs.items()}
        for node in self._block.nodes:
            attrs = {name: concrete(value, sample.dims) for name, value in changed_attributes(node).items()}
            operands = [None if arg is None else self._operand(arg, values, learned) for arg in node.args]
            compute = twin_of(node)
            assert compute is not None
            values[node.result] = compute(*operands, **attrs)
        pairs = zip(self._block.outputs, sample.targets, strict=True)
        total = sum(((values[value] - torch.from_numpy(target)) ** 2).sum() for value, target in pairs)
        return torch.as_tensor(total) / max(self._power[number], 1e-30)

    def _operand(
        self, value: Value, values: Mapping[Value, torch.Tensor], learned: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        if isinstance(value, Weight) and value.name in learned:
            return learned[value.name]
        if value not in values and value not in self._known:
            assert isinstance(value, Constant | Weight)
            array = value.array() if isinstance(value, Weight) else np.asarray(value.value, value.dtype.numpy)
            self._known[value] = torch.from_numpy(np.array(array))
        return values[value] if value in values else self._known[value]


def _strange_dtype(node: Node) -> str | None:
    wrong = [value.dtype for value in node.results if value.dtype is not DType.F32]
    return f"{node.op} makes {wrong[0]}" if wrong else None
