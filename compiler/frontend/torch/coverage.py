"""How much of torch's own operator database gives torch's results: `python -m nomul.frontend.torch.coverage`.

Every sample of `op_db` becomes a module, is exported, imported, run by the interpreter and compared. The command writes
docs/torch.md; `--limit N` takes N samples of each operator, `--only NAME` one operator, and then only prints.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree

from nomul.frontend.torch import import_torch
from nomul.frontend.torch.registry import lowered_ops
from nomul.frontend.torch.weights import to_numpy
from nomul.ir.errors import NomulError
from nomul.ir.interpreter import run

_TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1}  # torch keeps sums and inner steps of half precision in f32
PASSED, REFUSED, WRONG, SKIPPED = "passed", "refused", "wrong", "skipped"
_RANDOM = (
    "bernoulli",
    "dropout",
    "rand",
    "normal",
    "multinomial",
    "cauchy",
    "exponential",
    "geometric",
    "uniform",
    "empty",
)


@dataclass
class Outcome:
    """Of one operator: how many samples ended how, and the first message of each ending."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """passed: all samples that torch can export; partly: some refused with a message; refused: all of them."""
        if self.counts[WRONG]:
            return WRONG
        if not self.counts[PASSED]:
            return REFUSED if self.counts[REFUSED] else SKIPPED
        return "partly" if self.counts[REFUSED] else PASSED


class _Call(torch.nn.Module):
    """An operator as a model of its tensor operands."""

    def __init__(self, function: Any, leaves: list[Any], spec: Any) -> None:
        super().__init__()
        self._function = function
        self._fixed = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        self._tensors = [isinstance(leaf, torch.Tensor) for leaf in leaves]
        self._spec = spec

    def forward(self, *tensors: torch.Tensor) -> Any:
        waiting = iter(tensors)
        leaves = [next(waiting) if t else fixed for t, fixed in zip(self._tensors, self._fixed, strict=True)]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return self._function(*args, **kwargs)


def operators() -> list[Any]:
    """op_db without random operators, which no differential test can compare."""
    from torch.testing._internal.common_methods_invocations import op_db

    return [op for op in op_db if "empty" not in op.name and not any(word in op.name for word in _RANDOM)]


def check(op: Any, limit: int, dtype: torch.dtype = torch.float32) -> Outcome:
    """Import and compare the first `limit` samples of one operator."""
    outcome = Outcome(op.formatted_name)
    if dtype not in op.supported_dtypes("cpu"):
        outcome.counts[SKIPPED] += 1
        return outcome
    for sample in itertools.islice(_samples(op, dtype), limit):
        verdict, message = check_sample(op, sample)
        outcome.counts[verdict] += 1
        outcome.messages.setdefault(verdict, message)
    return outcome


def _samples(op: Any, dtype: torch.dtype) -> Iterator[Any]:
    torch.manual_seed(0)
    try:
        yield from op.sample_inputs("cpu", dtype, requires_grad=False)
    except Exception:  # the generator itself needs what is not there (a GPU, scipy)
        return


def check_sample(op: Any, sample: Any) -> tuple[str, str]:
    """(how it ended, why)."""
    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
    tensors = tuple(leaf.detach() for leaf in leaves if isinstance(leaf, torch.Tensor))
    model = _Call(op.op, leaves, spec)
    try:
        with torch.no_grad():
            expected = model(*(tensor.clone() for tensor in tensors))
    except Exception as error:
        return SKIPPED, f"torch itself fails: {_first_line(error)}"
    if not tensors:
        return SKIPPED, "no tensor operand"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = run(import_torch(model, tensors), *(to_numpy(tensor) for tensor in tensors))
    except NomulError as error:
        return _refusal(error)
    except Exception as error:
        return WRONG, f"crash: {type(error).__name__}: {_first_line(error)}"
    return _compare([leaf for leaf in pytree.tree_leaves(expected) if isinstance(leaf, torch.Tensor)], results)


def _refusal(error: NomulError) -> tuple[str, str]:
    """torch.export's own failures are not ours; everything else is a refusal."""
    return (SKIPPED if error.code == "NM200" else REFUSED), f"{error.code}: {error.message}"


def _compare(expected: list[torch.Tensor], results: tuple[np.ndarray, ...]) -> tuple[str, str]:
    if len(expected) != len(results):
        return WRONG, f"{len(results)} results instead of {len(expected)}"
    for want, got in zip(expected, results, strict=True):
        reference = to_numpy(want)
        if got.shape != reference.shape or got.dtype != reference.dtype:
            return WRONG, f"{got.dtype}{list(got.shape)} instead of {reference.dtype}{list(reference.shape)}"
        if not _close(got, reference):
            return WRONG, "other numbers"
    return PASSED, ""


