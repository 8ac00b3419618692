"""flex_attention: score_mod and mask_mod become one attention op, with attributes where rules know what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_torch_attention_forms import attentions, fused
from torch_models import imported, ops, same, torch

from nomul.ir.errors import NomulError

flex = pytest.importorskip("torch.nn.attention.flex_attention", reason="this torch has no flex_attention")

BATCH, HEADS, TOKENS, SIZE = 2, 4, 48, 8
Mod = Callable[..., Any] | None


class Flex(torch.nn.Module):  # type: ignore[misc, name-defined]
    """score_mod, mask_mod: a function of the module's tensors and the places."""

    def __init__(self, score_mod: Mod = None, mask_mod: Mod = None, key_heads: int = HEADS, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.slopes = torch.nn.Parameter(torch.rand(HEADS))
        self.table = torch.nn.Parameter(torch.randn(2 * TOKENS - 1, HEADS))
        self.plane = torch.nn.Parameter(torch.randn(HEADS, TOKENS, TOKENS))
        self.register_buffer("document", torch.tensor([0] * 20 + [1] * 7 + [2] * (TOKENS - 27)))
        self.register_buffer("lengths", torch.tensor([TOKENS, 17]))
        self.score_mod = score_mod and (lambda score, b, h, i, j: score_mod(self, score, b, h, i, j))
        self.options = options | {"enable_gqa": key_heads != HEADS}
        if mask_mod is not None:
            self.options["block_mask"] = flex.create_block_mask(
                lambda b, h, i, j: mask_mod(self, b, h, i, j), BATCH, HEADS, TOKENS, TOKENS, device="cpu"
            )
        self.inputs = tuple(torch.randn(BATCH, heads, TOKENS, SIZE) for heads in (HEADS, key_heads, key_heads))

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        return flex.flex_attention(q, k, v, score_mod=self.score_mod, **self.options)


def alibi(m: Any, score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
    return score + m.slopes[h] * (j - i)


def soft_cap(m: Any, score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
    return 20 * torch.tanh(score / 20)


def causal(m: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
    return i >= j


def window(m: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
    return (i >= j) & (i - j <= 9)


def document(m: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
    return m.document[i] == m.document[j]


FORMS: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "plain": ({}, {}, set()),
    "scale": ({"scale": 0.5}, {"scale": 0.5}, set()),
    "grouped": ({"key_heads": 2, "mask_mod": causal}, {"causal": True}, set()),
    "causal": ({"mask_mod": causal}, {"causal": True, "window": 0}, set()),
    "causal_by_score": (
        {"score_mod": lambda m, s, b, h, i, j: torch.where(i >= j, s, -float("inf"))}, {"causal": True}, set(),
    ),
    "window": ({"mask_mod": window}, {"causal": True, "window": 10}, set()),
    "prefix": ({"mask_mod": lambda m, b, h, i, j: (j < 13) | (i >= j)}, {"causal": True, "prefix": 13}, set()),
    "alibi": ({"score_mod": alibi}, {}, {"relative"}),
    "alibi_window": ({"score_mod": alibi, "mask_mod": window}, {"causal": True, "window": 10}, {"relative"}),
    "soft_cap": ({"score_mod": soft_cap}, {"softcap": 20.0}, set()),
    "soft_cap_causal": ({"score_mod": soft_cap, "mask_mod": causal}, {"softcap": 20.0, "causal": True}, set()),
    "relative": (
        {"score_mod": lambda m, s, b, h, i, j: s + m.table[j - i + TOKENS - 1, h]}, {}, {"relative"},
    ),
    "plane": ({"score_mod": lambda m, s, b, h, i, j: s + m.plane[h][i, j]}, {}, {"mask"}),
    "plane_causal": (
        {"score_mod": lambda m, s, b, h, i, j: s + m.plane[h, i, j], "mask_mod": causal},
        {"causal": True}, {"mask"},
    ),
    "document": ({"mask_mod": document}, {}, {"mask"}),
    "document_causal": (
        {"mask_mod": lambda m, b, h, i, j: causal(m, b, h, i, j) & document(m, b, h, i, j)},
        {"causal": True}, {"mask"},
    ),
    "lengths": ({"mask_mod": lambda m, b, h, i, j: (j < m.lengths[b]) & (i >= j)}, {"causal": True}, {"mask"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_one_attention(name: str) -> None:
    given, attrs, operands = FORMS[name]
    model = Flex(**given).eval()
    module = fused(model, model.inputs)
    (found,) = attentions(module)
    assert {key: found.attrs[key] for key in attrs} == attrs
    names = ("mask", "relative", "lengths", "tiles")
    assert {name for place, name in enumerate(names, 3) if found.operand(place) is not None} == operands
    same(module, model, model.inputs, tolerance=1e-4)


def operands(tokens: int) -> tuple[Any, ...]:
    return tuple(torch.randn(BATCH, HEADS, tokens, SIZE) for _ in range(3))


class Documents(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Any number of tokens; the block mask is made in forward, from an input."""

    def forward(self, q: Any, k: Any, v: Any, document: Any) -> Any:
        def seen(b: Any, h: Any, i: Any, j: Any) -> Any:
            return (document[b, i] == document[b, j]) & (i >= j)

        mask = flex.create_block_mask(seen, BATCH, None, q.shape[2], k.shape[2], device="cpu")
        return flex.flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s + 0.1 * (j - i), block_mask=mask)


def test_block_masks_of_dynamic_size_made_from_an_input() -> None:
    model, names = Documents().eval(), ({2: "S"}, {2: "S"}, {2: "S"}, {1: "S"})
    inputs, *others = (
        (*operands(tokens), torch.randint(0, 3, (BATCH, tokens)).sort()[0]) for tokens in (12, 1, 7, 150)
    )
    module = fused(model, inputs, dynamic_shapes=names, dims={"S": (1, 300)})
    (found,) = attentions(module)
    assert found.attrs["causal"] and found.operand(3) is not None and found.operand(4) is not None
    for each in (inputs, *others):
        same(module, model, each, tolerance=1e-4)


def test_sums_of_exponentials_are_computed_beside_attention() -> None:
    model = Flex(score_mod=alibi, mask_mod=window, return_lse=True).eval()
    module = fused(model, model.inputs)
    assert ops(module)["nn.attention"] == 1
    same(module, model, model.inputs, tolerance=1e-4)


def test_sixteen_bit_floats_are_computed_as_f32() -> None:
    model = Flex(score_mod=lambda m, s, b, h, i, j: s + 0.1 * (j - i)).eval()
    inputs = tuple(x.bfloat16() for x in model.inputs)
    module = fused(model, inputs)
    assert len(attentions(module)) == 1
    same(module, model, inputs, tolerance=1e-2)


def test_a_block_mask_of_tiles_alone_is_refused() -> None:
    """torch's eager form would not look at its tiles, its compiled form would."""

    class Tiles(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, count: int) -> None:
            super().__init__()
            counts, tiles = torch.tensor([[[count] * 3]]), torch.tensor([[[[0, 1, 2]] * 3]])
            self.mask = flex.BlockMask.from_kv_blocks(counts.int(), tiles.int(), BLOCK_SIZE=16)

        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return flex.flex_attention(q, k, v, block_mask=self.mask)

    with pytest.raises(NomulError, match=r"NM202\]: the block mask leaves out tiles, but has no mask_mod"):
        imported(Tiles(2).eval(), operands(TOKENS))
    assert len(attentions(fused(Tiles(3).eval(), operands(TOKENS)))) == 1


@pytest.mark.parametrize(("kind", "dynamic"), [("Llama", True), ("T5Encoder", False)])
def test_transformers_by_flex_attention(kind: str, dynamic: bool) -> None:
    """A bias by distance of sizes that are not known is none that torch can trace inside of flex_attention."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    from test_torch_transformers import DIMS, T5, TEXT, build, text
    from test_torch_transformers import TOKENS as ANY

    config = T5 if kind == "T5Encoder" else TEXT | {"num_key_value_heads": 2, "max_position_embeddings": 128}
    models = [build(kind, config, form) for form in ("flex_attention", "eager")]
    inputs = text(2, 12, cache=kind != "Llama")
    names = [name for name in inputs if name != "use_cache"]
    options: dict[str, Any] = {"dynamic_shapes": dict.fromkeys(names, ANY), "dims": DIMS} if dynamic else {}
    module = fused(models[0], inputs, **options)
    assert len(attentions(module)) == 2
    same(module, models[1], inputs, tolerance=1e-4)
