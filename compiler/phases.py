"""Every phase and pass that works on tensors, in order. Kernels and the arena come after them (`pipeline.py`)."""

from __future__ import annotations

from nomul.passes.channels_last import ChannelsLast
from nomul.passes.common_subexpressions import CommonSubexpressions
from nomul.passes.dead_code import DeadCode
from nomul.passes.encode import Encode
from nomul.passes.fold_constants import FoldConstants
from nomul.passes.fold_makers import FoldMakers
from nomul.passes.group import Group
from nomul.passes.inline_calls import InlineCalls
from nomul.passes.merge_linears import MergeLinears
from nomul.passes.quantise_inputs import QuantiseInputs
from nomul.passes.rewrite import Rewrite
from nomul.passes.runner import Fixpoint, Phase


def phases(encode: Encode | None = None) -> list[Phase]:
    """From an imported module to one whose @main only calls fused groups. encode: with its recipe."""
    clean = Fixpoint((Rewrite("simplify"), FoldConstants(), CommonSubexpressions(), DeadCode()))
    fuse = Fixpoint((Rewrite("fuse"), *clean.passes))
    layout = Fixpoint((Rewrite("layout"), *clean.passes))
    arrange = Fixpoint((Rewrite("arrange"), *clean.passes))
    return [
        Phase("clean", (InlineCalls(), clean)),
        Phase("fuse", (fuse,)),
        Phase("encode", (encode or Encode(),)),
        Phase("merge", (MergeLinears(), clean)),
        Phase("layout", (ChannelsLast(), layout)),
        Phase("group", (FoldMakers(), QuantiseInputs(), arrange, Group(), DeadCode())),
    ]
