"""Operators of torch's own database (op_db): exported, imported, interpreted, compared with torch."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch_models import torch

pytest.importorskip("expecttest", reason="torch's operator database needs the package expecttest")

from nomul.frontend.torch.coverage import PASSED, REFUSED, SKIPPED, WRONG, Outcome, check, document, operators
from nomul.frontend.torch.registry import lowered_ops

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "torch.md"
NAMES = """
add addmm amax argmax baddbmm bmm cat clamp constant_pad_nd cumsum diagonal div einsum expand expm1 flip fmod gather
index_add index_copy index_put index_select isin linalg.vector_norm logsumexp masked_fill matmul max mean
nn.functional.adaptive_avg_pool2d nn.functional.avg_pool1d nn.functional.batch_norm nn.functional.celu
nn.functional.conv1d nn.functional.conv2d nn.functional.conv_transpose2d nn.functional.elu nn.functional.embedding
nn.functional.gelu nn.functional.group_norm nn.functional.instance_norm nn.functional.interpolate
nn.functional.layer_norm nn.functional.linear nn.functional.max_pool2d nn.functional.pad nn.functional.pixel_shuffle
nn.functional.prelu nn.functional.rms_norm nn.functional.scaled_dot_product_attention nn.functional.softplus
nn.functional.unfold pow remainder repeat roll round rsub scatter scatter_add sinh slice_scatter softmax sort split
std tril var where
"""
FLOOR = 400  # operators that pass with all of their first three samples


@cache
def database() -> list[Any]:
    return operators()


@pytest.mark.parametrize("name", NAMES.split())
def test_operator(name: str) -> None:
    chosen = [op for op in database() if op.name == name]
    assert chosen, f"torch's database has no {name}"
    for op in chosen[:1]:
        outcome = check(op, 2)
        assert outcome.counts[WRONG] == 0, outcome.messages
        assert outcome.counts[PASSED] > 0, outcome.messages


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["add", "mul", "sum", "where", "eq", "cat", "amax", "index_select", "maximum"])
def test_operator_on_other_types(name: str, dtype: Any) -> None:
    (op,) = (op for op in database() if op.formatted_name == name)
    outcome = check(op, 2, dtype)
    assert outcome.counts[WRONG] == 0 and outcome.counts[PASSED] > 0, outcome.messages


@pytest.mark.slow
def test_no_operator_differs() -> None:
    """Every operator passes or is refused with a message; none crashes or gives other numbers."""
    outcomes = [check(op, 3) for op in database()]
    assert {outcome.name: outcome.messages for outcome in outcomes if outcome.counts[WRONG]} == {}
    assert sum(outcome.verdict == PASSED for outcome in outcomes) >= FLOOR


def outcome(name: str, **counts: int) -> Outcome:
    result = Outcome(name)
    result.counts.update(counts)
    return result


def test_verdicts() -> None:
    assert outcome("a", **{PASSED: 2}).verdict == PASSED
    assert outcome("a", **{PASSED: 2, REFUSED: 1}).verdict == "partly"
    assert outcome("a", **{REFUSED: 1, SKIPPED: 1}).verdict == REFUSED
    assert outcome("a", **{PASSED: 9, WRONG: 1}).verdict == WRONG
    assert "| a | refused | 0 | 1 |" in document([outcome("a", **{REFUSED: 1})])


def test_the_document_lists_the_operators() -> None:
    """`python -m nomul.frontend.torch.coverage` writes it anew."""
    listed = re.search(r"## Operators with a lowering\n\n(.*)\n", DOCUMENT.read_text())
    assert listed and re.findall(r"`([^`]+)`", listed[1]) == lowered_ops()
