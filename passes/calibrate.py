"""Runs a module on calibration data and keeps what fitters need of each layer's inputs: mean x x^T, mean, range."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nomul.ir import interpreter
from nomul.ir.graph import Module, Node, Value
from nomul.passes.layers import Layer, is_depthwise

Batch = Sequence[np.ndarray]  # one array for each input of @main
MEMORY = 2 << 30  # bytes of Hessians at one time; more layers need another run over the data
ROUNDING = 1e-6  # relative, of sums in f32 over the rows of a batch
ROWS = 1 << 14  # of one batch and one layer; a longer input is thinned out evenly


@dataclass(frozen=True)
class Statistics:
    """hessian: [K, K], mean of x x^T, less what is chance in it (`_certain`).  mean: [K].  peaks: [K], largest
    magnitudes.  rows: how many inputs were seen."""

    hessian: np.ndarray
    mean: np.ndarray
    peaks: np.ndarray
    rows: int

    @property
    def largest(self) -> float:
        """The largest magnitude of all."""
        return float(self.peaks.max())

    @property
    def covariance(self) -> np.ndarray:
        """[K, K]: what is left of the Hessian where a bias takes care of the mean error; 0 for inputs that do not vary
        beyond the rounding of these sums."""
        covariance = self.hessian - np.outer(self.mean, self.mean)
        constant = np.diag(covariance) <= ROUNDING * np.diag(self.hessian)
        covariance[constant] = 0
        covariance[:, constant] = 0
        return covariance


def waves(layers: Sequence[Layer], memory: int = MEMORY) -> list[list[Layer]]:
    """The layers in order, in groups whose Hessians fit into memory together (one layer at least)."""
    groups: list[list[Layer]] = []
    used, seen = memory + 1, set[Hashable]()
    for layer in layers:
        new = {_source(node): _bytes(layer) for node in layer.products if _source(node) not in seen}
        if used + sum(new.values()) > memory:
            groups.append([])
            new = {_source(node): _bytes(layer) for node in layer.products}
            used, seen = 0, set()
        groups[-1].append(layer)
        used += sum(new.values())
        seen |= set(new)
    return groups


def collect(
    module: Module, layers: Sequence[Layer], batches: Iterable[Batch], progress: Callable[[int], None]
) -> dict[str, Statistics]:
    """Statistics by weight name for layers of @main. progress: called with the number of batches that are done.

    A weight that several nodes use gets the average of their inputs; layers that see no rows, and tables, are left out.
    Raises NomulError (NM101) for a batch that does not fit the module's inputs."""
    sums: dict[Hashable, _Sum] = {}
    wanted: dict[Value, list[tuple[_Sum, Node]]] = {}
    for node in [node for layer in layers for node in layer.products]:
        if (key := _source(node)) not in sums:
            sums[key] = _Sum()
            wanted.setdefault(_input(node), []).append((sums[key], node))

    def add(value: Value, array: np.ndarray) -> None:
        for total, node in wanted.get(value, ()):
            for rows in input_rows(node, array):
                total.add(rows)

    def observe(node: Node, results: Sequence[np.ndarray]) -> None:
        for value, array in zip(node.results, results, strict=True):
            add(value, array)

    for number, batch in enumerate(batches):
        interpreter.run(module, *batch, observer=observe)
        for param, array in zip(module.main.params, batch, strict=True):
            add(param, array)
        progress(number + 1)
    joined = {layer.weight.name: _joined([sums[_source(node)] for node in layer.products]) for layer in layers}
    return {name: statistics for name, statistics in joined.items() if statistics}


