"""Hedgehog's distillation (Zhang et al., "The Hedgehog", 2024): maps of queries and keys whose products are as near as
they can be to the weights of softmax attention, learned layer by layer from queries and keys alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

LEAST = 1e-12  # of a feature, as `nn.hedgehog_map` has it
FLAT = 1e-30  # of a sum of weights


@dataclass(frozen=True)
class Sample:
    """One run of one layer. q: [B, S, H, D], k: [B, T, G, D].  weights: softmax attention's [B, H, S, T]."""

    q: np.ndarray
    k: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Distilled:
    """Maps [H, D, F] and [G, D, F], and the mean cross-entropy of attention rows (nats), less the entropy of softmax's
    own rows, at the start and at the end."""

    q: np.ndarray = field(repr=False)
    k: np.ndarray = field(repr=False)
    before: float
    after: float


def features(x: torch.Tensor, weights: torch.Tensor, form: str) -> torch.Tensor:
    """What `nn.hedgehog_map` means. x: [B, S, H, D], weights: [H, D, F]; [B, S, H, 2F]."""
    y = torch.einsum("bshd,hdf->bshf", x, weights)
    parts = (y, -y)
    if form == "softmax":
        found = [part.softmax(-1) for part in parts]
    else:
        found = [(part - part.amax(-1, keepdim=True)).exp() for part in parts]
    return torch.cat(found, -1).clamp_min(LEAST)


def distil_layer(samples: Sequence[Sample], form: str, steps: int, rate: float) -> Distilled:
    """Train the maps of one layer from the identity on; each step takes one of the samples in turn."""
    data = [tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in (s.q, s.k, s.weights)) for s in samples]
    heads, groups, size = samples[0].q.shape[2], samples[0].k.shape[2], samples[0].q.shape[3]
    maps = [torch.eye(size).repeat(count, 1, 1).requires_grad_() for count in (heads, groups)]
    optimiser = torch.optim.Adam(maps, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    before = _mean_divergence(data, maps, form)
    for step in range(steps):
        optimiser.zero_grad()
        divergence(data[step % len(data)], maps, form).backward()
        optimiser.step()
        schedule.step()
    after = _mean_divergence(data, maps, form)
    q, k = (weights.detach().numpy() for weights in maps)
    return Distilled(q, k, before, after)


def divergence(sample: Sequence[torch.Tensor], maps: Sequence[torch.Tensor], form: str) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of rows, linear attention from softmax attention. Its gradient is that of the
    cross-entropy. Keys that softmax gives no weight at all are hidden from both; rows without weights do not count."""
    q, k, wanted = sample
    q_map, k_map = maps
    keys = features(k, k_map, form).repeat_interleave(q.shape[2] // k.shape[2], 2)
    scores = torch.einsum("bshf,bthf->bhst", features(q, q_map, form), keys)
    seen = wanted > 0
    given = torch.where(seen, scores, 0)
    given = given / given.sum(-1, keepdim=True).clamp_min(FLAT)
    one = torch.ones((), dtype=wanted.dtype)
    logs = torch.where(seen, wanted, one).log() - torch.where(seen, given, one).clamp_min(FLAT).log()
    rows = (wanted * logs).sum(-1)
    return rows.sum() / seen.any(-1).sum().clamp_min(1)


def _mean_divergence(data: Sequence[tuple[torch.Tensor, ...]], maps: Sequence[torch.Tensor], form: str) -> float:
    with torch.no_grad():
        found = [float(divergence(sample, maps, form)) for sample in data]
    return sum(found) / len(found)
