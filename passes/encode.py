"""Stores the weights of linear layers, convolutions and embeddings in the encodings that a recipe names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module, Weight
from nomul.ir.syntax import parse_encoding
from nomul.ir.text import print_module
from nomul.ir.types import Tensor
from nomul.passes.accuracy import accuracy
from nomul.passes.base import Pass, Report, note_for_user
from nomul.passes.calibrate import Batch, collect, waves
from nomul.passes.choice import ACTS, ANY, PLAIN, ROLES, Recipe, Rule, unmatched
from nomul.passes.correct_means import correct_means
from nomul.passes.depthwise import encoding_of, with_inputs_of
from nomul.passes.fit import Fitter, find_fitter
from nomul.passes.fit_layers import Fit, FitCache, Job, fit_jobs
from nomul.passes.graph_tools import exchange
from nomul.passes.layers import Layer, layers_of

EncodeProgress = Callable[[str, float], None]
LEAST_RANGE = 1e-6  # of inputs, where calibration saw nothing but zeros
FEW_BITS = 6  # of weights, below which convolutions without calibration data lose most of what they do
RUNNING = 0.5  # share of the progress that runs of the model take, where there are any


def _silent(text: str, fraction: float) -> None:
    """The progress report of callers who want none."""


@dataclass(frozen=True)
class Plan:
    """What one layer gets. bias: that can take care of the mean error, or None."""

    layer: Layer
    rule: Rule
    encoding: Encoding
    bias: Weight | None

    @property
    def weight(self) -> Weight:
        return self.layer.weight

    @property
    def fitter(self) -> Fitter:
        """Where another encoding stands in for the one of the rule, the fitter is that one's default."""
        named = self.rule.fitter if type(self.encoding) is type(self.rule.encoding) else None
        return find_fitter(named, self.encoding)

    def job(self, context: bytes) -> Job:
        return Job(self.weight, self.encoding, self.fitter, self.bias is not None, context)


class Encode(Pass):
    """The first rule of the recipe that takes a layer decides its encoding, fitter and activations.

    batches: calibration data, one array for each input of the model; without it fitters see the weights alone.
    cache: a folder that keeps fitted layers for the case of an interrupt.  progress: text and done share of this pass.
    Eligible are f32 weights that linear layers and convolutions use as weights (those with groups where each channel is
    one), or whose rows are looked up as embeddings, and that nobody else uses.
    Raises NomulError for all layers at once: NM457 a weight that cannot be stored, NM458 a rule that matches nothing,
    NM459 a strict recipe that asks for what a layer cannot have; NM101 for calibration data that does not fit."""

    name = "encode"
    exact = False

    def __init__(
        self,
        recipe: Recipe | None = None,
        batches: Sequence[Batch] = (),
        cache: Path | None = None,
        progress: EncodeProgress = _silent,
    ) -> None:
        self.recipe = recipe or Recipe()
        self.bound = self.recipe.max_error
        self.batches = batches
        self.cache = FitCache(cache) if cache else None
        self.progress = progress

    @classmethod
    def of(
        cls, *, weights: str = PLAIN, match: str = ANY, role: str = "", fitter: str = "", act: str = PLAIN
    ) -> Encode:
        """With a recipe of one rule. Raises ValueError, TypeError or TextFault for words that there are not."""
        encoding = None if weights == PLAIN else parse_encoding(weights)
        if encoding:
            find_fitter(fitter or None, encoding)
        for given, known in ((act, ACTS), (role or ROLES[0], ROLES)):
            if given not in known:
                raise ValueError(f"'{given}' is none of {', '.join(known)}")
        return cls(Recipe((Rule(match, encoding, fitter or None, act, role or None),)))

    def run(self, module: Module, report: Report) -> None:
        plans = self._plans(module, report)
        context = _context(module, self.batches) if self.cache else b""
        jobs = {plan.weight.name: plan.job(context) for plan in plans}
        fits = self._cached(jobs)
        missing = [plan.layer for plan in plans if plan.weight.name not in fits]
        problems: list[Problem] = []
        for wave in waves(missing) if self.batches else [missing]:
            self._fit_wave(module, wave, jobs, fits, problems)
        if problems:
            raise NomulError.many(problems)
        plain, facts = module.clone(), []
        for plan in plans:
            facts.append(_apply(module, plan, fits[plan.weight.name]))
            report.fire(str(plan.encoding))
        if self.recipe.correct_means and self.batches:
            report.note(f"means of {correct_means(plain, module, self.batches)} layers and norms are corrected")
        if (coarse := _coarse_convolutions(plans)) and not self.batches:
            text = f"{coarse} convolutions have fewer than {FEW_BITS} bits, chosen without calibration data"
            note_for_user(module, report, f"{text}: their mean errors add up, which --calib takes out")
        if facts and module.source:
            module.source = {**module.source, "encoded": facts}

    # -- planning ----------------------------------------------------------------------------------------------
    def _plans(self, module: Module, report: Report) -> list[Plan]:
        layers = layers_of(module)
        names = [*module.weights, *(name for layer in layers for name in layer.names)]
        problems = unmatched(self.recipe.rules, list(dict.fromkeys(names)))
        plans = []
        for layer in layers:
            rule = self.recipe.rule_of(layer.names, layer.roles)
            if rule is None or rule.encoding is None:
                continue
            encoding, reason = (None, layer.reason) if layer.reason else encoding_of(rule.encoding, rule, layer)
            if reason:
                note_for_user(module, report, _outcome(layer, rule, encoding, reason))
                problems += self._refusal(layer, rule, reason)
            if encoding is not None:
                bias = _bias(layer) if self.batches else None
                plans.append(Plan(layer, with_inputs_of(rule, layer), encoding, bias))
        if problems:
            raise NomulError.many(problems)
        return plans

    def _refusal(self, layer: Layer, rule: Rule, reason: str) -> list[Problem]:
        """The problem that it is with a strict recipe that a layer does not get what its rule says."""
        if not self.recipe.strict:
            return []
        message = f"@{layer.weight.name} cannot be stored as {rule.encoding}: {reason}"
        return [Problem("NM459", message, layer.loc, "exempt it by a rule of its own, or drop strict")]

    # -- fitting -----------------------------------------------------------------------------------------------
    def _cached(self, jobs: dict[str, Job]) -> dict[str, Fit]:
        if self.cache is None or not self.cache.folder.is_dir():
            return {}
        found = {name: self.cache.load(job) for name, job in jobs.items()}
        return {name: fit for name, fit in found.items() if fit is not None}

    def _fit_wave(
        self, module: Module, wave: Sequence[Layer], jobs: dict[str, Job], fits: dict[str, Fit], problems: list[Problem]
    ) -> None:
        """Fit some layers: as many as one run over the calibration data serves."""
        begin, share = len(fits) / max(1, len(jobs)), len(wave) / max(1, len(jobs))
        running = RUNNING if self.batches else 0.0
        count = len(fits)

        def ran(number: int) -> None:
            whole = len(self.batches)
            self.progress(f"calibration {number}/{whole}", begin + share * running * number / whole)

        def fitted(job: Job) -> None:
            nonlocal count
            count += 1
            within = (count - len(fits)) / len(wave)
            self.progress(f"fit {count}/{len(jobs)}", begin + share * (running + (1 - running) * within))

        statistics = collect(module, wave, self.batches, ran) if self.batches else {}
        todo = [jobs[layer.weight.name] for layer in wave]
        for layer, job, fit in zip(wave, todo, fit_jobs(todo, statistics, self.cache, fitted), strict=True):
            if isinstance(fit, ValueError):
                message = f"weight @{layer.weight.name} cannot be stored as {job.encoding}: {fit}"
                problems.append(Problem("NM457", message, layer.loc))
            else:
                fits[layer.weight.name] = fit


