"""Attention variants against transcriptions of their formulas, a loop for each index that the paper names."""

from __future__ import annotations

from itertools import product
from math import exp, pi, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from cases import Case, numbers
from cases_states import STATES

TOKENS = 6
Q, K, V = numbers(2, TOKENS, 3, 4), numbers(2, TOKENS, 3, 4, seed=1), numbers(2, TOKENS, 3, 5, seed=2)
FEW_K, FEW_V = numbers(2, TOKENS, 1, 4, seed=3), numbers(2, TOKENS, 1, 5, seed=4)
BATCH_HEADS = list(product(range(2), range(3)))


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


def heads(function, width: int = 5, **others) -> np.ndarray:  # type: ignore[no-untyped-def]
    """[B, S, H, E] from function(q [S, D], k, v, head) of each head, in double precision."""
    result = np.zeros((2, TOKENS, 3, width))
    for b, h in BATCH_HEADS:
        operands = [others.get(name, x)[b, :, h] for name, x in (("q", Q), ("k", K), ("v", V))]
        result[b, :, h] = function(*map(t, operands), h)
    return result.astype(np.float32)


# -- softmax attention: who sees whom, bias, cap ---------------------------------------------------------------------
def softmax_case(seen, bias=None, cap: float = 0.0, operands=(), **attrs) -> Case:  # type: ignore[no-untyped-def]
    """seen(s, t, b, h): whether query s sees key t.  bias(s, t, h)."""
    expected = np.zeros((2, TOKENS, 3, 5))
    for (b, h), s in product(BATCH_HEADS, range(TOKENS)):
        scores = {}
        for key in range(TOKENS):
            if seen(s, key, b, h):
                score = 0.5 * float(Q[b, s, h].astype(np.float64) @ K[b, key, h])
                score = cap * np.tanh(score / cap) if cap else score
                scores[key] = score + (bias(s, key, h) if bias else 0)
        total = sum(map(exp, scores.values()))
        for key, score in scores.items():
            expected[b, s, h] += exp(score) / total * V[b, key, h]
    return Case("nn.attention", [Q, K, V, *operands], expected.astype(np.float32), {"scale": 0.5, **attrs}, 1e-5)


def byte_case() -> Case:
    """Queries and keys as integers with a scale for each vector."""
    operands, expected = [], np.zeros((2, TOKENS, 3, 5), np.float32)
    for x in (Q, K):
        scale = (np.abs(x).max(-1) / np.float32(127)).astype(np.float32)
        operands += [np.rint(x / scale[..., None]).astype(np.int8), scale]
    q, q_scale, k, k_scale = (x.astype(np.float64) for x in operands)
    for b, h in BATCH_HEADS:
        scores = q[b, :, h] @ k[b, :, h].T * q_scale[b, :, h, None] * k_scale[b, :, h] * 0.5
        expected[b, :, h] = torch.softmax(t(scores), -1) @ t(V[b, :, h])
    return Case("nn.quantised_attention", [*operands, V], expected, {"scale": 0.5}, 1e-5)


def rounded_case() -> Case:
    """scores = "i8" is near to plain attention."""
    plain = softmax_case(lambda s, t, b, h: True)
    return Case("nn.attention", [Q, K, V], plain.expected, {"scale": 0.5, "scores": "i8"}, 2e-2)


def bf16_case() -> Case:
    """Operands and weights by the largest score are bf16, as torch rounds; sums and the total are not."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x.float().bfloat16().double()

    def head(q, k, v, h):  # type: ignore[no-untyped-def]
        scores = rounded(q) @ rounded(k).T * 0.5
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        return rounded(weights) @ rounded(v) / weights.sum(-1, keepdim=True)

    return Case("nn.attention", [Q, K, V], heads(head), {"scale": 0.5, "scores": "bf16"}, 1e-5)


def integers(x: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of at most `most` and the scale of each vector."""
    scale = np.abs(x).max(-1) / np.float32(most)
    return np.rint(x / scale[..., None]).astype(np.int8), scale


