"""What ops that move elements do to values known by formula: new axes, slices, joins, and reading by such an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nomul.frontend.common import at_most
from nomul.frontend.torch.lazy import ONE, ZERO, Affine, Choice, Lazy, Mask, Shape, Uniform, affine, as_affine
from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.ops.view import resolve_start
from nomul.frontend.torch.registry import rule
from nomul.ir.graph import Value
from nomul.ir.types import DType

_ANY_VIEW = ("flatten", "flip", "reflection_pad1d", "repeat", "roll", "replication_pad1d")


def _same_everywhere(g: Lowering, x: Operand, *unused: Any, **ignored: Any) -> Lazy | None:
    """A uniform value only takes the result's shape."""
    return Uniform(x.dtype, g.shape(), x.number) if isinstance(x, Uniform) else None


rule(*_ANY_VIEW)(_same_everywhere)


def _on_bounds(g: Lowering, x: Operand, change: Any) -> Lazy | None:
    """Apply `change` (Affine -> Affine or Uniform) to a formula, or to the conditions of a mask without tensor."""
    if isinstance(x, Uniform):
        return Uniform(x.dtype, g.shape(), x.number)
    if isinstance(x, Affine):
        return change(x)
    if isinstance(x, Choice):
        mask = _on_bounds(g, x.mask, change)
        return Choice(x.dtype, mask, x.yes, x.no) if isinstance(mask, Mask) else None
    if not isinstance(x, Mask) or x.tensor is not None:
        return None
    bounds = [change(bound) for bound in x.bounds]
    if not all(isinstance(bound, Affine | Uniform) for bound in bounds):
        return None
    return Mask(g.shape(), tuple(bound for bound in map(as_affine, bounds) if bound is not None))


@rule("unsqueeze", "squeeze", "view", "reshape", "_unsafe_view", "view_as", "reshape_as")
def reshape(g: Lowering, x: Operand, *unused: Any, **ignored: Any) -> Lazy | None:
    """Only axes of size 1 come and go."""
    shape = g.shape()

    def change(formula: Affine) -> Affine | Uniform | None:
        kept = [(size, step) for size, step in zip(formula.shape, formula.steps, strict=True) if size != ONE]
        if [size for size in shape if size != ONE] != [size for size, _ in kept]:
            return None
        waiting = iter(kept)
        steps = [ZERO if size == ONE else next(waiting)[1] for size in shape]
        return affine(formula.dtype, shape, steps, formula.offset)

    if isinstance(x, Mask) and x.tensor is not None:
        return _reshaped_mask(g, x, shape, change)
    return _on_bounds(g, x, change)


def _reshaped_mask(g: Lowering, x: Mask, shape: Shape, change: Any) -> Mask | None:
    """New axes of size 1 in front of a mask's tensor need no op."""
    bounds = [change(bound) for bound in x.bounds]
    if any(bound is None for bound in bounds) or len(shape) <= len(x.shape):
        return None
    added = len(shape) - len(x.shape)
    if shape[:added] != (ONE,) * added or shape[added:] != x.shape:
        return None
    return Mask(shape, tuple(bound for bound in map(as_affine, bounds) if bound is not None), x.tensor)


@rule("expand", "expand_as", "broadcast_to")
def expand(g: Lowering, x: Operand, size: Any, implicit: bool = False) -> Lazy | None:
    shape = g.shape()
    if isinstance(x, Mask):
        bounds = tuple(_lead(bound, shape) for bound in x.bounds)
        return Mask(shape, bounds, x.tensor)
    if isinstance(x, Choice):
        return Choice(x.dtype, Mask(shape, tuple(_lead(b, shape) for b in x.mask.bounds), x.mask.tensor), x.yes, x.no)
    return _on_bounds(g, x, lambda formula: formula.with_shape(shape))


def _lead(bound: Affine, shape: Shape) -> Affine:
    return Affine(bound.dtype, shape, (ZERO,) * (len(shape) - len(bound.shape)) + bound.steps, bound.offset)


@rule("permute")
def permute(g: Lowering, x: Operand, dims: Sequence[int]) -> Lazy | None:
    rank = len(x.shape)  # type: ignore[union-attr]
    return _permuted(g, x, [g.axis(axis, rank) for axis in dims])


@rule("transpose.int")
def transpose(g: Lowering, x: Operand, first: int, second: int) -> Lazy | None:
    rank = len(x.shape)  # type: ignore[union-attr]
    perm = list(range(rank))
    first, second = g.axis(first, rank), g.axis(second, rank)
    perm[first], perm[second] = perm[second], perm[first]
    return _permuted(g, x, perm)


@rule("t")
def t(g: Lowering, x: Operand) -> Lazy | None:
    return _permuted(g, x, list(range(len(x.shape)))[::-1])  # type: ignore[union-attr]


