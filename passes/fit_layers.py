"""Fits the weights of many layers in parallel; what is done is kept in files, so that an interrupt loses nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Weight
from nomul.ir.types import Tensor
from nomul.ir.weights_file import load_weights, save_weights
from nomul.passes.calibrate import Statistics
from nomul.passes.fit import Fields, Fitter
from nomul.passes.prior import Prior

FORMAT = b"nomul fitted layer 1"
QUICK = "round_to_nearest"  # what it does is not worth a file
_SUFFIX = ".fit.safetensors"
_FITTED, _MEAN, _LARGEST, _BIAS = "fitted", "mean", "largest", "bias"


@dataclass(frozen=True)
class Job:
    """One weight to fit. context: what the statistics of its inputs hang on, for the key of the cache.

    centred: a bias will take care of the mean error, so that only the rest of it counts.
    learns_bias: the fit has a bias too.
    prior: what is known of inputs that calibration data does not show."""

    weight: Weight
    encoding: Encoding
    fitter: Fitter
    centred: bool = False
    context: bytes = b""
    learns_bias: bool = False
    prior: Prior | None = None

    @property
    def type(self) -> Tensor:
        return Tensor(self.weight.dtype, self.weight.shape, self.encoding)

    def key(self) -> str:
        """Equal for equal jobs, whatever the weights are called."""
        digest = hashlib.blake2b(FORMAT, digest_size=20)
        for text in (str(self.type), self.fitter.name, str(self.centred)):
            digest.update(text.encode() + b"\0")
        digest.update(self.context)
        digest.update(bytes(self.prior) if self.prior else b"")
        digest.update(np.ascontiguousarray(self.weight.array()).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Fit:
    """fields: of the encoded weight.  mean [K], largest: of the layer's inputs, where calibration data reached it.

    bias [N]: what it learned with the weight, in place of the one that takes over the mean error."""

    fields: Fields
    mean: np.ndarray | None = None
    largest: float | None = None
    bias: np.ndarray | None = None


class FitCache:
    """Fitted layers in a folder, one file each, by the content of what they were fitted from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load_all(self, jobs: Mapping[str, Job]) -> dict[str, Fit]:
        """Of these jobs, those that are there."""
        if not self.folder.is_dir():
            return {}
        found = {name: self.load(job) for name, job in jobs.items()}
        return {name: fit for name, fit in found.items() if fit is not None}

    def load(self, job: Job) -> Fit | None:
        """None where there is none, or the file is damaged."""
        for columns in (_columns(job.weight), None):
            module = _module(job, columns)
            try:
                load_weights(module, self._path(job))
            except NomulError:
                continue
            found = {name: weight.fields for name, weight in module.weights.items()}
            bias = found[_BIAS]["data"] if job.learns_bias else None
            if columns is None:
                return Fit(found[_FITTED], bias=bias)
            return Fit(found[_FITTED], found[_MEAN]["data"], float(found[_LARGEST]["data"][0]), bias)
        return None

    def save_all(self, jobs: Mapping[str, Job], fits: Mapping[str, Fit]) -> None:
        """Raises NomulError (NM340) where it cannot be written."""
        for name, job in jobs.items():
            self.save(job, fits[name])

    def save(self, job: Job, fit: Fit) -> None:
        """Raises NomulError (NM340) where it cannot be written."""
        self.folder.mkdir(exist_ok=True)
        module = _module(job, None if fit.mean is None else len(fit.mean))
        module.weights[_FITTED].fields = dict(fit.fields)
        if fit.mean is not None:
            module.weights[_MEAN].fields = {"data": fit.mean}
            module.weights[_LARGEST].fields = {"data": np.array([fit.largest])}
        if fit.bias is not None:
            module.weights[_BIAS].fields = {"data": fit.bias}
        save_weights(module, self._path(job))

    def clear(self) -> None:
        """Remove what `save` wrote, and the folder where nothing else is in it."""
        for path in self.folder.glob(f"*{_SUFFIX}"):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, job: Job) -> Path:
        return self.folder / f"{job.key()}{_SUFFIX}"


def _columns(weight: Weight) -> int:
    return int(np.prod([int(size) for size in weight.shape[1:]]))


def _module(job: Job, columns: int | None) -> Module:
    """The names and types that a file of the cache holds. columns: of the mean, None where there are no statistics."""
    module = Module()
    module.add_weight(Weight(_FITTED, job.type))
    if columns is not None:
        module.add_weight(Weight(_MEAN, Tensor.of("f64", columns)))
        module.add_weight(Weight(_LARGEST, Tensor.of("f64", 1)))
    if job.learns_bias:
        module.add_weight(Weight(_BIAS, Tensor.of("f32", job.weight.shape[0])))
    return module


def fit_jobs(
    jobs: Sequence[Job],
    statistics: Mapping[str, Statistics],
    cache: FitCache | None,
    done: Callable[[Job], None],
) -> list[Fit | ValueError]:
    """The fit of each job in order, or why it failed. statistics: by weight name.  done: called after each job.

    An interrupt waits for the layers at work and keeps them."""
    pool = ThreadPoolExecutor(max_workers=max(1, min(len(jobs), os.cpu_count() or 1)))
    try:
        futures = {pool.submit(_fit, job, statistics.get(job.weight.name), cache): job for job in jobs}
        for future in as_completed(futures):
            future.result()
            done(futures[future])
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _fit(job: Job, seen: Statistics | None, cache: FitCache | None) -> Fit | ValueError:
    try:
        fields = job.fitter(job.weight.array().astype(np.float32, copy=False), _hessian(job, seen), job.encoding)
    except (ValueError, np.linalg.LinAlgError) as error:
        return ValueError(str(error))
    fit = Fit(fields) if seen is None else Fit(fields, seen.mean, seen.largest)
    if cache and job.fitter.name != QUICK:
        cache.save(job, fit)
    return fit


def _hessian(job: Job, seen: Statistics | None) -> np.ndarray | None:
    """[K, K] of the job's inputs: as calibration saw them, else as they are known to be."""
    if seen is not None:
        return seen.covariance if job.centred else seen.hessian
    return job.prior.hessian(_columns(job.weight)) if job.prior else None
