"""Reductions, views, indices and constants against torch and plain loops."""

from __future__ import annotations

import numpy as np
import torch
from cases import Case, numbers

X = numbers(2, 3, 4)
INTS = numbers(2, 3, 4, low=-5, high=6, dtype=np.int64)
MASK = X > 0.5
x, i, mask = torch.from_numpy(X), torch.from_numpy(INTS), torch.from_numpy(MASK)
TIED = np.array([[3, 1, 3, 2], [0, 0, 5, 5]], np.float32)
ROWS = np.array([[1, -1], [0, 2]], np.int64)
PICK = np.array([[[0, 1], [1, 1], [0, 0]]], np.int64)
BYTES = np.array([0, 1, 255, 128, 1], np.uint8)
HALF = np.repeat(np.array([[4e4, 3e4], [-3.9e4, -2.9e4]], np.float16), 3, axis=0)  # sums of three are no f16
UPDATES = numbers(2, 4, seed=3)


def _scatter_nd(combine: str) -> np.ndarray:
    """Of rows [1] and [-1] (the last) of a [3, 4] array."""
    result = X[0].copy()
    for row, update in zip((1, 2), UPDATES, strict=True):
        result[row] = {"none": update, "add": result[row] + update, "max": np.maximum(result[row], update)}[combine]
    return result


CASES = [
    Case("reduce.sum", [X], x.sum((0, 2)), {"axes": (0, 2)}),
    Case("reduce.sum", [INTS], i.sum(1, keepdim=True), {"axes": (1,), "keepdims": True}),
    Case("reduce.mean", [HALF], torch.from_numpy(HALF).mean(0), {"axes": (0,)}, 2e-3),
    Case("reduce.sum", [HALF], torch.from_numpy(HALF).sum(0), {"axes": (0,)}, 2e-3),
    Case("reduce.mean", [X], x.mean((1, 2), keepdim=True), {"axes": (1, 2), "keepdims": True}),
    Case("reduce.prod", [X], x.prod(1), {"axes": (1,)}),
    Case("reduce.max", [X], x.amax((0, 1)), {"axes": (0, 1)}),
    Case("reduce.min", [INTS], i.amin((2,)), {"axes": (2,)}),
    Case("reduce.any", [MASK], mask.any(1), {"axes": (1,)}),
    Case("reduce.all", [MASK], mask.all(2, keepdim=True), {"axes": (2,), "keepdims": True}),
    Case("reduce.argmax", [X], x.argmax(1), {"axis": 1}),
    Case("reduce.argmax", [TIED], np.array([[0], [2]]), {"axis": 1, "keepdims": True}),
    Case("reduce.argmin", [TIED], np.array([1, 0]), {"axis": 1}),
    Case("reduce.cumsum", [X], x.cumsum(1), {"axis": 1}),
    Case("reduce.cumsum", [INTS], i.cumsum(2), {"axis": 2}),
    Case("index.gather", [X, ROWS], x[:, ROWS % 3], {"axis": 1}),
    Case("index.gather", [X, np.array(7)], x[1], {"axis": 0}),  # clamped
    Case("index.gather_elements", [X, PICK], x.gather(2, torch.from_numpy(PICK)), {"axis": 2}),
    Case("index.gather_nd", [X, np.array([[0, 2], [1, -1]])], x[[0, 1], [2, 2]]),
    Case("index.gather_nd", [X, np.array([[1], [0]])], x[[0, 1], [1, 0]], {"batch_dims": 1}),
    Case("index.scatter_nd", [X[0], np.array([[1], [-1]]), UPDATES], _scatter_nd("none")),
    Case("index.scatter_nd", [X[0], np.array([[1], [-1]]), UPDATES], _scatter_nd("add"), {"reduction": "add"}),
    Case("index.scatter_nd", [X[0], np.array([[1], [-1]]), UPDATES], _scatter_nd("max"), {"reduction": "max"}),
    Case(
        "index.scatter_elements",
        [X, PICK, X[:1, :, 2:]],
        x.scatter(2, torch.from_numpy(PICK[:, :, :]), x[:1, :, 2:]),
        {"axis": 2},
    ),
    Case(
        "index.scatter_elements",
        [X, PICK, X[:1, :, 2:]],
        x.scatter_reduce(1, torch.from_numpy(PICK), x[:1, :, 2:], "prod"),
        {"axis": 1, "reduction": "mul"},
    ),
    Case("index.top_k", [X], tuple(x.topk(2, 2)), {"k": 2, "axis": 2}),
    Case("index.top_k", [X], tuple(x.topk(2, 1, largest=False)), {"k": 2, "axis": 1, "largest": False}),
    Case(
        "index.top_k", [TIED], (np.array([[3, 3], [5, 5]], np.float32), np.array([[0, 2], [2, 3]])), {"k": 2, "axis": 1}
    ),
    Case("index.top_k", [BYTES], (BYTES[[2, 3, 1]], np.array([2, 3, 1])), {"k": 3, "axis": 0}),
    Case("make.full", [], np.full((2, 3), -1.5, np.float32), {"shape": (2, 3), "value": -1.5, "dtype": "f32"}),
    Case("make.full", [], np.array(True), {"shape": (), "value": 1.0, "dtype": "bool"}),
    Case("make.iota", [], torch.arange(4)[:], {"size": 4}),
    Case(
        "make.iota",
        [],
        torch.arange(5, -3, -2, dtype=torch.float32),
        {"size": 4, "start": 5, "step": -2, "dtype": "f32"},
    ),
    Case("make.size", [], np.array(7), {"size": 7}),
    Case("view.reshape", [X], x.reshape(6, 4), {"shape": (6, 4)}),
    Case("view.reshape", [X[:1, :1, :1]], x[0, 0, 0], {"shape": ()}),
    Case("view.transpose", [X], x.permute(2, 0, 1), {"perm": (2, 0, 1)}),
    Case("view.expand", [X[:, :1]], x[:, :1].expand(5, 2, 3, 4), {"shape": (5, 2, 3, 4)}),
    Case("view.slice", [X], x[:, :, 1:4:2], {"axis": 2, "start": 1, "stop": 4, "step": 2}),
    Case("view.slice", [X], x.flip(1), {"axis": 1, "start": 2, "stop": -1, "step": -1}),
    Case("view.slice", [X], X[:, :, 3:0:-2], {"axis": 2, "start": 3, "stop": 0, "step": -2}),
    Case("view.concat", [X, X[:, :1], X[:, 1:]], torch.cat([x, x[:, :1], x[:, 1:]], 1), {"axis": 1}),
    Case(
        "view.pad",
        [X],
        torch.nn.functional.pad(x, (1, 2, 0, 1), value=3.5),
        {"before": (0, 0, 1), "after": (0, 1, 2), "value": 3.5},
    ),
]
CASES += [
    Case(
        "view.pad",
        [X],
        torch.nn.functional.pad(x, (1, 2), mode=torch_mode),
        {"before": (0, 0, 1), "after": (0, 0, 2), "mode": mode},
    )
    for mode, torch_mode in (("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular"))
]
