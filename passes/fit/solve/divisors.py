"""What FlexRound learns of one layer (arXiv 2306.00317): divisors of its weights and factors of its scales."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.low_bit import Parts

RATE = 0.01  # of logarithms of divisors, times the relative error of weights at first; it falls to zero
SCALE_RATE = 0.002  # of logarithms of scales, likewise
HALVINGS = 6  # of the way from rounded weights to those that were given
INSIDE = 0.6  # of this way: nearer to the border, noise alone would change codes


class Divisors:
    """Weights [N, K] are divided by a number for each weight and each row before they are rounded, with scales that
    learn too, so that large weights may move several steps. At first they are rounded as in `parts`."""

    def __init__(self, encoding: Grouped, matrix: np.ndarray, parts: Parts) -> None:
        self.encoding = encoding
        self.found = parts
        self.values = encoding.values(parts).astype(np.float64)
        self._latent = _latent(encoding, matrix, parts, self.values)
        self._wanted = self._latent
        size = float(np.linalg.norm(matrix))
        lost = float(np.linalg.norm(self.values - matrix)) / size if size else 0.0
        self._element, self._row = Adam(RATE * lost), Adam(RATE * lost)
        self._fixed = _scale_parts(encoding, parts)
        floats = [name for name, part in self._fixed.items() if part.dtype.kind == "f" and part.ndim > 1]
        self._scales = {name: Adam(SCALE_RATE * lost) for name in floats}

    def step(self, slope: np.ndarray, share: float) -> None:
        """slope [N, K]: of the error by `values`, which it changes.  share: of the rates."""
        pull = -slope * self._wanted
        pulls = self._scale_pulls(slope)
        self._element.step(pull, share)
        self._row.step(pull.sum(axis=1, keepdims=True), share)
        for name, adam in self._scales.items():
            adam.step(pulls[name], share)
        self._wanted = self._latent * np.exp(-(self._element.value + self._row.value))
        scales = {
            name: self.encoding.rounded(self._fixed[name] * np.exp(adam.value)) for name, adam in self._scales.items()
        }
        self.found = self.encoding.nearest_by_rows(self._wanted, self._fixed | scales)
        self.values = self.encoding.values(self.found).astype(np.float64)

    def _scale_pulls(self, slope: np.ndarray) -> dict[str, np.ndarray]:
        """By part, slopes by logarithms of scales. One scale: as if rounding were the identity for gradients; several,
        which share out a weight among them: with the codes that there are."""
        pulls = {name: np.zeros(self.found[name].shape) for name in self._scales}
        shares = list(self._shares())
        for name, index, values in shares:
            moved = values - self._wanted if len(shares) == 1 else values
            pulls[name][index] = self.encoding.grouped(slope * moved).sum(axis=-1)
        return pulls

    def _shares(self) -> Iterator[tuple[str, tuple[int, ...], np.ndarray]]:
        """Part, index of a scale array [N, G] in it, and what its codes add to the weights."""
        arrays = [(name, index) for name in self._scales for index in np.ndindex(self.found[name].shape[:-2])]
        for name, index in arrays:
            if len(arrays) == 1:
                yield name, index, self.values
                continue
            alone = {other: np.zeros_like(self.found[other]) for other in self._scales}
            alone[name][index] = self.found[name][index]
            yield name, index, self.encoding.values({**self.found, **alone})


def _latent(encoding: Grouped, matrix: np.ndarray, parts: Parts, values: np.ndarray) -> np.ndarray:
    """Weights that are rounded to `values`, on the way to the given ones."""
    scales = _scale_parts(encoding, parts)
    near, step = np.zeros(matrix.shape), 1.0
    for _ in range(HALVINGS):
        tried = np.minimum(near + step, 1)
        kept = encoding.values(encoding.nearest_by_rows(values + tried * (matrix - values), scales)) == values
        near, step = np.where(kept, tried, near), step / 2
    return values + INSIDE * near * (matrix - values)


def _scale_parts(encoding: Grouped, parts: Parts) -> dict[str, np.ndarray]:
    """All but the codes."""
    names = encoding.default_scales(encoding.values(parts)[:1].astype(np.float64))
    return {name: parts[name] for name in names}


class Adam:
    """Kingma and Ba, 2015, with its usual moments, on an array that starts at zero."""

    def __init__(self, rate: float) -> None:
        self.rate, self.steps = rate, 0
        self.value: np.ndarray = np.zeros(())
        self._mean = self._square = self._spare = self.value

    def step(self, gradient: np.ndarray, share: float) -> None:
        """share: of the rate. In place: fresh memory for each term would take longer than the sums."""
        if not self.steps:
            self.value, self._mean, self._square, self._spare = (np.zeros(gradient.shape) for _ in range(4))
        self.steps += 1
        mean, square, spare = self._mean, self._square, self._spare
        mean += np.multiply(np.subtract(gradient, mean, out=spare), 0.1, out=spare)
        square *= 0.999
        square += np.multiply(np.multiply(gradient, gradient, out=spare), 0.001, out=spare)
        np.sqrt(np.divide(square, 1 - 0.999**self.steps, out=spare), out=spare)
        np.divide(mean, np.add(spare, 1e-12, out=spare), out=spare)
        self.value -= np.multiply(spare, share * self.rate / (1 - 0.9**self.steps), out=spare)
