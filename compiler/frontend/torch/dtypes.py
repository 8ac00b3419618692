"""Element types between torch and the IR, and torch's rule for operands of different types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from nomul.frontend.common import UNSUPPORTED_FORM
from nomul.frontend.torch.errors import Unsupported
from nomul.ir.dim import Dim
from nomul.ir.types import DType

FROM_TORCH = {
    torch.float64: DType.F64,
    torch.float32: DType.F32,
    torch.float16: DType.F16,
    torch.bfloat16: DType.BF16,
    torch.int64: DType.I64,
    torch.int32: DType.I32,
    torch.int16: DType.I16,
    torch.int8: DType.I8,
    torch.uint8: DType.U8,
    torch.bool: DType.BOOL,
}
TO_TORCH = {dtype: source for source, dtype in FROM_TORCH.items()}
_NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float32}
_CATEGORY = {torch.bool: 0, torch.float64: 2, torch.float32: 2, torch.float16: 2, torch.bfloat16: 2}


def dtype_of(dtype: torch.dtype) -> DType:
    """Raises Unsupported for one that the IR does not have."""
    if dtype not in FROM_TORCH:
        help = "complex numbers and packed types have no kernels here" if dtype.is_complex else None
        raise Unsupported(
            UNSUPPORTED_FORM, f"elements of type {str(dtype).removeprefix('torch.')} are not supported", help
        )
    return FROM_TORCH[dtype]


def common_dtype(operands: Iterable[Any]) -> DType:
    """The type that torch computes in: the widest category wins, tensors before rank 0 tensors before Python numbers.

    operands: IR values, lazy values, Dims and numbers."""
    ranks: tuple[list[torch.dtype], list[torch.dtype], list[torch.dtype]] = ([], [], [])
    for operand in operands:
        if isinstance(operand, Dim):
            ranks[2].append(torch.int64)
        elif isinstance(operand, bool | int | float):
            ranks[2].append(_NUMBERS[type(operand)])
        else:
            ranks[0 if operand.shape else 1].append(TO_TORCH[operand.dtype])
    result: torch.dtype | None = None
    for group in ranks:
        for dtype in group[:1]:
            widest = dtype
            for other in group[1:]:
                widest = torch.promote_types(widest, other)
            result = widest if result is None else _stronger(result, widest)
    assert result is not None, "an op without operands has no common type"
    return FROM_TORCH[result]


def _stronger(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    """first, from operands of higher rank, unless second is of a wider category."""
    if _CATEGORY.get(first, 1) >= _CATEGORY.get(second, 1):
        return first
    return torch.promote_types(first, second)
