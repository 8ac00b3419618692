"""What a depthwise convolution gets from a rule for many layers, since its kernels have but few weights."""

from __future__ import annotations

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
from nomul.passes.layers import Layer

ROLE = "depthwise"
MANY_TAPS = 25  # of a kernel, from which on products of eight bits make up for quantising the input


def encoding_of(encoding: Encoding, rule: Rule, layer: Layer) -> tuple[Encoding | None, str | None]:
    """The encoding that a rule has for a layer where it fits; else what stands in for it (None: f32), and why."""
    if ROLE not in layer.roles:
        return fitting(encoding, _shape(layer))
    if isinstance(encoding, Grouped):
        encoding = regrouped(encoding, 0)
    if rule.role == ROLE:
        return fitting(encoding, _shape(layer))
    if isinstance(encoding, SixteenBit) or (isinstance(encoding, Int8) and not encoding.zero):
        return encoding, None
    return get_encoding("int8"), f"only rules with role '{ROLE}' give it to kernels of {_taps(layer)} weights"


def with_inputs_of(rule: Rule, layer: Layer) -> Rule:
    """The rule with the inputs that the layer gets: in floats where a kernel has few taps and no rule of its own."""
    if ROLE not in layer.roles or rule.role == ROLE or rule.act == PLAIN:
        return rule
    return replace(rule, act=rule.act if _taps(layer) >= MANY_TAPS else PLAIN, levels=LEVELS)


def _taps(layer: Layer) -> int:
    return prod(_shape(layer)[1:])


def _shape(layer: Layer) -> tuple[int, ...]:
    return tuple(int(size) for size in layer.weight.shape)
