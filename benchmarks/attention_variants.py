"""The attention variants of benchmarks/attention.py: their graphs, and numbers to run them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomul.ir.attention import STORED, by_rows
from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Module, Value
from nomul.ir.types import Tensor
from nomul.passes.rules.expand.softmax_attention import CHUNK

HEADS, SIZE, TILE, WINDOW = 8, 64, 64, 512


@dataclass(frozen=True)
class Variant:
    """op, attrs: of the node.  seen: how many (query, key) pairs a head computes of so many tokens; None: it grows with
    the tokens alone.  tiles: the share of tiles that are kept.  shrinks: sums decay (gated).
    decodes: one query, tokens are keys.  stored: keys and values are given as integers ("i8", "i4") with scales."""

    name: str
    op: str = "attention"
    attrs: Mapping[str, Any] | None = None
    seen: Callable[[int], float] | None = None
    tiles: float = 0.0
    shrinks: bool = False
    decodes: bool = False
    stored: str = ""

    def fits(self, tokens: int) -> bool:
        return self.op != "sparse_linear_attention" or tokens >= 10 * TILE

    @property
    def is_standard(self) -> bool:
        """Whether other libraries have it without a mask, though perhaps in f32 only."""
        return (
            self.op == "attention"
            and not self.tiles
            and not self.stored
            and set(self.attrs or {}) <= {"causal", "scores"}
        )

    @property
    def tolerance(self) -> float:
        """By how much results may differ from those of f32."""
        return 2e-2 if "scores" in (self.attrs or {}) else 1e-4

    @property
    def is_causal(self) -> bool:
        return bool((self.attrs or {}).get("causal"))


def _window_pairs(tokens: int) -> float:
    short = min(tokens, WINDOW)
    return short * (short + 1) / 2 + max(0, tokens - WINDOW) * WINDOW


VARIANTS = (
    Variant("softmax", seen=lambda n: n * n),
    Variant("softmax, bf16 products", attrs={"scores": "bf16"}, seen=lambda n: n * n),
    Variant("softmax, int8 scores", attrs={"scores": "i8"}, seen=lambda n: n * n),
    Variant("causal", attrs={"causal": True}, seen=lambda n: n * (n + 1) / 2),
    Variant("window", attrs={"causal": True, "window": WINDOW}, seen=_window_pairs),
    Variant("tiles 25 %", attrs={"tile": TILE}, seen=lambda n: 0.25 * n * n, tiles=0.25),
    Variant("tiles 10 %", attrs={"tile": TILE}, seen=lambda n: 0.10 * n * n, tiles=0.10),
    Variant("linear", "linear_attention", {"map": "elu"}),
    Variant("linear causal", "linear_attention", {"map": "elu", "causal": True}),
    Variant("linear gated", "linear_attention", {"map": "softmax", "causal": True, "normalise": False}, shrinks=True),
    Variant("hamming", "hamming_attention"),
    Variant("sparse-linear 90 %", "sparse_linear_attention", {"block": TILE}),
    Variant("decode", decodes=True),
    Variant("decode, int8 keys and values", decodes=True, stored="i8"),
    Variant("decode, int4 keys and values", decodes=True, stored="i4"),
)


def module_of(variant: Variant, tokens: int) -> Module:
    bits = variant.op == "hamming_attention"
    queries = 1 if variant.decodes else tokens
    shapes = {"q": (1, queries, HEADS, SIZE), "k": (1, tokens, HEADS, SIZE), "v": (1, tokens, HEADS, SIZE)}
    params = [
        Value(name, Tensor.of("bool" if bits and name != "v" else "f32", *shape)) for name, shape in shapes.items()
    ]
    if variant.tiles:
        blocks = -(-tokens // TILE)
        params.append(Value("tiles", Tensor.of("bool", 1, 1, blocks, blocks)))
    if variant.shrinks:
        params.append(Value("decay", Tensor.of("f32", *shapes["k"])))
    if variant.stored:
        params[1:] = [Value(name, _stored(value, variant.stored)) for name, value in zip("kv", params[1:], strict=True)]
        params += [Value(name, Tensor.of("f32", 1, tokens, HEADS)) for name in ("k_scale", "v_scale")]
    func = Func("main", params)
    func.returns = [_result(variant, Builder(func), params, tokens)]
    module = Module()
    module.add_func(func)
    return module


def _stored(value: Value, kind: str) -> Tensor:
    """The codes of keys or values: an i8 each, or a u8 for two of four bits."""
    *rows, size = value.shape
    return Tensor.of("i8", *rows, size) if kind == "i8" else Tensor.of("u8", *rows, int(size) // 2)


def _result(variant: Variant, build: Builder, params: list[Value], tokens: int) -> Value:
    attrs = dict(variant.attrs or {})
    if variant.op == "linear_attention":
        return build.nn.linear_attention(*params, **attrs)
    if variant.op == "hamming_attention":
        return build.nn.hamming_attention(*params, **attrs)
    if variant.op == "sparse_linear_attention":
        critical = max(1, tokens // TILE // 10)
        return build.nn.sparse_linear_attention(*params, scale=SIZE**-0.5, critical=critical, **attrs)
    if variant.stored:
        parts = build.nn.attention_parts(*params[:3], None, None, None, *params[3:], scale=SIZE**-0.5, chunk=CHUNK)
        return build.nn.attention_merge(parts)
    operands = [*params[:3], None, None, None, params[3]] if variant.tiles else params
    return build.nn.attention(*operands, scale=SIZE**-0.5, **attrs)


def numbers(variant: Variant, tokens: int) -> list[np.ndarray]:
    """Queries, keys, values, and which tiles are kept, or the scales of stored keys and values."""
    rng = np.random.default_rng(1)
    queries = 1 if variant.decodes else tokens
    shapes = [(1, count, HEADS, SIZE) for count in (queries, tokens, tokens)]
    arrays: list[np.ndarray] = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    if variant.stored:
        codes, scales = zip(*(by_rows(array, STORED[variant.stored]) for array in arrays[1:]), strict=True)
        arrays[1:] = [*(_packed(one) if variant.stored == "i4" else one for one in codes), *scales]
    if variant.shrinks:
        arrays.append(np.log(rng.uniform(0.9, 1.0, shapes[1])).astype(np.float32))
    if variant.op == "hamming_attention":
        arrays[:2] = [array > 0 for array in arrays[:2]]
    if variant.tiles:
        blocks = -(-tokens // TILE)
        drawn = rng.permuted(np.arange(blocks * blocks).reshape(blocks, blocks), axis=1)
        arrays.append((np.argsort(drawn, axis=1) < max(1, round(variant.tiles * blocks)))[None, None])
    return arrays


def _packed(codes: np.ndarray) -> np.ndarray:
    """Two codes to a byte: the first half of a vector in the low nibbles, plus 8."""
    low, high = np.split((codes + 8).astype(np.uint8), 2, axis=-1)
    return low | high << 4
