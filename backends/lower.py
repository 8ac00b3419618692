"""From TIRx functions to machine code: plain C symbols in one relocatable object, with no other symbol needed.

The passes are those of TVM's default s_tir list that our functions need, without those that wrap a function for TVM's
own runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.stmt import SBlockRealize

from nomul.backends.target import Target


def lower_to_object(functions: Mapping[str, Any], target: Target) -> bytes:
    """An object file of `target`'s format. functions: PrimFuncs with the kernel interface, by symbol."""
    module = _code(functions, target)
    with TemporaryDirectory(prefix="nomul-") as folder:
        path = Path(folder) / "kernels.o"
        module.write_to_file(str(path))
        return path.read_bytes()


def lower_to_text(function: Any, target: Target, symbol: str = "kernel") -> dict[str, str]:
    """What becomes of one function: "tir" (lowered TIRx), "ll" (optimised LLVM IR) and "s" (assembly)."""
    lowered = _lowered({symbol: function}, target)
    module = _generate(lowered, target)
    return {"tir": lowered.script(), "ll": module.inspect_source("ll"), "s": module.inspect_source("s")}


def llvm_target(target: Target) -> Any:
    """TVM's description of a target."""
    description = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu, "mattr": list(target.attributes)}
    return tvm.target.Target(description)


def _code(functions: Mapping[str, Any], target: Target) -> Any:
    return _generate(_lowered(functions, target), target)


def _generate(lowered: Any, target: Target) -> Any:
    return tvm.get_global_func("target.build.llvm")(lowered, llvm_target(target))


def _lowered(functions: Mapping[str, Any], target: Target) -> Any:
    scheduled = {name: function for name, function in functions.items() if _has_blocks(function.body)}
    written = {name: function for name, function in functions.items() if name not in scheduled}
    module = tvm.IRModule({})
    with tvm.transform.PassContext(opt_level=3), llvm_target(target):
        for group, passes in ((scheduled, [*_block_passes(), *_final_passes()]), (written, _final_passes())):
            named = {name: function.with_attr("global_symbol", name) for name, function in group.items()}
            part = tirx.transform.BindTarget(llvm_target(target))(tvm.IRModule(named))
            module.update(tvm.ir.transform.Sequential(passes)(part))
    return module


def _has_blocks(statement: Any) -> bool:
    """Whether a function comes from tensor expressions: their blocks and many-dimensional buffers need more passes."""
    if isinstance(statement, tirx.SeqStmt):
        return any(_has_blocks(part) for part in statement)
    return isinstance(statement, SBlockRealize)


def _block_passes() -> list[Any]:
    return [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        s_tir.transform.LoopPartition(),
        s_tir.transform.HoistIfThenElse(),
        s_tir.transform.RenormalizeSplitPattern(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.CommonSubexprElim(),
    ]


def _final_passes() -> list[Any]:
    """All that a hand-written function needs: TVM's simplifiers are slow on chains of bound values."""
    return [tirx.transform.VectorizeLoop(True), tirx.transform.UnrollLoop(), tirx.transform.LowerIntrin()]
