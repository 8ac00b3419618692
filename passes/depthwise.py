"""What a depthwise convolution gets from a rule for many layers, since its kernels have but few weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from nomul.ir.encodings import Encoding, get_encoding
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.half import SixteenBit
from nomul.ir.encodings.integer import Int8
from nomul.ir.quantise import LEVELS
from nomul.passes.choice import PLAIN, Rule
from nomul.passes.fallback import fitting
from nomul.passes.fit.solve.lattice import regrouped

ROLE = "depthwise"
MANY_TAPS = 25  # of a kernel, from which on products of eight bits make up for quantising the input


def encoding_of(rule: Rule, roles: Sequence[str], shape: tuple[int, ...]) -> tuple[Encoding | None, str | None]:
    """The encoding that a rule has for weights of this shape where it fits; else what stands in for it (None: f32), and
    why."""
    encoding = rule.encoding
    if encoding is None or ROLE not in roles:
        return fitting(encoding, shape) if encoding else (None, None)
    if isinstance(encoding, Grouped):
        encoding = regrouped(encoding, 0)
    if rule.role == ROLE:
        return fitting(encoding, shape)
    if isinstance(encoding, SixteenBit) or (isinstance(encoding, Int8) and not encoding.zero):
        return encoding, None
    return get_encoding("int8"), f"only rules with role '{ROLE}' give it to kernels of {_taps(shape)} weights"


def with_inputs_of(rule: Rule, roles: Sequence[str], shape: tuple[int, ...]) -> Rule:
    """The rule with the inputs that the layer gets: in floats where a kernel has few taps and no rule of its own."""
    if ROLE not in roles or rule.role == ROLE or rule.act == PLAIN:
        return rule
    return replace(rule, act=rule.act if _taps(shape) >= MANY_TAPS else PLAIN, levels=LEVELS)


def _taps(shape: tuple[int, ...]) -> int:
    return prod(shape[1:])
