"""N:M sparsity: SparseGPT (arXiv 2301.00774) and Wanda (arXiv 2306.11695), with any encoding of the kept weights."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.half import SixteenBit
from nomul.ir.encodings.nm import Nm
from nomul.ir.encodings.ternary import Ternary
from nomul.passes.fit import Fields, fitter
from nomul.passes.fit.solve.compensate import fit_matrix
from nomul.passes.fit.solve.join import matrix_of
from nomul.passes.fit.solve.lattice import Lattice, Parts
from nomul.passes.fit.solve.solvers import best_lattice
from nomul.passes.fit.solve.sparse import KEPT, FloatLattice, SparseLattice, compact, keep_largest


def _refuses(encoding: Encoding) -> str | None:
    value = encoding.value if isinstance(encoding, Nm) else None
    return "value=ternary<pack=3of4> fixes zeros too" if isinstance(value, Ternary) and value.pack_ == "3of4" else None


@fitter("nm", refuses=_refuses, rank=20)
def sparsegpt(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """What to keep is chosen on compensated weights and rounded at once, errors are compensated.

    Without calibration the weights stay that matter most to the squared error."""
    assert isinstance(encoding, Nm)
    matrix = matrix_of(array, hessian)
    encoding.field_types(array.shape)
    group = encoding.value.group * encoding.m // encoding.n if isinstance(encoding.value, Grouped) else 0
    inner = _inner(encoding)
    fitted = fit_matrix(matrix, hessian, SparseLattice(inner, encoding.n, encoding.m), group)
    shared = getattr(inner, "shared", {})
    return encoding.assemble(_compacted(fitted.parts, encoding.m) | shared, array.shape)


@fitter("nm", rank=10)
def wanda(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """The weights with the largest |w| * norm of their input stay (without calibration the largest), as they are."""
    assert isinstance(encoding, Nm)
    matrix = matrix_of(array, hessian)
    encoding.field_types(array.shape)
    norms = 1.0 if hessian is None else np.sqrt(np.diag(hessian).clip(min=0))
    kept = keep_largest(np.abs(matrix) * norms, encoding.n, encoding.m)
    return encoding.assemble(encoding.choose_kept(matrix, _places(kept, encoding.m)), array.shape)


def _inner(encoding: Nm) -> Lattice:
    if isinstance(encoding.value, Grouped):
        return best_lattice(encoding.value)
    return FloatLattice(encoding.value.dtype if isinstance(encoding.value, SixteenBit) else np.dtype(np.float32))


def _compacted(parts: Parts, run: int) -> Parts:
    """Parts as `Nm` has them, from codes for all columns and a mask."""
    kept = parts[KEPT]
    codes = {name: compact(part, kept) if part.shape[-2:] == kept.shape else part for name, part in parts.items()}
    codes |= {KEPT: _places(kept, run)}
    return codes | ({"values": codes.pop("data").astype(np.float32)} if "data" in codes else {})


def _places(kept: np.ndarray, run: int) -> np.ndarray:
    return (np.nonzero(kept)[1].reshape(len(kept), -1) % run).astype(np.uint8)
