"""The ONNX project's backend tests: no result differs, and no fewer pass than before."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from nomul.frontend.onnx.coverage import report, run_all

# Different on purpose: with align_corners and scales the tests divide by a length that is no whole number, while
# onnxruntime and PyTorch (and this frontend) take the length of the result; attention of half
# floats is rounded once here, after every step there.
DIFFERENT = {
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
    "test_attention_4d_causal_bf16",
    "test_attention_4d_causal_bf16_expanded",
    "test_attention_4d_causal_fp16_expanded",
    "test_attention_4d_attn_mask_causal_bf16_expanded",
}
PASSED = {"node": 1365, "simple": 15, "pytorch-operator": 30, "pytorch-converted": 68}
PAGE = Path(__file__).parents[3] / "docs/onnx.md"

known_onnx = pytest.mark.skipif(not onnx.__version__.startswith("1.23."), reason="the counts are of onnx 1.23")


@known_onnx
def test_everything_and_the_page_about_it() -> None:
    outcomes = run_all()
    for kind, tests in outcomes.items():
        different = {name: outcome.reason for name, (_, outcome) in tests.items() if outcome.status == "failed"}
        assert different.keys() <= DIFFERENT, different
        assert sum(outcome.status == "passed" for _, outcome in tests.values()) >= PASSED[kind]
    page = report(outcomes)
    assert PAGE.read_text() == page, "python -m nomul.frontend.onnx.coverage > docs/onnx.md"
