"""Element types, tensors, encodings, special functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from nomul.ir import numerics
from nomul.ir.encodings import all_encodings, get_encoding
from nomul.ir.encodings.base import Encoding
from nomul.ir.graph import Weight
from nomul.ir.types import DType, Tensor


@pytest.mark.parametrize("dtype", list(DType))
def test_dtypes_have_numpy_twins(dtype: DType) -> None:
    assert DType.from_numpy(dtype.numpy) is dtype
    assert dtype.bytes == np.zeros(1, dtype.numpy).nbytes
    assert dtype.is_float + dtype.is_integer + (dtype is DType.BOOL) == 1


def test_unknown_dtype() -> None:
    with pytest.raises(KeyError):
        DType.from_numpy(np.complex64)


def test_tensor() -> None:
    tensor = Tensor.of("f16", "S", 64)
    assert str(tensor) == "f16[S, 64]"
    assert tensor.rank == 2
    assert str(tensor.numel) == "64*S" and str(tensor.bytes) == "128*S"
    assert str(tensor.with_dtype(DType.I8)) == "i8[S, 64]"
    assert str(tensor.with_shape(())) == "f16[]"
    assert str(Tensor(DType.F32, (), get_encoding("bf16"))) == "f32[] as bf16"
    assert tensor == Tensor.of("f16", "S", 64) and hash(tensor) == hash(Tensor.of("f16", "S", 64))


@pytest.mark.parametrize("name", list(all_encodings()))
def test_encodings(name: str) -> None:
    """Packing is the nearest choice, so packing what was unpacked changes nothing; fields are as announced."""
    encoding, shape = get_encoding(name), (6, 32)
    assert type(encoding).from_text({}) == encoding
    assert (type(encoding).__doc__ or "").endswith(".")
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    packed = encoding.pack(array)
    decoded = encoding.unpack(packed, shape)
    assert decoded.dtype == np.float32 and decoded.shape == shape
    again = encoding.unpack(encoding.pack(decoded), shape)
    np.testing.assert_array_equal(again, decoded)
    fields = encoding.field_types(shape)
    assert {field: (array.dtype, array.shape) for field, array in packed.items()} == fields
    bits = sum(array.nbytes for array in packed.values()) * 8 / decoded.size
    assert encoding.bits_per_weight(shape) == pytest.approx(bits, rel=0.01)
    weight = Weight("w", Tensor(DType.F32, Tensor.of("f32", *shape).shape, encoding), packed)
    np.testing.assert_array_equal(weight.array(), decoded)


def test_sixteen_bit_encodings_round_to_nearest() -> None:
    array = np.array([1 + 2**-9, 1 + 2**-8, 1e-3, -65504.0], np.float32)
    for name, dtype in (("f16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        encoding = get_encoding(name)
        np.testing.assert_array_equal(
            encoding.unpack(encoding.pack(array), (4,)), array.astype(dtype).astype(np.float32)
        )
    with pytest.raises(ValueError, match="too large for f16"):
        get_encoding("f16").pack(np.array([1e6], np.float32))
    get_encoding("f16").pack(np.array([np.inf, np.nan], np.float32))


def test_encoding_parameters_in_text() -> None:
    @dataclass(frozen=True)
    class Example(Encoding):
        group: int = 32
        pack_as: str = "2bit"
        signed: bool = True
        scale: float = 1.0

    assert str(Example(64, "3of4", False, 0.5)).endswith("<group=64, pack_as=3of4, signed=False, scale=0.5>")
    given = {"group": "64", "pack_as": "3of4", "signed": "False", "scale": "0.5"}
    assert Example.from_text(given) == Example(64, "3of4", False, 0.5)
    with pytest.raises(ValueError, match="invalid literal"):
        Example.from_text({"group": "many"})
    with pytest.raises(TypeError, match="there is no parameter 'planes'"):
        Example.from_text({"planes": "2"})


def test_unknown_encoding() -> None:
    with pytest.raises(KeyError):
        get_encoding("f17")


def test_weights_without_data() -> None:
    with pytest.raises(LookupError, match="has no data"):
        Weight("w", Tensor.of("f32", 2)).array()


def test_erf_against_the_c_library() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.46875, 4.0, 1e-300, -1e-300, 1e300, np.inf, -np.inf, -0.0]])
    expected = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(numerics.erf(x), expected, rtol=5e-15, atol=0)
    assert math.copysign(1, numerics.erf(np.array([-0.0]))[0]) == -1
    assert np.isnan(numerics.erf(np.array([np.nan]))[0])
    for dtype in (np.float16, np.float32, ml_dtypes.bfloat16):
        assert numerics.erf(x.clip(-5, 5).astype(dtype)).dtype == dtype


def test_sigmoid_and_softplus_do_not_overflow() -> None:
    x = np.array([-1000.0, -1.0, 0.0, 1.0, 1000.0])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(numerics.sigmoid(x), [0, 1 / (1 + math.e), 0.5, math.e / (1 + math.e), 1])
        np.testing.assert_allclose(
            numerics.softplus(x), [0, math.log1p(1 / math.e), math.log(2), math.log1p(math.e), 1000]
        )
