"""Writes docs/ir.md: how to read the text form, and a table of all ops made from their declarations.

`python -m nomul.ir.docs > docs/ir.md`; a test compares the file with what this module prints."""

from __future__ import annotations

from itertools import groupby

from nomul.ir.encodings import all_encodings
from nomul.ir.op import REQUIRED, Attribute, OpSpec, all_ops, type_text
from nomul.ir.text import attribute_text
from nomul.ir.types import DType

EXAMPLE = """\
nomul.ir 1
dim S in [1, 512]
weight @l0.wq : f32[64, 64]
weight @l0.wo : f32[64, 64] as bf16
func @main(%x: f32[S, 64]) -> (hidden: f32[S, 64]) {
  %q = nn.linear %x, @l0.wq : f32[S, 64]                                loc("layers.0.self_attn.q_proj")
  %h = call @gelu.0(%q, 0.5) : f32[S, 64]
  %o = nn.linear %h, @l0.wo : f32[S, 64]                                loc("layers.0.self_attn.o_proj")
  %best, %index = index.top_k %o {k=1, axis=1} : f32[S, 1], i64[S, 1]
  %y = ew.add %o, %best : f32[S, 64]
  return %y
}
func @gelu.0(%q: f32[S, 64], %half: f32[]) -> (f32[S, 64]) {
  %g = ew.gelu %q {approximate="tanh"} : f32[S, 64]                     ; only this attribute differs from its default
  %h = ew.mul %g, %half : f32[S, 64]
  return %h
}
"""

INTRO = f"""\
# The intermediate representation

This file is made by `python -m nomul.ir.docs > docs/ir.md`. The ops are declared in `ir/ops/`, one annotated numpy
function each; what the function computes is what the op means.

## How to read it

```
{EXAMPLE}```

- One statement a line. `;` begins a comment. The first line names the form and its version.
- `dim S in [1, 512]`: a size that is known only when the model runs, with its range (`inf`: no upper bound). Sizes are
  integer expressions of dims: `2*S + 1`, `B*S`, `(S + 1)//2` (rounded down).
- `weight @name : type`: a constant tensor. Its data is in the file NAME.safetensors beside NAME.nir. `as ENCODING` says
  how its elements are stored; it does not change what the op computes from them. The files of a dump share one file,
  `weights.safetensors`; `from "name~2"` is the name there, where it is another one.
- `%name` is a value: it is defined once, above its uses, and is not visible in other functions. Names and `loc`, the
  layer of the source model, survive the passes.
- An operand is a value, a weight, a literal, or `_` for an absent optional operand. Literals are `f32` (`0.5`, `1e-05`,
  `inf`, `nan`), `i64` (`3`) or `bool` (`true`) unless they carry a type: `0.5:f16`.
- `{{name=value}}`: attributes that differ from their defaults. Axes and sizes are never negative.
- `: types` at the end are the result types, one for each result. They are recomputed when a file is read and after each
  pass, so a wrong one is an error.
- The results of @main may carry the names that the source model gives its outputs: `-> (logits: f32[S, 10])`.
- `call @f(...)` runs another function of the module; after the pass `group`, each such function is one kernel.
- Names with other characters than letters, digits, `_` and `.` stand in quotes: `@"onnx::MatMul_7"`.
- `level exec` below the first line: @main is a list of kernel runs (`exec.run`) on slots of one arena, not of ops.
- `after fuse.simplify` below it: the module is what that pass left, and `nomul compile` goes on behind it.

Element types: {", ".join(f"`{dtype}`" for dtype in DType)}.

## Ops

Types of operands: an element type or a class (`f` float, `i`, `j` integer, `n` number, `b` bool, `t`, `u` any), the
same letter being the same type throughout a row; in brackets the sizes: `*` broadcasts as in numpy, `...` are leading
sizes that agree, a name agrees with itself, `_any` is any shape. Kind: `elementwise` ops fuse into one kernel, `view`
moves elements only, `anchor` has kernels of its own with element-wise epilogues,
`composed` ops are put together of others before kernels are chosen (`passes/rules/expand/`).
"""


def document() -> str:
    """The whole of docs/ir.md."""
    parts = [INTRO]
    ops = sorted(all_ops().values(), key=lambda spec: spec.name.split("."))
    for family, members in groupby(ops, key=lambda spec: spec.name.split(".")[0]):
        parts.append(f"### `{family}`\n\n{_table(list(members))}")
    parts.append(f"## Encodings of weights\n\n{_encodings()}")
    return "\n".join(parts)


def _table(specs: list[OpSpec]) -> str:
    rows = ["| op | operands | attributes | result | kind | meaning |", "|---|---|---|---|---|---|"]
    for spec in specs:
        operands = "<br>".join(
            f"`{'*' if o.variadic else ''}{o.name}: {o.pattern.text}`{' optional' if o.optional else ''}"
            for o in spec.operands
        )
        attributes = "<br>".join(f"`{_attribute(attribute)}`" for attribute in spec.attributes.values())
        results = "<br>".join(f"`{pattern.text}`" for pattern in spec.results)
        meaning = " ".join(spec.doc.split()).replace("|", "\\|")
        cells = [f"`{spec.name}`", operands, attributes, results, spec.kind.value, meaning]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _attribute(attribute: Attribute) -> str:
    kind = " or ".join(map(attribute_text, attribute.choices)) or type_text(attribute.type)
    shown = f"{attribute.name}: {kind}"
    return shown if attribute.default is REQUIRED else f"{shown} = {attribute_text(attribute.default)}"


def _encodings() -> str:
    rows = ["| encoding | meaning |", "|---|---|"]
    rows += [f"| `{name}` | {' '.join((kind.__doc__ or '').split())} |" for name, kind in all_encodings().items()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(document(), end="")
