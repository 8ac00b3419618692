"""Ops that are part of the graph itself: a call of another function, and (level exec) a kernel run on arena slots."""

from __future__ import annotations

from nomul.ir.op import Kind, op


@op("call", Kind.STRUCTURE)
def call(*args: "t[_any]", func: str) -> "t[...]":
    """The results of function @func; its private functions are the fused groups, one kernel each.

    Result types come from the function, so nodes of this op are made by `nomul.ir.structure.insert_call`."""
    raise NotImplementedError("the interpreter evaluates calls itself")


@op("exec.run", Kind.STRUCTURE)
def run(
    *args: "t[_any]", func: str, kernel: str, slots: tuple[int, ...] = (), inplace: tuple[int, ...] = ()
) -> "t[...]":
    """The results of function @func, computed by the named kernel into arena slots.

    slots: one per result, -1 where the result is an output of the model. inplace: positions of operands that the kernel
    may overwrite with its (only) result. Made by backends, placed by `passes/plan_memory`."""
    raise NotImplementedError("the interpreter evaluates calls itself")


@op("exec.view", Kind.STRUCTURE)
def view(x: "t[...]", *, shape: tuple[int, ...] = ()) -> "t[...]":
    """The same bytes under another shape: no kernel runs."""
    raise NotImplementedError("the interpreter evaluates calls itself")
