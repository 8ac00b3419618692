"""Importing PyTorch models and comparing the interpreter's results with torch's, for tests of the torch frontend."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from nomul.ir.graph import Module
from nomul.ir.interpreter import run
from nomul.ir.verifier import verify

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

Inputs = tuple[Any, ...] | dict[str, Any]


def imported(model: Any, inputs: Any = None, **options: Any) -> Module:
    """The verified import of a model."""
    from nomul.frontend.torch import import_torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = import_torch(model, inputs, **options)
    verify(module)
    return module


def ops(module: Module) -> Counter[str]:
    """How often each op stands in @main."""
    return Counter(node.op for node in module.main.nodes)


def expected(model: Any, inputs: Inputs) -> list[np.ndarray]:
    """What torch computes, tensors only, in order."""
    from nomul.frontend.torch.weights import to_numpy

    with torch.no_grad():
        results = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    if hasattr(results, "to_tuple"):  # transformers' result classes
        results = results.to_tuple()
    leaves = torch.utils._pytree.tree_leaves(results)
    return [to_numpy(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]


def arrays(inputs: Inputs) -> list[np.ndarray]:
    """The tensors among the inputs as arrays, in order."""
    from nomul.frontend.torch.weights import to_numpy

    values = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
    leaves = torch.utils._pytree.tree_leaves(values)
    return [to_numpy(value) for value in leaves if isinstance(value, torch.Tensor)]


def same(module: Module, model: Any, inputs: Inputs, tolerance: float = 2e-5) -> None:
    """The module gives what the model gives: integers exactly, floats to `tolerance` of the largest."""
    wanted, got = expected(model, inputs), run(module, *arrays(inputs))
    assert len(got) == len(wanted)
    for result, reference in zip(got, wanted, strict=True):
        assert (result.shape, result.dtype) == (reference.shape, reference.dtype)
        if reference.dtype.kind in "iub":
            assert (result == reference).all()
            continue
        wide, exact = result.astype(np.float64), reference.astype(np.float64)
        assert (np.isfinite(wide) == np.isfinite(exact)).all()
        finite = np.isfinite(exact)
        error = np.abs(wide[finite] - exact[finite]).max(initial=0)
        assert error <= tolerance * max(np.abs(exact[finite]).max(initial=0), 1e-6), error


def check(model: Any, inputs: Inputs, *others: Inputs, tolerance: float = 2e-5, **options: Any) -> Module:
    """Import with `inputs` as examples; compare with torch for them and for `others`, of other sizes."""
    module = imported(model, inputs, **options)
    for each in (inputs, *others):
        same(module, model, each, tolerance)
    return module
