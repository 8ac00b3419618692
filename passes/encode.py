"""Stores the weights of linear layers, convolutions and embeddings in the encodings that a recipe names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module
from nomul.ir.syntax import parse_encoding
from nomul.ir.text import print_module
from nomul.passes.base import Pass, Report, note_for_user
from nomul.passes.calibrate import Batch, collect, waves
from nomul.passes.choice import ACTS, ANY, PLAIN, ROLES, Recipe, Rule, idle, unmatched
from nomul.passes.correct_means import correct_means
from nomul.passes.depthwise import encoding_of, with_inputs_of
from nomul.passes.fit import find_fitter
from nomul.passes.fit_blocks import Gradients
from nomul.passes.fit_layers import Fit, FitCache, Job, fit_jobs
from nomul.passes.graph_tools import is_dense
from nomul.passes.layer_plan import FEW_BITS, Plan, apply, bias_of, facts, shape_of
from nomul.passes.layers import ENCODABLE, Layer, layers_of
from nomul.passes.learn_blocks import LearnedBlock, Learning, learn_blocks, plan_blocks

EncodeProgress = Callable[[str, float], None]
LEARNING = 0.9  # share of the progress that blocks take, where they learn
RUNNING = 0.5  # share of the progress that runs of the model take, where there are any


def _silent(text: str, fraction: float) -> None:
    """The progress report of callers who want none."""


class Encode(Pass):
    """The first rule of the recipe that takes a layer decides its encoding, fitter and activations.

    batches: calibration data, one array for each input of the model; without it fitters see the weights alone.
    cache: a folder that keeps fitted layers for the case of an interrupt.  progress: text and done share of this pass.
    gradients: of blocks, for rules of scope "block"; without them their layers are fitted by themselves.
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
        gradients: Gradients | None = None,
    ) -> None:
        self.recipe = recipe or Recipe()
        self.bound = self.recipe.max_error
        self.batches = batches
        self.cache = FitCache(cache) if cache else None
        self.progress = progress
        self.gradients = gradients

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
        for name in _not_finite(module):
            note_for_user(module, report, f"@{name} holds NaN or infinite numbers, which spread to results behind it")
        blocks = self._blocks(module, plans, report)
        context = _context(module, self.batches) if self.cache else b""
        learning = {plan.weight.name for block in blocks for plan in block.plans}
        jobs = {plan.weight.name: plan.job(context, plan.weight.name in learning) for plan in plans}
        fits = self._fit(module, plans, jobs, 1 - LEARNING if blocks else 1.0)
        plain = module.clone()
        for plan in plans:
            apply(module, plan, fits[plan.weight.name])
            report.fire(str(plan.encoding))
        if blocks and self.gradients:
            data = Learning(plain, module, self.batches, self.gradients, self.cache)
            learn_blocks(blocks, jobs, fits, data, lambda text, share: self.progress(text, 1 - LEARNING * (1 - share)))
        if self.recipe.correct_means and self.batches:
            report.note(f"means of {correct_means(plain, module, self.batches)} layers and norms are corrected")
        if (coarse := _coarse_convolutions(plans)) and not self.batches:
            text = f"{coarse} convolutions have fewer than {FEW_BITS} bits, chosen without calibration data"
            note_for_user(module, report, f"{text}: their mean errors add up, which --calib takes out")
        if plans and module.source:
            encoded = [facts(plan, fits[plan.weight.name]) for plan in plans]
            module.source = {**module.source, "encoded": encoded}

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
            shape = shape_of(layer.weight)
            encoding, reason = (None, layer.reason) if layer.reason else encoding_of(rule, layer.roles, shape)
            if reason:
                note_for_user(module, report, _outcome(layer, rule, encoding, reason))
                problems += self._refusal(layer, rule, reason)
            if encoding is not None:
                bias = bias_of(layer) if self.batches else None
                plans.append(Plan(layer, with_inputs_of(rule, layer.roles, shape), encoding, bias))
        if problems:
            raise NomulError.many(problems)
        for line in idle(self.recipe, ((layer.names, layer.roles) for layer in layers)):
            note_for_user(module, report, line)
        return plans

    def _blocks(self, module: Module, plans: Sequence[Plan], report: Report) -> list[LearnedBlock]:
        """The blocks that learn. Layers that cannot do so are fitted by themselves, as a note says."""
        asked = [plan for plan in plans if plan.by_block and self.batches]
        blocks, refused = plan_blocks(module, asked, self.gradients)
        for layers, reason in refused:
            names = ", ".join(f"@{plan.weight.name}" for plan in layers)
            note_for_user(module, report, f"{names} learned layer by layer, not in a block: {reason}")
        return blocks

    def _refusal(self, layer: Layer, rule: Rule, reason: str) -> list[Problem]:
        """The problem that it is with a strict recipe that a layer does not get what its rule says."""
        if not self.recipe.strict:
            return []
        message = f"@{layer.weight.name} cannot be stored as {rule.encoding}: {reason}"
        return [Problem("NM459", message, layer.loc, "exempt it by a rule of its own, or drop strict")]

    # -- fitting -----------------------------------------------------------------------------------------------
    def _fit(self, module: Module, plans: Sequence[Plan], jobs: Mapping[str, Job], end: float) -> dict[str, Fit]:
        """Each layer by itself, by weight name. end: of the progress that this is."""
        fits = self.cache.load_all(jobs) if self.cache else {}
        missing = [plan.layer for plan in plans if plan.weight.name not in fits]
        problems: list[Problem] = []
        for wave in waves(missing) if self.batches else [missing]:
            self._fit_wave(module, wave, jobs, fits, problems, end)
        if problems:
            raise NomulError.many(problems)
        return fits

    def _fit_wave(
        self,
        module: Module,
        wave: Sequence[Layer],
        jobs: Mapping[str, Job],
        fits: dict[str, Fit],
        problems: list[Problem],
        end: float,
    ) -> None:
        """Fit some layers: as many as one run over the calibration data serves."""
        begin, share = end * len(fits) / max(1, len(jobs)), end * len(wave) / max(1, len(jobs))
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


def _not_finite(module: Module) -> list[str]:
    """Weights that linear layers and convolutions multiply by and that hold NaN or infinity."""
    names = []
    for weight in module.weights.values():
        multiplies = any(node.op in ENCODABLE and position == 1 for node, position in weight.users)
        if multiplies and is_dense(weight) and weight.dtype.is_float and weight.fields:
            array = weight.array()
            if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
                names.append(weight.name)
    return names


def _coarse_convolutions(plans: Sequence[Plan]) -> int:
    """How many convolutions of images get few bits."""
    return sum("conv" in plan.layer.roles and plan.coarse for plan in plans)