def _permuted(g: Lowering, x: Operand, perm: Sequence[int]) -> Lazy | None:
    return _on_bounds(
        g, x, lambda formula: affine(formula.dtype, g.shape(), [formula.steps[axis] for axis in perm], formula.offset)
    )


@rule("slice.Tensor")
def slice_(g: Lowering, x: Operand, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Lazy | None:
    shape = x.shape  # type: ignore[union-attr]
    axis = g.axis(dim, len(shape))
    begin = resolve_start(g, start, shape[axis])
    if g.shape() == shape and begin == ZERO and step == 1:
        return x  # type: ignore[return-value]

    def change(formula: Affine) -> Affine | Uniform:
        steps = list(formula.steps)
        offset = formula.offset + steps[axis] * begin
        steps[axis] = steps[axis] * step
        return affine(formula.dtype, g.shape(), steps, offset)

    return _on_bounds(g, x, change)


@rule("select.int")
def select(g: Lowering, x: Operand, dim: int, index: Any) -> Lazy | None:
    shape = x.shape  # type: ignore[union-attr]
    axis = g.axis(dim, len(shape))
    begin = resolve_start(g, index, shape[axis])

    def change(formula: Affine) -> Affine | Uniform:
        steps = [*formula.steps[:axis], *formula.steps[axis + 1 :]]
        return affine(formula.dtype, g.shape(), steps, formula.offset + formula.steps[axis] * begin)

    return _on_bounds(g, x, change)


@rule("cat")
def cat(g: Lowering, tensors: Sequence[Operand], dim: int = 0) -> Lazy | None:
    """Formulas that go on where the one before ends."""
    formulas = [as_affine(part) for part in tensors]
    if len(formulas) < 2 or any(formula is None or not formula.shape for formula in formulas):
        return None
    axis = g.axis(dim, len(g.shape()))
    whole = formulas[0]
    for part in formulas[1:]:
        assert whole is not None and part is not None
        whole = _joined(whole, part, axis)
        if whole is None:
            return None
    assert whole is not None
    return affine(g.dtype(), g.shape(), whole.steps, whole.offset)


def _joined(first: Affine, second: Affine, axis: int) -> Affine | None:
    size = first.shape[axis]
    step = second.steps[axis] if size == ONE else first.steps[axis]
    if size == ONE and second.shape[axis] == ONE:
        step = second.offset - first.offset
    steps = [(*f.steps[:axis], *f.steps[axis + 1 :]) for f in (first, second)]
    fits = second.shape[axis] == ONE or second.steps[axis] == step
    if steps[0] != steps[1] or not fits or first.offset + step * size != second.offset:
        return None
    shape = (*first.shape[:axis], size + second.shape[axis], *first.shape[axis + 1 :])
    return Affine(first.dtype, shape, (*first.steps[:axis], step, *first.steps[axis + 1 :]), first.offset)


# -- reading by an index that is known by formula ------------------------------------------------------------------
def _compose(x: Affine, indices: Sequence[Affine | None], shape: Shape, keep: Sequence[int]) -> Affine | Uniform:
    """x[indices]: keep[axis] is the result's axis of an axis of x without index."""
    steps, offset = [ZERO] * len(shape), x.offset
    for axis, given in enumerate(indices):
        if given is None:
            steps[keep[axis]] = steps[keep[axis]] + x.steps[axis]
            continue
        lead = len(shape) - len(given.shape)
        offset = offset + x.steps[axis] * given.offset
        for place, step in enumerate(given.steps):
            steps[lead + place] = steps[lead + place] + x.steps[axis] * step
    return affine(x.dtype, shape, steps, offset)


@rule("gather")
def gather(g: Lowering, x: Operand, dim: int, index: Operand, sparse_grad: bool = False) -> Lazy | None:
    formula, given = as_affine(x), as_affine(index)
    if formula is None or given is None or not formula.shape:
        return None
    axis = g.axis(dim, len(formula.shape))
    indices = [given if place == axis else None for place in range(len(formula.shape))]
    return _compose(formula, indices, g.shape(), range(len(formula.shape)))


@rule("index.Tensor")
def index(g: Lowering, x: Operand, indices: Sequence[Operand | None]) -> Operand | None:
    given = [as_affine(each) for each in indices]
    if isinstance(x, Value) and [each for each in indices if each is not None] == [indices[-1]]:
        return _read_axis(g, x, len(indices) - 1, given[-1])
    if isinstance(x, Value) and (beside := _read_beside(g, x, indices)) is not None:
        return beside
    if any(formula is None or formula.bounds(g.ranges)[0] < 0 for formula in given):
        return None
    formula = as_affine(x)
    if formula is not None and len(given) == len(formula.shape):
        return _compose(formula, given, g.shape(), ())
    if isinstance(x, Value):
        return _read(g, x, [each for each in given if each is not None])
    return None


def _read_axis(g: Lowering, x: Value, axis: int, formula: Affine | None) -> Value | None:
    """x[..., i] as a slice, where the index i of rank 1 counts up and stays inside."""
    if formula is None or len(formula.shape) != 1 or formula.bounds(g.ranges)[0] < 0:
        return None
    end = formula.offset + formula.shape[0]
    if _walk(formula, 1) != 0 or not at_most(end, x.shape[axis], g.ranges):
        return None
    return g.slice(x, axis, formula.offset, end)


@rule("embedding")
def embedding(g: Lowering, table: Operand, indices: Operand, *unused: Any, **ignored: Any) -> Operand | None:
    given = as_affine(indices)
    if given is None or not isinstance(table, Value) or given.bounds(g.ranges)[0] < 0:
        return None
    return _read(g, table, [given])


def _read(g: Lowering, x: Value, indices: Sequence[Affine]) -> Value | None:
    """x[i, j, ...] on its leading axes as slices, where each index walks along one result axis of its own."""
    shape = g.shape()
    rest = x.shape[len(indices) :]
    lead = len(shape) - len(rest)
    walks = [_walk(formula, lead) for formula in indices]
    if any(walk is None for walk in walks):
        return None
    places = [place for place in walks if place is not None and place >= 0]
    if len(set(places)) != len(places):
        return None
    ends = [f.offset + (ONE if place == -1 else shape[place]) for f, place in zip(indices, walks, strict=True)]  # type: ignore[index]
    if not all(at_most(end, size, g.ranges) for end, size in zip(ends, x.shape, strict=False)):
        return None  # an index may be outside: let a gather deal with it
    for axis, (formula, end) in enumerate(zip(indices, ends, strict=True)):
        x = g.slice(x, axis, formula.offset, end)
    order = sorted(range(len(indices)), key=lambda axis: walks[axis] or 0)
    x = g.transpose(x, [*order, *range(len(indices), x.type.rank)])
    narrow = [shape[place] if place in places else ONE for place in range(lead)]
    return g.expand(g.reshape(x, (*narrow, *rest)), shape)


def _read_beside(g: Lowering, x: Value, indices: Sequence[Operand | None]) -> Value | None:
    """x[i, j, ...] where one index is any and does not change along the result axes that the others walk along: slices
    and a gather, as of a table of biases by distance and head."""
    shape = g.shape()
    lead = len(shape) - (x.type.rank - len(indices))
    formulas = [as_affine(each) for each in indices]
    walks = [None if formula is None else _walk(formula, lead) for formula in formulas]
    places = [place for place in walks if place is not None]
    if len(indices) - len(places) != 1 or not places or -1 in places or len(set(places)) != len(places):
        return None
    (axis,) = (at for at, place in enumerate(walks) if place is None)
    free = [place for place in range(lead) if place not in places]
    picked = _without_axes(g, indices[axis], lead, places)
    if picked is None:
        return None
    for at, (formula, place) in enumerate(zip(formulas, walks, strict=True)):
        if formula is None or place is None:
            continue
        end = formula.offset + shape[place]
        if formula.bounds(g.ranges)[0] < 0 or not at_most(end, x.shape[at], g.ranges):
            return None
        x = g.slice(x, at, formula.offset, end)
    x = g.b.index.gather(x, picked, axis=axis)
    found = [*walks[:axis], *free, *walks[axis + 1 :]]
    order = sorted(range(lead), key=found.__getitem__)  # type: ignore[arg-type]
    return g.expand(g.transpose(x, [*order, *range(lead, x.type.rank)]), shape)


def _without_axes(g: Lowering, index: Operand | None, lead: int, places: Sequence[int]) -> Value | None:
    """An index, broadcast to `lead` axes, without those of `places`; None where it is not the same all along them."""
    if not isinstance(index, Affine | Value) or (isinstance(index, Value) and index.dtype is DType.BOOL):
        return None
    shape = (ONE,) * (lead - len(index.shape)) + index.shape
    free = [place for place in range(lead) if place not in places]
    if isinstance(index, Affine):
        wide = index.with_shape(shape)
        if isinstance(wide, Affine) and not set(wide.moving) & set(places):
            steps = [wide.steps[place] for place in free]
            return g.tensor(affine(wide.dtype, tuple(shape[place] for place in free), steps, wide.offset))
        return None
    if any(shape[place] != ONE for place in places):
        return None
    return g.reshape(index, [shape[place] for place in free])


def _walk(formula: Affine, lead: int) -> int | None:
    """The result axis along which an index counts 0, 1, 2, ... from its offset; -1 when it stands still, None else."""
    moving = formula.moving
    if not moving:
        return -1
    if len(moving) > 1 or formula.steps[moving[0]] != ONE:
        return None
    return lead - len(formula.shape) + moving[0]
