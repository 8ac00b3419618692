"""What forms of attention have in common: the layers that they replace, what these ask of them, their options."""

from __future__ import annotations

import difflib
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nomul.ir.graph import Module, Node, Value
from nomul.ir.registry import modules_of
from nomul.passes.exchange.demands import demands
from nomul.passes.rule import Rewriter

ANY = "*"
Operands = Sequence["np.ndarray | None"]  # of an attention node in one run over calibration data
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


@dataclass(frozen=True)
class AttentionLayer:
    """A softmax attention of @main. names: what recipes may call it, the first one unique in the module."""

    node: Node
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def operands(self) -> tuple[Value, Value, Value]:
        """q [B, S, H, D], k [B, T, G, D], v [B, T, G, E]."""
        q, k, v = self.node.args[:3]
        assert q is not None and k is not None and v is not None
        return q, k, v


@dataclass(frozen=True)
class Form:
    """Subclasses are frozen dataclasses of int, float and str fields, the options of a rule; `__post_init__` raises
    ValueError for values that cannot be.

    name: in recipes.  takes: names of the demands (`demands.py`) of softmax attention that it can meet.
    files: the options that are paths, from the folder of the recipe."""

    name: ClassVar[str] = ""
    takes: ClassVar[frozenset[str]] = frozenset()
    files: ClassVar[tuple[str, ...]] = ()

    @property
    def is_change(self) -> bool:
        """Whether it is another than what models have."""
        return True

    @property
    def learns(self) -> bool:
        """Whether `prepare` and `build` want calibration data."""
        return False

    def refusal(self, layer: AttentionLayer) -> str | None:
        """Why it cannot take the place of the layer's attention, or None."""
        missing = [text for name, text in demands(layer.node).items() if name not in self.takes]
        return f"{self.name} attention cannot express {' and '.join(missing)}" if missing else None

    def prepare(self, module: Module, layer: AttentionLayer, samples: Sequence[Operands]) -> str | None:
        """What it changes in front of the layer, before `build`; a line that tells the user of it, or None."""
        return None

    def build(self, g: Rewriter, layer: AttentionLayer, samples: Sequence[Operands]) -> Value:
        """What replaces the layer's result. samples: operands of its node on calibration data, where it `learns`."""
        raise NotImplementedError

    def __str__(self) -> str:
        given = [(field.name, getattr(self, field.name)) for field in fields(self)]
        given = [(name, Path(value).name if name in self.files else value) for name, value in given]
        told = [f"{name}={value}" for name, value in given if value not in ("", None)]
        return f"{self.name}<{', '.join(told)}>" if told else self.name


@dataclass(frozen=True)
class AttentionRule:
    """match: glob over the names of attention layers; the first rule of a recipe that takes a layer decides."""

    match: str
    form: Form

    def takes(self, layer: AttentionLayer) -> bool:
        return any(fnmatchcase(name, self.match) for name in layer.names)


def attention_layers(module: Module) -> list[AttentionLayer]:
    """Every softmax attention of @main in order. Names are the source module (unique: else the name of the value), all
    of its `loc`, and the value."""
    nodes = [node for node in module.main.nodes if node.op == "nn.attention"]
    sources = {node: _source_module(node.loc or "") for node in nodes}
    counts = Counter(sources.values())
    layers = []
    for node in nodes:
        value, source = node.result.name, sources[node]
        names = (source, node.loc or "", value) if source and counts[source] == 1 else (value, source, node.loc or "")
        layers.append(AttentionLayer(node, tuple(dict.fromkeys(filter(None, names)))))
    return layers


def _source_module(loc: str) -> str:
    """The module that computes it: of `layer.0.attention:sdpa` the first half; of an ONNX exporter's path
    `/layer/layer.0/attention/MatMul` that in the same words, `layer.0.attention`, so that one recipe fits both."""
    if not loc.startswith("/"):
        return loc.partition(":")[0]
    parts = [part for part in loc.split("/")[:-1] if part]
    return ".".join(
        part for part, inner in zip(parts, [*parts[1:], ""], strict=False) if not inner.startswith(f"{part}.")
    )


@cache
def all_forms() -> dict[str, type[Form]]:
    """Every form by name."""
    kinds = [kind for module in modules_of("nomul.passes.exchange") for kind in vars(module).values()]
    found = [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, Form) and kind.name]
    return {kind.name: kind for kind in sorted(found, key=lambda kind: kind.name)}


def read_form(name: str, options: Mapping[str, Any], folder: Path | None = None) -> Form:
    """The form with these options. folder: where relative paths among them begin.

    Raises ValueError for words that there are not and values that cannot be."""
    if name not in all_forms():
        near = difflib.get_close_matches(str(name), all_forms(), 1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"there is no form '{name}' of attention{guess}, but {', '.join(all_forms())}")
    kind = all_forms()[name]
    known = {field.name: field for field in fields(kind)}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"form {name} has no option '{key}', but {', '.join(known) or 'none'}")
        types = _TYPES[str(known[key].type)]
        if isinstance(value, bool) or not isinstance(value, types):
            raise ValueError(f"option {key} of form {name} is of type {known[key].type}, not {value!r}")
    given = {key: str((folder or Path()) / value) if key in kind.files else value for key, value in options.items()}
    try:
        return kind(**given)
    except TypeError:
        required = [field.name for field in inspect.signature(kind).parameters.values() if field.default is field.empty]
        raise ValueError(f"form {name} needs the option {' and '.join(required)}") from None
