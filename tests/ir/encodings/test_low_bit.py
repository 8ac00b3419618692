"""What every encoding of a few bits promises, over examples of all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.encodings import all_encodings
from nomul.ir.encodings.bits import pack_bits, packed_size, unpack_bits
from nomul.ir.encodings.low_bit import LowBit
from nomul.ir.expressions import TextFault
from nomul.ir.graph import Module, Weight
from nomul.ir.parser import parse_module
from nomul.ir.syntax import parse_encoding
from nomul.ir.text import print_module
from nomul.ir.types import DType, Tensor
from nomul.ir.weights_file import load_weights, save_weights

EXAMPLES = [
    "int8",
    "int8<zero=1, group=16>",
    "int8<scales=f32>",
    "int4",
    "int4<group=32>",
    "int4<zero=1, group=8, scales=bf16>",
    "ternary",
    "ternary<planes=2, group=32>",
    "ternary<planes=3, group=16, pack=base3>",
    "ternary<group=32, pack=3of4>",
    "ternary<planes=2, pack=3of4>",
    "ternary<planes=2, group=16, tied=1>",
    "ternary<planes=3, pack=base3, tied=1, scales=f32>",
    "bitplane",
    "bitplane<bits=1, group=16>",
    "bitplane<bits=3, group=32, scales=bf16>",
    "bitplane<bits=4>",
    "bitplane<group=32, tied=1>",
    "bitplane<bits=3, group=16, tied=1, scales=bf16>",
    "bitplane<bits=4, tied=1>",
    "codebook",
    "codebook<group=32, grid=nf4>",
    "codebook<grid=e2m1>",
    "codebook<group=16, grid=e1m2>",
    "codebook<grid=e3m0, scales=f32>",
    "codebook<entries=32, group=16, grid=power>",
    "codebook<entries=32, grid=twinlog>",
    "shift",
    "shift<terms=2, group=16>",
    "shift<terms=3>",
    "shift<pack=5bit>",
    "shift<terms=2, group=32, pack=5bit>",
    "shift<terms=2, group=16, pack=sp2>",
    "nm",
    "nm<n=1, value=f16>",
    "nm<n=4, m=8, value=int8>",
    "nm<value=int4<zero=1, group=16>>",
    "nm<n=1, value=ternary<planes=2>>",
    "nm<n=8, m=16, value=bitplane>",
    "nm<n=3, value=codebook<entries=32, group=24>>",
    "split",
    "split<salient=0.25, value=int8<group=8>, rest=ternary<group=8>>",
    "split<value=shift, columns=1>",
    "split<salient=0.5, value=codebook, rest=bitplane<bits=1, scales=f32>, columns=1>",
]


def encoding_of(text: str) -> LowBit:
    encoding = parse_encoding(text)
    assert isinstance(encoding, LowBit)
    return encoding


def random_weights(encoding: LowBit, rows: int, columns: int, seed: int) -> np.ndarray:
    """Normal weights [rows, columns], with more columns where the encoding does not take that many; some rows zero."""
    try:
        encoding.field_types((rows, columns))
    except ValueError:
        columns *= 32
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(rows, columns)) * np.exp(rng.normal(size=(rows, 1)))
    weights[rng.random(rows) < 0.2] = 0
    return weights.astype(np.float32)


def test_every_low_bit_encoding_has_an_example() -> None:
    low_bit = {name for name, kind in all_encodings().items() if issubclass(kind, LowBit)}
    assert {encoding_of(text).name for text in EXAMPLES} == low_bit


@pytest.mark.parametrize("text", EXAMPLES)
def test_text_round_trip(text: str) -> None:
    encoding = parse_encoding(text)
    assert str(encoding) == text and parse_encoding(str(encoding)) == encoding
    module = Module()
    module.add_weight(Weight("w", Tensor(DType.F32, Tensor.of("f32", 4, 96).shape, encoding)))
    printed = print_module(module)
    assert f" as {text}\n" in printed and print_module(parse_module(printed)) == printed


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_weights_file_keeps_every_field(text: str, tmp_path: Path) -> None:
    encoding, weights = encoding_of(text), np.random.default_rng(0).normal(size=(4, 96)).astype(np.float32)
    saved, loaded = (Module(), Module())
    for module in (saved, loaded):
        module.add_weight(Weight("w", Tensor(DType.F32, Tensor.of("f32", 4, 96).shape, encoding)))
    saved.weights["w"].fields = encoding.pack(weights)
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert_equal_fields(loaded.weights["w"].fields, saved.weights["w"].fields)


@pytest.mark.parametrize("text", EXAMPLES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows=st.integers(1, 6), columns=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
def test_pack_unpack_parts_assemble(text: str, rows: int, columns: int, seed: int) -> None:
    encoding = encoding_of(text)
    weights = random_weights(encoding, rows, columns, seed)
    packed = encoding.pack(weights)
    found = {name: (field.dtype, field.shape) for name, field in packed.items()}
    assert found == encoding.field_types(weights.shape)
    stored = sum(field.nbytes for field in packed.values())
    assert encoding.bits_per_weight(weights.shape) == 8 * stored / weights.size
    assert all(field.shape[0] == rows for name, field in packed.items() if name not in encoding.shared)
    parts = encoding.parts(packed, weights.shape)
    assert_equal_fields(encoding.assemble(parts, weights.shape), packed)
    assert_equal_fields(encoding.pack(weights), packed)
    decoded = encoding.unpack(packed, weights.shape)
    assert decoded.dtype == np.float32 and np.isfinite(decoded).all()
    np.testing.assert_array_equal(encoding.values(parts).reshape(weights.shape), decoded)
    zero_rows = ~weights.any(axis=1)
    assert not decoded[zero_rows].any()
    assert np.linalg.norm(decoded - weights) <= np.linalg.norm(weights)


@pytest.mark.parametrize("text", EXAMPLES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_integer_terms_sum_up_to_the_weights(text: str, seed: int) -> None:
    encoding = encoding_of(text)
    weights = random_weights(encoding, 5, 96, seed)
    packed = encoding.pack(weights)
    terms = encoding.integer_terms(packed, weights.shape)
    if terms is None:
        return
    total = np.zeros(weights.shape)
    for term in terms:
        assert term.codes.dtype.kind in "iu" and term.scale.dtype == np.float32
        columns = slice(None) if term.columns is None else term.columns
        groups = term.codes.reshape(*term.scale.shape, -1).astype(np.float64) * term.scale[..., None]
        total[:, columns] += groups.reshape(term.codes.shape)
    np.testing.assert_allclose(encoding.unpack(packed, weights.shape), total, rtol=0, atol=1e-6 * np.abs(weights).max())


@pytest.mark.parametrize("text", EXAMPLES)
def test_blocks_of_columns_are_the_columns_of_the_whole(text: str) -> None:
    encoding = encoding_of(text)
    if not encoding.block:
        return
    weights = random_weights(encoding, 5, 192, 3)
    parts = encoding.parts(encoding.pack(weights), weights.shape)
    half = 96 // encoding.block * encoding.block
    blocks = [weights[:, :half], weights[:, half:]]
    halves = [encoding.parts(encoding.pack(block), block.shape) for block in blocks]
    for name, part in parts.items():
        joined = part if part.ndim == 1 else np.concatenate([block[name] for block in halves], axis=-1)
        np.testing.assert_array_equal(part, joined)


@pytest.mark.parametrize("text", EXAMPLES)
def test_convolution_weights_are_flattened(text: str) -> None:
    encoding = encoding_of(text)
    weights = random_weights(encoding, 4, 96, 5)
    image = weights.reshape(4, 8, 3, weights.shape[1] // 24)
    packed = encoding.pack(image)
    assert_equal_fields(packed, encoding.pack(weights))
    np.testing.assert_array_equal(
        encoding.unpack(packed, image.shape).reshape(weights.shape), encoding.unpack(packed, weights.shape)
    )


@pytest.mark.parametrize("text", EXAMPLES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(text: str, wrong: float) -> None:
    encoding = encoding_of(text)
    weights = random_weights(encoding, 4, 96, 7)
    weights[2, 1] = wrong
    with pytest.raises(ValueError, match="1 weights are not finite, the first in row 2"):
        encoding.pack(weights)


@pytest.mark.parametrize("text", EXAMPLES)
def test_vectors_and_empty_weights_are_no_matrix(text: str) -> None:
    for shape in ((64,), (0, 64), (64, 0), ()):
        with pytest.raises(ValueError, match="no matrix"):
            encoding_of(text).pack(np.zeros(shape, np.float32))


@pytest.mark.parametrize("name", [name for name, kind in all_encodings().items() if hasattr(kind, "default_scales")])
def test_groups_and_scales_that_do_not_fit(name: str) -> None:
    with pytest.raises(ValueError, match="group=32 does not divide 48 columns"):
        encoding_of(f"{name}<group=32>").pack(np.ones((4, 48), np.float32))
    with pytest.raises(ValueError, match="group=128 does not divide 64 columns"):
        encoding_of(f"{name}<group=128>").field_types((4, 64))
    for parameter in ("group=-1", "scales=f8"):
        with pytest.raises(TextFault, match=parameter.partition("=")[0]):
            parse_encoding(f"{name}<{parameter}>")
    for size in (1e30, 1e-30):
        weights = np.full((4, 48), size, np.float32)
        with pytest.raises(ValueError, match=r"outside the range of f16; scales=f32 holds it"):
            encoding_of(name).pack(weights)
        wide = encoding_of(f"{name}<scales=f32>")
        np.testing.assert_allclose(wide.unpack(wide.pack(weights), weights.shape), weights, rtol=0.2)


def test_a_scale_that_is_nothing_to_the_rest_becomes_zero() -> None:
    weights = np.ones((2, 8), np.float32)
    weights[1] = 1e-20
    encoding = encoding_of("int8")
    np.testing.assert_allclose(encoding.unpack(encoding.pack(weights), (2, 8)), [[1] * 8, [0] * 8], rtol=1e-3)


@pytest.mark.parametrize(
    "text", ["int8<value=int4<group=8>>", "int8<group=int4>", "int4<zero=2>", "int5", "int8<", "1"]
)
def test_wrong_texts(text: str) -> None:
    with pytest.raises(TextFault):
        parse_encoding(text)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(width=st.integers(1, 16), rows=st.integers(0, 3), count=st.integers(0, 40), seed=st.integers(0, 99))
def test_bit_fields(width: int, rows: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**width, (rows, count))
    packed = pack_bits(codes, width)
    assert packed.dtype == np.uint8 and packed.shape == (rows, packed_size(count, width))
    np.testing.assert_array_equal(unpack_bits(packed, width, count), codes)
    for row, data in zip(codes, packed, strict=True):
        assert int.from_bytes(data.tobytes(), "little") == sum(int(code) << (width * i) for i, code in enumerate(row))


def assert_equal_fields(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, field in left.items():
        assert field.dtype == right[name].dtype
        np.testing.assert_array_equal(field, right[name])
