"""Every phase and pass that works on tensors, in order. Kernels and the arena come after them (`pipeline.py`)."""

from __future__ import annotations

from nomul.passes.channels_last import ChannelsLast
from nomul.passes.common_subexpressions import CommonSubexpressions
from nomul.passes.dead_code import DeadCode
from nomul.passes.encode import Encode
from nomul.passes.exchange_attention import ExchangeAttention
from nomul.passes.fold_constants import FoldConstants
from nomul.passes.fold_makers import FoldMakers
from nomul.passes.group import Group
from nomul.passes.inline_calls import InlineCalls
from nomul.passes.merge_linears import MergeLinears
from nomul.passes.quantise_inputs import QuantiseInputs
from nomul.passes.rewrite import Rewrite
from nomul.passes.runner import Fixpoint, Phase
from nomul.passes.split_columns import SplitColumns
from nomul.passes.store_cache import StoreCache
from nomul.passes.transforms.column_scale import ColumnScale
from nomul.passes.transforms.dictionary import Dictionary
from nomul.passes.transforms.fast_product import FastProduct
from nomul.passes.transforms.low_rank import LowRank
from nomul.passes.transforms.permute import Permute
from nomul.passes.transforms.rotate import Rotate
from nomul.passes.transforms.smooth import Smooth

TRANSFORMS = (LowRank, Dictionary, Smooth, ColumnScale, Permute, Rotate, FastProduct)


def phases(encode: Encode | None = None) -> list[Phase]:
    """From an imported module to one whose @main only calls fused groups. encode: with its recipe, of which the
    passes in front of it do what its rules ask for."""
    encode = encode or Encode()
    exchange = ExchangeAttention(encode.recipe, encode.batches)
    transforms = [kind(encode.recipe, encode.batches) for kind in TRANSFORMS]
    clean = Fixpoint((Rewrite("simplify"), FoldConstants(), CommonSubexpressions(), DeadCode()))
    fuse = Fixpoint((Rewrite("fuse"), *clean.passes))
    layout = Fixpoint((Rewrite("layout"), *clean.passes))
    arrange = Fixpoint((Rewrite("arrange"), *clean.passes))
    return [
        Phase("clean", (InlineCalls(), clean)),
        Phase("fuse", (fuse,)),
        Phase("exchange", (exchange, clean)),
        Phase("transform", (*transforms, clean)),
        Phase("encode", (encode,)),
        Phase("merge", (MergeLinears(), clean)),
        Phase("expand", (StoreCache(), Rewrite("expand"), clean)),
        Phase("layout", (ChannelsLast(), layout)),
        Phase("group", (FoldMakers(), QuantiseInputs(), SplitColumns(), arrange, Group(), DeadCode())),
    ]
