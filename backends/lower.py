"""From TIRx functions to machine code: plain C symbols in one relocatable object, with no other symbol needed.

Kernels have pointer parameters and flat buffers, so few of TVM's passes are needed, and none that wraps a function for
TVM's own runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nomul.backends import tvm_alone  # noqa: F401  (before tvm)

# isort: split

import tvm
from tvm import tirx

from nomul.backends.listing import Show, show_functions
from nomul.backends.share import share
from nomul.backends.target import Target


def lower_to_object(
    functions: Mapping[str, Any], target: Target, show: Show | None = None, brief: bool = False
) -> bytes:
    """An object file of `target`'s format. functions: PrimFuncs with the kernel interface, by symbol.

    show: called with the symbol, the kind and the text of what becomes of each: "tir" (lowered TIRx), "ll" (optimised
    LLVM IR) and "s" (assembly); what kernels share has a symbol of its own. brief: only "ll"."""
    lowered = _lowered(functions, target)
    module = _generate(lowered, target)
    if show:
        show_functions(lowered, module, show, brief)
    with TemporaryDirectory(prefix="nomul-") as folder:
        path = Path(folder) / "kernels.o"
        module.write_to_file(str(path))
        return path.read_bytes()


def llvm_target(target: Target) -> Any:
    """TVM's description of a target.

    Kernels are unrolled by hand where that pays: at level 3 LLVM unrolls further loops in full, which was no faster
    and took up to half as much code again (docs/kernels.md)."""
    description = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu, "mattr": list(target.attributes)}
    return tvm.target.Target({**description, "opt-level": 2})


def _generate(lowered: Any, target: Target) -> Any:
    return tvm.get_global_func("target.build.llvm")(lowered, llvm_target(target))


def _lowered(functions: Mapping[str, Any], target: Target) -> Any:
    named = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    with tvm.transform.PassContext(opt_level=3), llvm_target(target):
        module = tirx.transform.BindTarget(llvm_target(target))(tvm.IRModule(share(named)))
        return tvm.ir.transform.Sequential(_passes())(module)


def _passes() -> list[Any]:
    """All that kernels need: TVM's simplifiers are slow on chains of bound values, and LLVM does that work anyway."""
    return [tirx.transform.VectorizeLoop(True), tirx.transform.UnrollLoop(), tirx.transform.LowerIntrin()]
