"""Our side: an artifact with one nn.linear for each copy; the quantisation of inputs and all preparation are in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
from linear_case import Loaded, Shape, System, Work

import nomul
from nomul.backends import build
from nomul.ir.encodings import Encoding
from nomul.ir.graph import Module, Weight
from nomul.ir.parser import parse_module
from nomul.ir.syntax import parse_encoding

ENCODINGS = (
    "int8",
    "int4<group=128>",
    "int4<group=32>",
    "ternary<group=128>",
    "ternary<group=128, pack=base3>",
    "ternary<group=128, pack=base3> act_levels=42",
    "ternary<group=128, pack=3of4>",
    "ternary<group=128, pack=3of4> act_levels=42",
    "ternary<planes=2, group=128>",
    "bitplane<bits=1, group=128>",
    "bitplane<bits=2, group=128>",
    "bitplane<bits=2, group=128> act_levels=25",
    "bitplane<bits=4, group=128>",
    "bitplane<bits=2, group=128, tied=1>",
    "bitplane<bits=3, group=128, tied=1>",
    "bitplane<bits=4, group=128, tied=1>",
    "codebook<grid=nf4, group=128>",
    "shift<group=128>",
    "shift<terms=2, group=128>",
    "nm<n=2, m=4, value=int8>",
)
_FORM = re.compile(r"(\w+(?:<.*>)?)((?: +\w+=[-+.\w]+)*)$")


def systems(target: str = "host", encodings: Sequence[str] = ENCODINGS, huge_pages: bool = False) -> Iterator[System]:
    """One for each of `encodings`, `ENCODING [KEY=VALUE ...]` with attributes of nn.linear; huge_pages: of `load`."""
    name = "nomul, huge pages" if huge_pages else "nomul"
    for text in encodings:
        attributes = parse(text)[1]
        tolerance = 1e-4 if attributes["act"] == "f32" else 2.5 / float(attributes.get("act_levels", 127))
        yield System(
            name,
            text,
            lambda work, text=text: _load(work, text, target, huge_pages),  # type: ignore[misc]
            tolerance,
        )


def parse(text: str) -> tuple[Encoding, dict[str, str]]:
    """The encoding, and the attributes of nn.linear. Raises ValueError."""
    found = _FORM.match(text.strip())
    if found is None:
        raise ValueError(f"'{text}' is not ENCODING [KEY=VALUE ...]")
    words = [word.partition("=") for word in found[2].split()]
    return parse_encoding(found[1]), {"act": "i8"} | {name: value for name, _, value in words}


def _load(work: Work, text: str, target: str, huge_pages: bool) -> Loaded:
    encoding, _ = parse(text)
    fields, dense = _weights(work.shape, encoding)
    copies = work.copies(sum(field.nbytes for field in fields.values()))
    artifact, layer_bytes = _compile(work.shape, text, target, copies, work.max_rows, huge_pages)
    kernels = [step.rpartition(" by ")[2] for step in artifact.facts["steps"] if "linear" in step]
    return Loaded(layer_bytes, copies, dense, lambda values: artifact(*values, threads=work.threads), kernels[0])


@cache
def _weights(shape: Shape, encoding: Encoding) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    """Packed fields of the whole weights, and the rows that repeat, as stored."""
    packed = encoding.pack(shape.matrix)
    dense = encoding.unpack(packed, shape.matrix.shape)
    return {name: field if name in encoding.shared else shape.whole(field) for name, field in packed.items()}, dense


@cache
def _compile(
    shape: Shape, text: str, target: str, copies: int, max_rows: int, huge_pages: bool
) -> tuple[nomul.Artifact, int]:
    """The artifact, and the bytes of one layer's weights in it."""
    module = _module(shape, text, copies, max_rows)
    known: dict[tuple[str | None, str], Mapping[str, np.ndarray]] = {}

    def packed_once(weight: Weight, layout: str | None) -> Mapping[str, np.ndarray]:
        """All copies have the same weights, which are brought into the kernel's layout once (both parts of `split`)."""
        key = layout, str(weight.type)
        if key not in known:
            known[key] = packed_fields(weight, layout)
        return known[key]

    packed_fields = build.packed_fields
    with mock.patch.object(build, "packed_fields", packed_once):
        artifact = _compiled(module, target, huge_pages)
    return artifact, sum(field.nbytes for fields in known.values() for field in fields.values())


def _compiled(module: Module, target: str, huge_pages: bool) -> nomul.Artifact:
    """Loaded without a look at all bytes; the open file outlives its folder."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "linear.so"
        nomul.build(module, output=path, target=target)
        return nomul.load(path, verify=False, huge_pages=huge_pages)


def _module(shape: Shape, text: str, copies: int, max_rows: int) -> Module:
    encoding, attributes = parse(text)
    given = ", ".join(f"{name}={value if _is_number(value) else repr(value)}" for name, value in attributes.items())
    given = f" {{{given}}}".replace("'", '"') if attributes["act"] != "f32" else ""
    n, k, every = shape.n, shape.k, range(copies)
    lines = ["nomul.ir 1", f"dim M in [1, {max_rows}]"]
    lines += [f"weight @w{i} : f32[{n}, {k}] as {encoding}" for i in every]
    parameters = ", ".join(f"%x{i}: f32[M, {k}]" for i in every)
    lines.append(f"func @main({parameters}) -> ({', '.join([f'f32[M, {n}]'] * copies)}) {{")
    lines += [f"  %y{i} = nn.linear %x{i}, @w{i}{given} : f32[M, {n}]" for i in every]
    lines += [f"  return {', '.join(f'%y{i}' for i in every)}", "}", ""]
    module = parse_module("\n".join(lines))
    for weight in module.weights.values():
        weight.fields = dict(_weights(shape, encoding)[0])
    return module


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+.\deE]+", text) is not None