def input_rows(node: Node, x: np.ndarray) -> Iterator[np.ndarray]:
    """The inputs of a linear layer or convolution as rows [rows, K], K in the order of its flattened weights; of a
    depthwise one the windows of all channels, among which its Hessian does not tell."""
    if node.op == "nn.linear":
        yield _thinned(x.reshape(-1, x.shape[-1]))
        return
    if node.attrs["layout"] == "nhwc":
        x = x.transpose(0, 3, 1, 2)
    top, left, bottom, right = node.attrs["pads"]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = [(size - 1) * step + 1 for size, step in zip(_kernel(node), node.attrs["dilations"], strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    (down, across), (tall, wide) = node.attrs["strides"], node.attrs["dilations"]
    for image in views[:, :, ::down, ::across, ::tall, ::wide].transpose(0, 2, 3, 1, 4, 5):  # [OH, OW, C, KH, KW]
        channels = image.shape[2] if is_depthwise(node) else 1
        stretch = max(1, -(-image.shape[0] * image.shape[1] * channels * len(views) // ROWS))
        places = np.arange(0, image.shape[0] * image.shape[1], stretch)
        yield image[places // image.shape[1], places % image.shape[1]].reshape(len(places) * channels, -1)


def _thinned(rows: np.ndarray) -> np.ndarray:
    return rows[:: max(1, -(-len(rows) // ROWS))]


def _input(node: Node) -> Value:
    x = node.args[0]
    assert x is not None
    return x


def _kernel(node: Node) -> tuple[int, ...]:
    weight = node.args[1]
    assert weight is not None
    return tuple(int(size) for size in weight.shape[2:])


def _source(node: Node) -> Hashable:
    """Nodes with the same inputs share one Hessian."""
    if node.op == "nn.linear":
        return _input(node)
    return (_input(node), _kernel(node), *(node.attrs[name] for name in ("strides", "pads", "dilations", "groups")))


def _bytes(layer: Layer) -> int:
    columns = 1
    for size in layer.weight.shape[1:]:
        columns *= int(size)
    return 8 * columns * columns


class _Sum:
    """Running sums over the rows of one input. near: the mean of the first batch, from which `pairs` is counted."""

    def __init__(self) -> None:
        self.squares = np.zeros((0, 0))
        self.total = np.zeros(0)
        self.peaks = np.zeros(0)
        self.near = np.zeros(0)
        self.pairs = 0.0
        self.rows = 0

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        rows = rows.astype(np.float32, copy=False)
        if not self.rows:
            self.squares = np.zeros((rows.shape[1],) * 2)
            self.total, self.peaks = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
            self.near = rows.mean(axis=0)
        self.squares += rows.T @ rows
        self.total += rows.sum(axis=0, dtype=np.float64)
        apart = np.square(rows - self.near, dtype=np.float64)
        self.pairs += float(np.square(apart.sum(axis=1)).sum() - np.vdot(apart, apart))
        self.peaks = np.maximum(self.peaks, np.maximum(rows.max(axis=0), -rows.min(axis=0)))
        self.rows += len(rows)


def _joined(sums: Sequence[_Sum]) -> Statistics | None:
    found = [one for one in dict.fromkeys(sums) if one.rows]
    if not found:
        return None
    rows = sum(one.rows for one in found)
    squares = found[0].squares if len(found) == 1 else np.sum([one.squares for one in found], axis=0)
    mean = np.sum([one.total for one in found], axis=0) / rows
    hessian = _certain(squares / rows, mean, sum(one.pairs for one in found) / rows, rows)
    return Statistics(hessian, mean, np.max([one.peaks for one in found], axis=0), rows)


def _certain(hessian: np.ndarray, mean: np.ndarray, pairs: float, rows: int) -> np.ndarray:
    """The Hessian with covariances of different inputs shrunk by the share of their squares that is expected by chance
    of so few rows (Schaefer and Strimmer, 2005, target D). Compensation that trusts a small sample loses more for
    other rows than it gains. pairs: mean over rows of the squared products of all pairs of inputs, less their means."""
    common = np.outer(mean, mean)
    hessian -= common
    own = np.diag(hessian).copy()
    squares = float(np.vdot(hessian, hessian) - own @ own)
    chance = (pairs - squares) / (rows * squares) if squares > 0 else 1.0
    hessian *= 1 - min(max(chance, 0.0), 1.0)
    np.fill_diagonal(hessian, own)
    hessian += common
    return hessian