def stored_case(kind: str, most: int) -> Case:
    """Keys and values are codes times a scale."""
    k, v = (codes * scale[..., None] for codes, scale in (integers(x, most) for x in (K, V)))
    expected = heads(lambda q, k, v, h: torch.softmax(q @ k.T * 0.5, -1) @ v, k=k, v=v)
    return Case("nn.attention", [Q, K, V], expected, {"scale": 0.5, "keys_values": kind}, 1e-5)


def stored_parts() -> Case:
    """Two codes in a byte, both halves of a vector; all keys are one part."""
    (k, k_scale), (v, v_scale) = integers(K, 7), integers(V[..., :4], 7)
    packed = [((x[..., :2] + 8) | (x[..., 2:] + 8) << 4).astype(np.uint8) for x in (k, v)]
    expected = np.zeros((2, 1, TOKENS, 3, 6))
    for b, h in BATCH_HEADS:
        scores = 0.5 * Q[b, :, h].astype(np.float64) @ (k[b, :, h] * k_scale[b, :, h, None]).T
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        expected[b, 0, :, h, :4] = weights @ (v[b, :, h] * v_scale[b, :, h, None])
        expected[b, 0, :, h, 4:] = np.stack([scores.max(-1), weights.sum(-1)], -1)
    operands = [Q, *packed, None, None, None, k_scale, v_scale]
    return Case("nn.attention_parts", operands, expected.astype(np.float32), {"scale": 0.5, "chunk": 8}, 1e-5)


def parts() -> np.ndarray:
    """Runs of four keys: [B, 2, S, H, E + 2]."""
    result = np.zeros((2, 2, TOKENS, 3, 7))
    for b, h in BATCH_HEADS:
        scores = 0.5 * Q[b, :, h].astype(np.float64) @ K[b, :, h].T
        for part, keys in enumerate((slice(0, 4), slice(4, TOKENS))):
            largest = scores[:, keys].max(-1)
            weights = np.exp(scores[:, keys] - largest[:, None])
            result[b, part, :, h, :5] = weights @ V[b, keys, h]
            result[b, part, :, h, 5:] = np.stack([largest, weights.sum(-1)], -1)
    return result.astype(np.float32)


BIAS = numbers(3, 2 * TOKENS - 1)
LENGTHS = np.array([4, 0])
TILES = np.array([[[[1, 0, 0], [1, 1, 0], [0, 0, 0]]]], np.bool_)
SLOPES = [2.0 ** -(h + 1) for h in range(3)]
ALIBI = np.outer(SLOPES, np.arange(2 * TOKENS - 1) - (TOKENS - 1)).astype(np.float32)