def _outcome(layer: Layer, rule: Rule, given: Encoding | None, reason: str) -> str:
    outcome = f"stays {PLAIN}" if given is None else f"is stored as {given}"
    return f"@{layer.weight.name} {outcome}, not {rule.encoding}: {reason}"


def _context(module: Module, batches: Sequence[Batch]) -> bytes:
    """A digest of all that statistics of layer inputs depend on."""
    if not batches:
        return b""
    digest = hashlib.blake2b(print_module(module).encode(), digest_size=20)
    for weight in module.weights.values():
        for array in weight.fields.values():
            digest.update(np.ascontiguousarray(array).data)
    for batch in batches:
        for array in batch:
            digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _coarse_convolutions(plans: Sequence[Plan]) -> int:
    """How many convolutions of images get few bits."""
    convolutions = [plan for plan in plans if "conv" in plan.layer.roles]
    return sum(plan.encoding.bits_per_weight(_shape(plan.weight)) < FEW_BITS for plan in convolutions)


def _shape(weight: Weight) -> tuple[int, ...]:
    return tuple(int(size) for size in weight.shape)


def _bias(layer: Layer) -> Weight | None:
    """The bias of a layer where it is a dense weight of this layer alone, and one mean error fits all channels."""
    if len(layer.products) != 1 or len(layer.products[0].args) < 3 or "depthwise" in layer.roles:
        return None
    bias = layer.products[0].args[2]
    return bias if isinstance(bias, Weight) and len(bias.users) == 1 and bias.type.encoding is None else None


# -- changing the module ---------------------------------------------------------------------------------------
def _apply(module: Module, plan: Plan, fit: Fit) -> dict[str, Any]:
    """Puts the encoded weight into its place. The result: facts of the layer for reports, what it lost among them."""
    weight = plan.weight
    twin = Weight(weight.name, Tensor(weight.dtype, weight.shape, plan.encoding), fit.fields)
    before, after = weight.array(), twin.array()
    if plan.bias is not None and fit.mean is not None:
        error = (before - after).reshape(len(before), -1).astype(np.float64)
        bias = plan.bias.array()
        exchange(module, plan.bias, Weight.dense(plan.bias.name, (bias + error @ fit.mean).astype(bias.dtype)))
    exchange(module, weight, twin)
    for node in plan.layer.products:
        node.attrs |= _act(plan.rule, fit)
    return {
        "name": weight.name,
        "loc": plan.layer.loc,
        "roles": list(plan.layer.roles),
        "encoding": str(plan.encoding),
        "fitter": plan.fitter.name,
        "act": plan.rule.act if plan.layer.products else PLAIN,
        "bits": round(plan.encoding.bits_per_weight(_shape(weight)), 4),
        "bytes": sum(array.nbytes for array in fit.fields.values()),
        "weights": accuracy(before, after).as_json(),
    }


def _act(rule: Rule, fit: Fit) -> dict[str, str | float]:
    """Attributes of a node. A fixed scale is that of the largest input that calibration saw (a layer that it did not
    reach takes scales by row)."""
    if rule.act == PLAIN:
        return {"act": PLAIN}
    if rule.act != "i8-static" or fit.largest is None:
        return {"act": "i8", "act_levels": rule.levels}
    scale = float(np.float32(max(fit.largest, LEAST_RANGE) / rule.levels))
    return {"act": rule.act, "act_scale": scale, "act_levels": rule.levels}
