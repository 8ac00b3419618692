"""Types of values: element type, symbolic shape and, for weights, the encoding of the stored bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from nomul.ir.dim import Dim, product

if TYPE_CHECKING:
    from nomul.ir.encodings import Encoding


class DType(Enum):
    """Element types. The value is the name in the text form."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype with the same bytes."""
        return _NUMPY[self]

    @property
    def bytes(self) -> int:
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self in (DType.F64, DType.F32, DType.F16, DType.BF16)

    @property
    def is_integer(self) -> bool:
        return self in (DType.I64, DType.I32, DType.I16, DType.I8, DType.U8)

    @staticmethod
    def from_numpy(dtype: np.dtype | type) -> DType:
        """Raises KeyError for a dtype that the IR does not have."""
        return _FROM_NUMPY[np.dtype(dtype)]

    def __str__(self) -> str:
        return self.value


_NUMPY = {
    DType.F64: np.dtype(np.float64),
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.I64: np.dtype(np.int64),
    DType.I32: np.dtype(np.int32),
    DType.I16: np.dtype(np.int16),
    DType.I8: np.dtype(np.int8),
    DType.U8: np.dtype(np.uint8),
    DType.BOOL: np.dtype(np.bool_),
}
_FROM_NUMPY = {numpy: dtype for dtype, numpy in _NUMPY.items()}


@dataclass(frozen=True)
class Tensor:
    """dtype, shape and (weights only) encoding. A scalar has shape ()."""

    dtype: DType
    shape: tuple[Dim, ...] = ()
    encoding: Encoding | None = None

    @staticmethod
    def of(dtype: DType | str, *shape: Dim | int | str) -> Tensor:
        """`Tensor.of("f32", "S", 64)`."""
        return Tensor(DType(dtype), tuple(Dim.of(size) for size in shape))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        return product(self.shape)

    @property
    def bytes(self) -> Dim:
        """Size in bytes of the dense (decoded) tensor."""
        return self.numel * self.dtype.bytes

    def with_shape(self, shape: tuple[Dim, ...]) -> Tensor:
        return Tensor(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> Tensor:
        return Tensor(dtype, self.shape)

    def __str__(self) -> str:
        suffix = f" as {self.encoding}" if self.encoding else ""
        return f"{self.dtype}[{', '.join(str(size) for size in self.shape)}]{suffix}"