SOFTMAX = [
    softmax_case(lambda s, t, b, h: abs(s - t) < 3, window=3),
    softmax_case(lambda s, t, b, h: s - 2 <= t <= s, causal=True, window=3),
    softmax_case(lambda s, t, b, h: t <= s + 2, causal=True, offset=2),
    softmax_case(lambda s, t, b, h: t // 4 <= s // 4, causal=True, block=4),
    softmax_case(lambda s, t, b, h: t <= s or t < 3, causal=True, prefix=3),
    softmax_case(lambda s, t, b, h: True, cap=0.7, softcap=0.7),
    softmax_case(lambda s, t, b, h: True, lambda s, t, h: BIAS[h, t - s + 5], operands=[None, BIAS]),
    softmax_case(lambda s, t, b, h: t <= s, lambda s, t, h: SLOPES[h] * (t - s), operands=[None, ALIBI], causal=True),
    softmax_case(lambda s, t, b, h: t < LENGTHS[b], operands=[None, None, LENGTHS]),
    softmax_case(lambda s, t, b, h: TILES[0, 0, s // 2, t // 2], operands=[None, None, None, TILES], tile=2),
]


# -- latent attention, rotary positions ------------------------------------------------------------------------------
LATENT, LATENT_ROTARY, Q_ROTARY = numbers(2, 7, 4, seed=5), numbers(2, 7, 2), numbers(2, TOKENS, 3, 2)


def latent() -> np.ndarray:
    scores = torch.einsum("bshc,btc->bhst", t(Q), t(LATENT)) + torch.einsum(
        "bshr,btr->bhst", t(Q_ROTARY), t(LATENT_ROTARY)
    )
    return torch.einsum("bhst,btc->bshc", torch.softmax(scores * 0.3, -1), t(LATENT)).float().numpy()


ANGLES = numbers(1, TOKENS, 2)


def rotary(interleaved: bool) -> np.ndarray:
    """Complex numbers times e^(i angle)."""
    pairs = Q.reshape(2, TOKENS, 3, 2, 2) if interleaved else Q.reshape(2, TOKENS, 3, 2, 2).swapaxes(3, 4)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * ANGLES[:, :, None])
    parts = np.stack([turned.real, turned.imag], -1)
    return (parts if interleaved else parts.swapaxes(3, 4)).reshape(Q.shape).astype(np.float32)


# -- linear forms ----------------------------------------------------------------------------------------------------
MAPS = {
    "identity": lambda x: x,
    "elu": lambda x: F.elu(x) + 1,
    "relu": F.relu,
    "exp": torch.exp,
    "softmax": lambda x: torch.softmax(x, -1),
}


def linear(name: str, causal: bool) -> Case:
    expected = np.zeros((2, TOKENS, 3, 5), np.float32)
    for b, h in BATCH_HEADS:
        q, k, v = t(Q[b, :, h]), t(FEW_K[b, :, 0]), t(FEW_V[b, :, 0])
        weights = MAPS[name](q) @ MAPS[name](k).T
        weights = torch.tril(weights) if causal else weights
        expected[b, :, h] = weights / (weights.sum(-1, keepdim=True) + 1e-3) @ v
    attrs = {"map": name, "causal": causal, "eps": 1e-3}
    return Case("nn.linear_attention", [Q, FEW_K, FEW_V], expected, attrs, 1e-3 if name == "identity" else 1e-5)


HEDGEHOG = numbers(3, 4, 3)


def hedgehog(form: str) -> np.ndarray:
    y = torch.einsum("bshd,hdf->bshf", t(Q), t(HEDGEHOG))
    if form == "softmax":
        parts = [torch.softmax(y, -1), torch.softmax(-y, -1)]
    else:
        parts = [torch.exp(y - y.amax(-1, keepdim=True)), torch.exp(-y + y.amin(-1, keepdim=True))]
    return torch.cat(parts, -1).clamp(min=1e-12).float().numpy()


LOCAL = numbers(2, 9, 3, 5)


def inline(q, k, v, h):  # type: ignore[no-untyped-def]
    scores = q @ k.T * 0.5 / TOKENS
    return (scores - scores.mean(-1, keepdim=True) + 1 / TOKENS) @ v


def inline_local() -> np.ndarray:
    """An image of 2 x 3 tokens."""
    y = heads(inline).astype(np.float64)
    for b, row, column, down, right in product(range(2), range(2), range(3), range(-1, 2), range(-1, 2)):
        if 0 <= row + down < 2 and 0 <= column + right < 3:
            place = 3 * (down + 1) + right + 1
            y[b, 3 * row + column] += LOCAL[b, place] * V[b, 3 * (row + down) + column + right]
    return y.astype(np.float32)


# -- codes -----------------------------------------------------------------------------------------------------------
def codes() -> np.ndarray:
    unit = F.normalize(t(Q), dim=-1)
    return (unit > unit.mean()).numpy()


ANCHORS, CENTRE, PROJECTION = numbers(3, 7, 4), numbers(3, 7, low=0.0, high=0.3), numbers(3, 8, 7)


def hashes() -> np.ndarray:
    result = np.zeros((2, TOKENS, 3, 8), np.bool_)
    for b, s, h in product(range(2), range(TOKENS), range(3)):
        kernel = [exp(-((Q[b, s, h] - anchor) ** 2).sum() / (2 * 1.5)) for anchor in ANCHORS[h].astype(np.float64)]
        result[b, s, h] = PROJECTION[h] @ (np.array(kernel) - CENTRE[h]) > 0
    return result


def hamming(normalise: bool) -> np.ndarray:
    def head(q, k, v, h):  # type: ignore[no-untyped-def]
        rows = [
            0.5 * v[i] + sum(float(((q[i] > 0) & (k[j] > 0)).sum()) * v[j] for j in range(TOKENS)) / pi
            for i in range(TOKENS)
        ]
        y = torch.stack(rows)
        return y / y.norm(dim=-1, keepdim=True) if normalise else y

    return heads(head)


# -- sparse forms ----------------------------------------------------------------------------------------------------
PROJ, PROJ_BIAS = numbers(5, 5), numbers(5)


def sparse_linear(critical: int, negligible: int, everything: bool) -> Case:
    """Blocks of two tokens, in three classes by the products of their means."""

    def head(q, k, v, h):  # type: ignore[no-untyped-def]
        features, key_features = torch.softmax(q, -1), torch.softmax(k, -1)
        rows = []
        for s in range(TOKENS):
            means = [float(q[s // 2 * 2 : s // 2 * 2 + 2].mean(0) @ k[2 * j : 2 * j + 2].mean(0)) for j in range(3)]
            order = sorted(range(3), key=lambda j: -means[j])
            near = [j for j in range(TOKENS) if j // 2 in order[:critical]]
            far = [j for j in range(TOKENS) if everything or j // 2 in order[critical : 3 - negligible]]
            y = torch.softmax(q[s] @ k[near].T * 0.5, -1) @ v[near]
            weights = features[s] @ key_features[far].T
            z = weights @ v[far] / (weights.sum() + 1e-5) if far else torch.zeros(5, dtype=torch.float64)
            rows.append(y + z @ t(PROJ).T + t(PROJ_BIAS))
        return torch.stack(rows)

    attrs = {"scale": 0.5, "critical": critical, "negligible": negligible, "block": 2, "eps": 1e-5}
    attrs |= {"rest": "all" if everything else "marginal"}
    return Case("nn.sparse_linear_attention", [Q, K, V, PROJ, PROJ_BIAS], heads(head), attrs, 1e-5)


def calibrated(causal: bool) -> Case:
    def head(q, k, v, h):  # type: ignore[no-untyped-def]
        seen = torch.tril(torch.ones(TOKENS, TOKENS)) > 0 if causal else torch.ones(TOKENS, TOKENS) > 0
        a = torch.softmax((q @ k.T).masked_fill(~seen, -torch.inf), -1)
        average = a.sum(0) / seen.sum(0)
        sinks = [j for j in range(TOKENS) if average[j] > 0.15][1:]
        if h != 1:
            for i in range(1, TOKENS):
                others = [j for j in range(TOKENS) if j not in sinks]
                freed = sum(0.6 * a[i, j] for j in sinks)
                kept = a[i, others].sum()
                a[i, sinks] *= 0.4
                a[i, others] += freed * a[i, others] / kept
        return a @ v

    attrs = {"scale": 1.0, "causal": causal, "threshold": 0.15, "heads": (0, 2)}
    return Case("nn.calibrated_attention", [Q, K, V], heads(head), attrs, 1e-5)


def combiner(pattern: str, causal: bool) -> Case:
    """One softmax over direct keys and spans, query by query; segments (rows) of three tokens."""

    def spans_of(i: int) -> tuple[list[int], list[list[int]]]:
        if pattern == "fixed":
            own = [j for j in range(TOKENS) if j // 3 == i // 3 and (j <= i or not causal)]
            others = [r for r in range(2) if (r < i // 3 if causal else r != i // 3)]
            return own, [[3 * r, 3 * r + 1, 3 * r + 2] for r in others]
        row, column = divmod(i, 3)
        own = [j for j in range(i + 1) if j % 3 == column or j // 3 == row]
        return own, [[3 * j + c for j in range(row)] for c in range(3) if c != column and row]

    def head(q, k, v, h):  # type: ignore[no-untyped-def]
        rows = []
        for i in range(TOKENS):
            own, spans = spans_of(i)
            logits, values = [float(q[i] @ k[j]) * 0.5 for j in own], [v[j] for j in own]
            for span in spans:
                inside = torch.softmax(q[span].amax(0) @ k[span].T * 0.5, -1)
                logits.append(float(q[i] @ k[span].amax(0)) * 0.5)
                values.append(inside @ v[span])
            rows.append(torch.softmax(torch.tensor(logits, dtype=torch.float64), -1) @ torch.stack(values))
        return torch.stack(rows)

    attrs = {"scale": 0.5, "segment": 3, "pattern": pattern, "causal": causal}
    return Case("nn.combiner_attention", [Q, K, V], heads(head), attrs, 1e-5)


# -- channels and learned functions ----------------------------------------------------------------------------------
TEMPERATURE = numbers(3, low=0.5)
CHANNELS = numbers(2, TOKENS, 3, 4, seed=7)


def xcit(q, k, v, h):  # type: ignore[no-untyped-def]
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    weights = torch.softmax(F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).T * float(TEMPERATURE[h]), -1)
    return (weights @ v).transpose(0, 1)


COSINE, SINE, MIX = numbers(3, 2, TOKENS, 3), numbers(3, 2, TOKENS, 3, seed=1), numbers(3, TOKENS, 2)


def kolmogorov(q, k, v, h):  # type: ignore[no-untyped-def]
    scores, rows = q @ k.T / sqrt(4), []
    for a in scores.numpy():
        hidden = [
            sum(
                COSINE[h, p, j, m - 1] * np.cos(m * a[j]) + SINE[h, p, j, m - 1] * np.sin(m * a[j])
                for j in range(TOKENS)
                for m in (1, 2, 3)
            )
            for p in range(2)
        ]
        rows.append(t(MIX[h] @ np.array(hidden)) @ v)
    return torch.stack(rows)


CASES = [
    *SOFTMAX,
    byte_case(),
    *STATES,
    rounded_case(),
    bf16_case(),
    stored_case("i8", 127),
    stored_case("i4", 7),
    stored_parts(),
    Case("nn.attention_parts", [Q, K, V], parts(), {"scale": 0.5, "chunk": 4}, 1e-5),
    Case("nn.attention_merge", [parts()], softmax_case(lambda s, t, b, h: True).expected, {}, 1e-5),
    Case("nn.latent_attention", [Q, Q_ROTARY, LATENT, LATENT_ROTARY], latent(), {"scale": 0.3}, 1e-5),
    Case("nn.rotary", [Q, np.cos(ANGLES), np.sin(ANGLES)], rotary(False)),
    Case("nn.rotary", [Q, np.cos(ANGLES), np.sin(ANGLES)], rotary(True), {"interleaved": True}),
    *(linear(name, causal) for name in MAPS for causal in (False, True)),
    *(Case("nn.hedgehog_map", [Q, HEDGEHOG], hedgehog(form), {"form": form}) for form in ("softmax", "exp")),
    Case("nn.inline_attention", [Q, K, V], heads(inline), {"scale": 0.5}, 1e-5),
    Case("nn.inline_attention", [Q, K, V, LOCAL], inline_local(), {"scale": 0.5, "width": 3}, 1e-5),
    Case("nn.hamming_codes", [Q], codes()),
    Case("nn.hash_codes", [Q, ANCHORS, CENTRE, PROJECTION], hashes(), {"sigma": 1.5}),
    *(Case("nn.hamming_attention", [Q > 0, K > 0, V], hamming(n), {"normalise": n}, 1e-5) for n in (True, False)),
    sparse_linear(1, 0, False),
    sparse_linear(1, 1, False),
    sparse_linear(3, 0, False),
    sparse_linear(1, 0, True),
    calibrated(True),
    calibrated(False),
    combiner("fixed", False),
    combiner("fixed", True),
    combiner("axial", True),
    Case("nn.cross_covariance_attention", [Q, K, CHANNELS, TEMPERATURE], heads(xcit, 4, v=CHANNELS), {}, 1e-5),
    Case("nn.kolmogorov_arnold_attention", [Q, K, V, COSINE, SINE, MIX], heads(kolmogorov), {"scale": 0.5}, 1e-5),
]
