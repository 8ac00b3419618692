"""Learns how the layers of a block are rounded, from the error of the block's outputs (FlexRound, arXiv 2306.00317).

Block after block, as BRECQ does (arXiv 2102.05426): its inputs are those of the model that is encoded so far, its
outputs should become those of the float model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from nomul.ir.encodings.grouped import Grouped
from nomul.ir.graph import Module, Value, Weight
from nomul.passes.blocks import Block
from nomul.passes.calibrate import Batch
from nomul.passes.fit.solve.divisors import Adam, Divisors
from nomul.passes.fit_layers import Fit, Job
from nomul.passes.side_by_side import Run

STEPS = 160
LOOKS = 8  # at what is held out, on the way
HELD = 4  # every so manieth batch is held out
BIAS_RATE = 0.01  # times the size of biases and of mean errors
MEMORY = 1 << 30  # bytes of what both models have computed at one place, for all batches


@dataclass(frozen=True)
class Sample:
    """A block on one batch. inputs: what the encoded model gives it.  targets: its outputs in the float model.

    dims: the values of named sizes."""

    inputs: Mapping[Value, np.ndarray]
    targets: Sequence[np.ndarray]
    dims: Mapping[str, int]


class BlockError(Protocol):
    """The error of a block's outputs, relative, and its slopes; made for a block and samples."""

    def __call__(
        self, arrays: Mapping[str, np.ndarray], number: int, slopes: bool = True
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Of one sample, for f32 weights and biases by name. slopes: by the same names; empty where not asked for."""
        ...


class Gradients(Protocol):
    """What can differentiate blocks."""

    def __call__(self, block: Block, samples: Sequence[Sample]) -> BlockError: ...

    def refusal(self, block: Block) -> str | None:
        """Why it cannot do so with this one, or None."""
        ...


@dataclass(frozen=True)
class Learned:
    """A layer that learns. start: how it is fitted by itself.  bias: which learns too, or None."""

    job: Job
    start: Fit
    bias: Weight | None


class BlockFitter:
    """Learns block after block of `encoded`, whose nodes are those of `plain` and whose layers are all encoded.

    batches: as many as keep what both models hold between blocks below MEMORY; every fourth is held out, where there
    are two at least, to choose the best of what was learned."""

    def __init__(self, plain: Module, encoded: Module, blocks: Sequence[Block], batches: Sequence[Batch]) -> None:
        self._encoded = encoded
        used = batches[: max(1, MEMORY // max(1, _held_bytes(plain, blocks, batches)))]
        self._runs = [(Run(plain, batch), Run(encoded, batch)) for batch in used]
        nodes = zip(plain.main.nodes, encoded.main.nodes, strict=True)
        self._twins = {b: a for one, other in nodes for a, b in zip(one.results, other.results, strict=True)}

    def fit(
        self, block: Block, layers: Sequence[Learned], gradients: Gradients, progress: Callable[[float], None]
    ) -> list[Fit]:
        """Fits of the layers, not worse on the held out batches than those at the start. Blocks come in order.

        progress: called with the done share."""
        samples = [self._sample(block, *pair) for pair in self._runs]
        learners = [_Learner(layer, self._encoded) for layer in layers]
        _learn(gradients(block, samples), learners, len(samples), progress)
        return [learner.fit() for learner in learners]

    def _sample(self, block: Block, plain: Run, encoded: Run) -> Sample:
        encoded.advance(block.start)
        given = encoded.ahead(block.stop)  # what the layers have no part in may stand among the block's nodes
        plain.advance(block.start)
        wanted = plain.ahead(block.stop)
        inputs = {value: given[value] for value in block.inputs}
        return Sample(inputs, [wanted[self._twins[value]] for value in block.outputs], encoded.dims)


def _held_bytes(plain: Module, blocks: Sequence[Block], batches: Sequence[Batch]) -> int:
    """The most bytes of both models' values between two blocks, for the largest batch."""
    largest = max(batches, key=lambda batch: sum(array.size for array in batch))
    run, most = Run(plain, largest), 0
    for block in blocks:
        run.advance(block.stop)
        most = max(most, 2 * sum(array.nbytes for array in run.values.values()))
    return most


class _Learner:
    """A layer while it learns, and the best of it so far."""

    def __init__(self, layer: Learned, encoded: Module) -> None:
        self._layer, self._shape = layer, tuple(int(size) for size in layer.job.weight.shape)
        encoding = layer.job.encoding
        assert isinstance(encoding, Grouped)
        self._encoding, self._name = encoding, layer.job.weight.name
        matrix = layer.job.weight.array().reshape(self._shape[0], -1).astype(np.float64)
        self._divisors = Divisors(encoding, matrix, encoding.parts(layer.start.fields, self._shape))
        self._bias = None if layer.bias is None else encoded.weights[layer.bias.name].array()
        self._move = Adam(0.0 if self._bias is None else BIAS_RATE * float(np.abs(self._bias).mean()))
        self.keep()

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What the block computes with, by name."""
        found = {self._name: self._divisors.values.astype(np.float32).reshape(self._shape)}
        if self._layer.bias is not None and self._bias is not None:
            found[self._layer.bias.name] = (self._bias + self._move.value).astype(np.float32)
        return found

    def step(self, slopes: Mapping[str, np.ndarray], share: float) -> None:
        """Raises ValueError where a scale becomes what cannot be stored."""
        self._divisors.step(slopes[self._name].reshape(self._shape[0], -1).astype(np.float64), share)
        if self._layer.bias is not None:
            self._move.step(slopes[self._layer.bias.name], share)

    def keep(self) -> None:
        self._best = self._divisors.found, self.arrays

    def fit(self) -> Fit:
        parts, arrays = self._best
        bias = None if self._layer.bias is None else arrays[self._layer.bias.name]
        return replace(self._layer.start, fields=self._encoding.assemble(parts, self._shape), bias=bias)


def _learn(error: BlockError, learners: Sequence[_Learner], count: int, progress: Callable[[float], None]) -> None:
    """count: of samples."""
    held = [number for number in range(count) if number % HELD == min(count, HELD) - 1]
    train = [number for number in range(count) if number not in held] or held

    def arrays() -> dict[str, np.ndarray]:
        return {name: array for learner in learners for name, array in learner.arrays.items()}

    def look() -> float:
        return sum(error(arrays(), number, slopes=False)[0] for number in held)

    least = look()
    with ThreadPoolExecutor(min(len(learners), os.cpu_count() or 1)) as pool:
        for step in range(STEPS):
            _, slopes = error(arrays(), train[step % len(train)])
            share = 1 - step / STEPS
            try:
                list(pool.map(lambda learner, slopes=slopes, share=share: learner.step(slopes, share), learners))
            except ValueError:  # scales that cannot be stored: what was kept before holds
                return
            if (step + 1) % (STEPS // LOOKS):
                continue
            progress((step + 1) / STEPS)
            if (now := look()) < least:
                least = now
                for learner in learners:
                    learner.keep()
