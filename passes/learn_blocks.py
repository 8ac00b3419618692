"""Which layers learn together in blocks, and the work on them: block by block, what is done is kept in files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nomul.ir.graph import Module
from nomul.passes.blocks import Block, blocks_of
from nomul.passes.calibrate import Batch
from nomul.passes.fit_blocks import BlockFitter, Gradients, Learned
from nomul.passes.fit_layers import Fit, FitCache, Job
from nomul.passes.layer_plan import Plan, apply

MOST_WEIGHTS = 1 << 25  # of one block; while they learn each takes some hundred bytes


@dataclass(frozen=True)
class LearnedBlock:
    """A block, and those of its layers that learn."""

    block: Block
    plans: tuple[Plan, ...]


@dataclass(frozen=True)
class Learning:
    """What blocks learn from: the float module, its twin in which all layers are encoded, and calibration data."""

    plain: Module
    encoded: Module
    batches: Sequence[Batch]
    gradients: Gradients
    cache: FitCache | None


def plan_blocks(
    module: Module, plans: Sequence[Plan], gradients: Gradients | None
) -> tuple[list[LearnedBlock], list[tuple[tuple[Plan, ...], str]]]:
    """The blocks of these layers that can learn, in order; the layers of others, and why those cannot."""
    asked = {node: plan for plan in plans for node in plan.layer.nodes}
    found, refused = [], []
    for block in blocks_of(module.main, asked):
        own = tuple({asked[node].weight: asked[node] for node in block.nodes if node in asked}.values())
        reason = _refusal(block, own, gradients)
        if reason:
            refused.append((own, reason))
        else:
            found.append(LearnedBlock(block, own))
    return found, refused


def _refusal(block: Block, plans: Sequence[Plan], gradients: Gradients | None) -> str | None:
    size = sum(plan.weight.array().size for plan in plans)
    if not all(node in block.nodes for plan in plans for node in plan.layer.nodes):
        return "a weight is used outside of the block too"
    if size > MOST_WEIGHTS:
        return f"{size:,} weights are too many to learn together"
    return "PyTorch is not there to give gradients" if gradients is None else gradients.refusal(block)


def learn_blocks(
    blocks: Sequence[LearnedBlock],
    jobs: Mapping[str, Job],
    fits: dict[str, Fit],
    learning: Learning,
    progress: Callable[[str, float], None],
) -> None:
    """Changes the encoded module, and the fits of the layers that learn. jobs, fits: of all layers, by weight name."""
    context = _context(blocks, jobs)
    fitter: BlockFitter | None = None
    for number, item in enumerate(blocks):

        def done(share: float, number: int = number) -> None:
            progress(f"learn block {number + 1}/{len(blocks)}", (number + share) / len(blocks))

        todo = {plan.weight.name: _job(plan, jobs, context) for plan in item.plans}
        kept = learning.cache.load_all(todo) if learning.cache else {}
        if len(kept) < len(todo):
            if fitter is None:
                parts = [one.block for one in blocks]
                fitter = BlockFitter(learning.plain, learning.encoded, parts, learning.batches)
            layers = [Learned(jobs[name], fits[name], plan.bias) for name, plan in zip(todo, item.plans, strict=True)]
            kept = dict(zip(todo, fitter.fit(item.block, layers, learning.gradients, done), strict=True))
            if learning.cache:
                learning.cache.save_all(todo, kept)
        for plan in item.plans:
            apply(learning.encoded, plan, kept[plan.weight.name])
        fits |= kept
        done(1.0)


def _job(plan: Plan, jobs: Mapping[str, Job], context: bytes) -> Job:
    """For the cache: what a layer becomes hangs on all of the model and the recipe."""
    job = jobs[plan.weight.name]
    return replace(job, fitter=plan.fitter, context=context, learns_bias=plan.bias is not None)


def _context(blocks: Sequence[LearnedBlock], jobs: Mapping[str, Job]) -> bytes:
    digest = hashlib.blake2b(digest_size=20)
    for job in jobs.values():
        digest.update(job.key().encode())
    for item in blocks:
        for plan in item.plans:
            digest.update(repr(plan.rule).encode())
    return digest.digest()