def _close(got: np.ndarray, want: np.ndarray) -> bool:
    if want.dtype.kind in "iub":
        return bool((got == want).all())
    relative = _TOLERANCE.get(want.dtype.name, 1e-4)
    finite = np.isfinite(want)
    scale = float(np.abs(want[finite]).max(initial=1.0))
    wide, exact = got.astype(np.float64), want.astype(np.float64)
    return bool(np.allclose(wide, exact, rtol=relative, atol=0.1 * relative * scale, equal_nan=True))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


# -- the document --------------------------------------------------------------------------------------------------
def document(outcomes: list[Outcome]) -> str:
    """docs/torch.md."""
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    lines = [
        "# PyTorch operators",
        "",
        "Written by `python -m nomul.frontend.torch.coverage`; do not edit.",
        "",
        "A model is exported by `torch.export` and decomposed until only operators of the first list are left; most",
        "others decompose into these. The second list is the outcome of torch's operator database (`op_db`, f32",
        "samples), each sample exported, imported, interpreted and compared with torch.",
        "",
        "`flex_attention` becomes such operators too: its `score_mod` and `mask_mod` are applied to all scores at",
        "once, and rules find one attention op in them, with attributes for causal order, windows, prefixes,",
        "biases by distance and soft caps, and a mask or a bias for the rest. Tiles of a block mask say nothing",
        "more; one without `mask_mod` that leaves tiles out is refused, because torch's eager form ignores it.",
        "Sums of exponentials (`return_lse`) take a product of their own. `torch.export.save` cannot store such a",
        'program: give the module or the program itself. transformers\' `attn_implementation="flex_attention"` is',
        "exported as well; T5's bias by distance only with fixed sizes, since torch cannot trace it inside otherwise.",
        "",
        "Complex numbers inside a model (`view_as_complex`, `polar`, products; rotary positions of Llama's first",
        "release and of DeepSeek-V2) become two tensors each; a complex input or result is refused. A real number",
        "that depends on a dynamic size, such as `(scale / tokens) ** 0.5`, is computed when the model runs, where",
        "it meets a tensor in arithmetic; as an option of an operator it is refused.",
        "",
        "## Operators with a lowering",
        "",
        ", ".join(f"`{name}`" for name in lowered_ops()),
        "",
        "## Operator database",
        "",
        f"{verdicts[PASSED]} operators pass with all samples, {verdicts['partly']} with some samples refused, "
        f"{verdicts[REFUSED]} are refused with a message, {verdicts[WRONG]} differ, "
        f"{verdicts[SKIPPED]} have no f32 sample that torch.export can trace.",
        "",
        *_table(outcomes),
    ]
    return "\n".join(lines) + "\n"


def _table(outcomes: list[Outcome]) -> Iterator[str]:
    yield "| operator | verdict | passed | refused | first message |"
    yield "|---|---|---|---|---|"
    for outcome in sorted(outcomes, key=lambda outcome: outcome.name):
        if outcome.verdict in (PASSED, SKIPPED):
            continue
        message = next((outcome.messages[key] for key in (WRONG, REFUSED) if key in outcome.messages), "")
        counts = f"{outcome.counts[PASSED]} | {outcome.counts[REFUSED]}"
        yield f"| {outcome.name} | {outcome.verdict} | {counts} | {message.replace('|', '/')} |"
    passed = sorted(outcome.name for outcome in outcomes if outcome.verdict == PASSED)
    yield ""
    yield f"Passed: {', '.join(passed)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--limit", type=int, default=4, help="samples of each operator")
    parser.add_argument("--only", help="one operator; prints instead of writing")
    parser.add_argument("--dtype", default="float32", help="element type of the samples; others than f32 only print")
    parser.add_argument("--output", type=Path, default=Path("docs/torch.md"))
    options = parser.parse_args()
    chosen = [op for op in operators() if options.only in (None, op.name, op.formatted_name)]
    outcomes = []
    for number, op in enumerate(chosen):
        outcomes.append(check(op, options.limit, getattr(torch, options.dtype)))
        print(
            f"{number + 1}/{len(chosen)} {outcomes[-1].name}: {outcomes[-1].verdict} {outcomes[-1].messages}",
            flush=True,
        )
    if options.only is None and options.dtype == "float32":
        options.output.write_text(document(outcomes))


if __name__ == "__main__":
    main()
