"""Fashion-MNIST: a small vision transformer (`examples/fashion_vit.py`), encoded after training and trained on."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import models  # stands beside this file's folder
import numpy as np
import real_models
from accuracy_store import Store, Stored
from accuracy_subject import Loaded, Scores, Subject

import nomul
from nomul.api import lower
from nomul.compare import Implementation
from nomul.passes.choice import Recipe, Rule
from nomul.recipe import read_recipe

SAVED = Path("build/fashion_vit.pt")  # training again takes some minutes
EPOCHS, QAT_EPOCHS = 6, 2
CALIBRATION = 256  # images of the training set
DIMS = {"B": (1, 1000)}


def subjects() -> list[Subject]:
    """The one transformer. Its widths are 64 and 128: groups are as large as they can be."""
    return [Subject("fashion-vit", "fashion", _load, "accuracy %")]


def _load() -> Loaded:
    import fashion_vit
    import torch

    torch.set_num_threads(1)
    try:
        data, (images, labels) = (fashion_vit.read_data(fashion_vit.DATA, part) for part in ("train", "t10k"))
    except FileNotFoundError as error:
        raise real_models.PackageMissing(f"{error.filename} is absent: install dataset-fashion-mnist") from None
    torch.manual_seed(0)
    model = fashion_vit.FashionViT()
    if SAVED.is_file():
        model.load_state_dict(torch.load(SAVED))
    else:
        fashion_vit.train(model, data, EPOCHS, 2e-3)
        SAVED.parent.mkdir(exist_ok=True)
        torch.save(model.state_dict(), SAVED)
    subject = models.from_torch(model.eval(), (images[:2],), {"images": {0: "B"}})
    batches = [[part.numpy()] for part in data[0][:CALIBRATION].split(64)]
    options = {"dims": DIMS, "dynamic_shapes": {"images": {0: "B"}}}
    store = Store(model, (images[:2],), batches, **options)
    answers = partial(_classes, images.numpy())
    return Loaded(store, answers, partial(_judge, labels.numpy()), subject.onnx, partial(_train, store, model, data))


def _train(store: Store, model: Any, data: Any, encoding: str) -> Stored:
    """Two epochs with fake encodings, or as it is, from the float weights."""
    import fashion_vit
    import torch

    torch.manual_seed(1)
    (rule,) = read_recipe({"*": encoding}).rules
    own = copy.deepcopy(model)
    if rule.encoding is not None:
        own = nomul.qat.prepare(own, Recipe((Rule(role="head"), rule)))
    fashion_vit.train(own, data, QAT_EPOCHS, 1e-3)
    axes = {"images": {0: "B"}}
    return store.trained(lower(own, (data[0][:2],), until="fuse", dims=DIMS, dynamic_shapes=axes))


def _classes(images: np.ndarray, run: Implementation) -> np.ndarray:
    parts = np.split(images, range(500, len(images), 500))
    return np.concatenate([np.asarray(run([part])[0]).argmax(axis=1) for part in parts])


def _judge(labels: np.ndarray, answers: np.ndarray, plain: np.ndarray) -> Scores:
    return {
        "accuracy %": float((answers == labels).mean() * 100),
        "agrees with f32 %": float((answers == plain).mean() * 100),
    }
