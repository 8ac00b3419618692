"""What a compile was asked to do: one record, filled by `nomul.compile` and read by the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nomul.passes.calibrate import Batch
from nomul.passes.choice import Recipe

WeightsPlace = Literal["auto", "embedded", "external"]
Emit = Literal["library", "c"]
ARRAY_LIMIT = 256 * 1024
Progress = Callable[[str, float], None]


def tune_file(output: Path, tune: bool | str | Path) -> Path | None:
    """The file of measured times for an option `tune`: True is one beside the artifact, False none."""
    if isinstance(tune, bool):
        return output.with_name(f"{output.name}.tune.json") if tune else None
    return Path(tune)


def silent(phase: str, fraction: float) -> None:
    """The progress report of callers who want none."""


@dataclass(frozen=True)
class Options:
    """name: of the model, in the artifact.  targets: as `nomul list targets` prints them; several make one library.

    recipe: encodings of weights (`compiler/recipe.py`); an empty one keeps them as they are.
    batches: calibration data.  fits: folder that keeps fitted layers until the work is done.
    tune: file of measured times of kernels (`backends/tune/`); None: ranks choose.
    dump: folder for the IR between passes, kernels and C.  check: compare with the interpreter after every pass.
    until: stop after this phase.  weights: "auto" embeds below 1 GiB.  strict: refuse generic kernels.
    emit: "library" for a library or bundle, "c" for a folder of portable C, whose weights are an array up to
    `array_limit` bytes.
    progress: called with the phase and the done fraction of the whole work, 0..1.
    """

    name: str = "model"
    targets: tuple[str, ...] = ("host",)
    recipe: Recipe = field(default_factory=Recipe)
    batches: Sequence[Batch] = ()
    fits: Path | None = None
    output: Path | None = None
    tune: Path | None = None
    dump: Path | None = None
    check: bool = False
    until: str | None = None
    weights: WeightsPlace = "auto"
    emit: Emit = "library"
    array_limit: int = ARRAY_LIMIT
    strict: bool = False
    progress: Progress = silent
