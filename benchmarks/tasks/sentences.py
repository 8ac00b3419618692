"""Sentence encoders on Lee50: 1,225 pairs of news texts whose similarity people judged (gensim's test data)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import models  # stands beside this file
import numpy as np
import real_models
from accuracy_store import Store
from accuracy_subject import Loaded, Scores, Subject
from wordpiece import WordPiece

from nomul.compare import Implementation

LENGTH = 128  # tokens of a text at most
BATCH = 8
CALIBRATION = 32  # texts of lee_background.cor
ENTRIES = {"minilm-l3": "paraphrase-MiniLM-L3", "minilm-l6": "all-MiniLM-L6"}


def lee_file(name: str) -> Path:
    """A file of gensim's test data. Raises PackageMissing."""
    found = find_spec("gensim")
    if found is None or found.origin is None:
        raise real_models.PackageMissing("gensim is not installed: pip install --no-deps gensim")
    return Path(found.origin).parent / "test" / "test_data" / name


def lee_texts(name: str) -> list[str]:
    """One text a line."""
    return lee_file(name).read_text(encoding="latin-1").splitlines()


def subjects() -> list[Subject]:
    """The encoders with three and with six layers."""
    return [Subject(name, "minilm", partial(_load, entry), "Spearman") for name, entry in ENTRIES.items()]


def _load(name: str) -> Loaded:
    entry = next(entry for entry in models.entries() if entry.name == name)
    subject = entry.load()
    options = dict(subject.options)
    example = options.pop("example_inputs", None)
    texts = lee_texts("lee_background.cor")[:CALIBRATION]
    batches = [WordPiece().batch(texts[at : at + BATCH], LENGTH) for at in range(0, CALIBRATION, BATCH)]
    store = Store(subject.model, example, batches, dims=entry.dims, **options)
    return Loaded(store, *task(), subject.onnx)


def task() -> tuple[Callable[[Implementation], np.ndarray], Callable[[np.ndarray, np.ndarray], Scores]]:
    """From an encoder to its sentence vectors, and from these and those of floats to scores. Raises PackageMissing."""
    people = np.loadtxt(lee_file("similarities0-1.txt"), encoding="latin-1")
    pairs = np.triu_indices(len(people), 1)
    return partial(_embeddings, lee_texts("lee.cor")), partial(_judge, people, pairs)


def _embeddings(texts: Sequence[str], run: Implementation) -> np.ndarray:
    """[texts, width] of unit length: the model's own sentence vectors, or the mean over tokens."""
    vectors = []
    for at in range(0, len(texts), BATCH):
        ids, mask = WordPiece().batch(texts[at : at + BATCH], LENGTH)
        last = np.asarray(run([ids, mask])[-1], np.float64)
        weights = mask[..., None] / mask.sum(axis=1, keepdims=True)[..., None]
        vectors.append(last if last.ndim == 2 else (last * weights).sum(axis=1))
    whole = np.concatenate(vectors)
    return whole / np.linalg.norm(whole, axis=1, keepdims=True)


def _judge(people: np.ndarray, pairs: Any, vectors: np.ndarray, plain: np.ndarray) -> Scores:
    found, wanted = (vectors @ vectors.T)[pairs], people[pairs]
    return {
        "Pearson": float(np.corrcoef(found, wanted)[0, 1]),
        "Spearman": float(np.corrcoef(_ranks(found), _ranks(wanted))[0, 1]),
        "cosine to fp32": float((vectors * plain).sum(axis=1).mean()),
    }


def _ranks(values: np.ndarray) -> np.ndarray:
    """Equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
