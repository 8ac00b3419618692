"""What an accuracy benchmark needs of a model: how to load it, what it is asked, and how answers are judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accuracy_store import Store, Stored

from nomul.compare import Implementation

Scores = dict[str, float]


@dataclass(frozen=True)
class Loaded:
    """answers: of an implementation to the questions.  judge: answers, and those of the fp32 model, become numbers.

    onnx: writes the model into a folder for other tools, None where they cannot have it.
    train: trains the model with weights in an encoding, None where that takes too long."""

    store: Store
    answers: Callable[[Implementation], Any]
    judge: Callable[[Any, Any], Scores]
    onnx: Callable[[Path], Path] | None = None
    train: Callable[[str], Stored] | None = None


@dataclass(frozen=True)
class Subject:
    """One model with its task. part: of the benchmark.  load raises PackageMissing or ImportError.

    main: the score of which fp32's share is shown."""

    name: str
    part: str
    load: Callable[[], Loaded]
    main: str
