"""Walks the graph of an ExportedProgram and lowers it node by node into a module of the IR."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.export.graph_signature import InputKind, OutputKind

from nomul.frontend.common import BAD_NODE, UNSUPPORTED_FORM, value_name
from nomul.frontend.torch.complex import Complex, call_on_complex, has_complex, takes_complex
from nomul.frontend.torch.dtypes import dtype_of
from nomul.frontend.torch.errors import Unsupported, node_loc, problem
from nomul.frontend.torch.lazy import Affine, Choice, Lazy, Mask, Uniform
from nomul.frontend.torch.lowering import Lowering
from nomul.frontend.torch.naming import output_names
from nomul.frontend.torch.reals import real, refuse_reals
from nomul.frontend.torch.registry import handler_of, rule_of
from nomul.frontend.torch.support import SIZES, is_check, is_inlined, short_name, unsupported_ops
from nomul.frontend.torch.symbols import Symbols
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Func, Module, Value
from nomul.ir.op import TypeFault
from nomul.ir.types import Tensor

# Where and how a tensor lies in memory is ours to decide.
_IGNORED = ("device", "layout", "pin_memory", "memory_format", "non_blocking")


class Importer:
    """One import. problems: everything that could not be lowered, in order of the graph."""

    def __init__(self, program: torch.export.ExportedProgram, symbols: Symbols) -> None:
        self.program = program
        self.module = Module(dims=dict(symbols.ranges), origin=f"torch {torch.__version__.partition('+')[0]}")
        self.lowering = Lowering(self.module, symbols)
        self.problems: list[Problem] = []

    def run(self) -> Module:
        """Raises NomulError with all problems."""
        self.problems += unsupported_ops(self.program)
        values = self._inputs()
        outputs = self._graph(self.program.graph_module, values)
        self._outputs(outputs)
        if self.problems:
            raise NomulError.many(self.problems)
        self._sweep()
        return self.module

    # -- inputs and outputs ------------------------------------------------------------------------------------
    def _inputs(self) -> list[Any]:
        """A value for each placeholder: parameters of @main, weights, and None for what is neither."""
        nodes = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        params, values = [], []
        for node, spec in zip(nodes, self.program.graph_signature.input_specs, strict=True):
            self.lowering.node = node
            value = self._guarded(node, "input", partial(self._input, node, spec))
            values.append(value)
            if spec.kind is InputKind.USER_INPUT and isinstance(value, Value):
                params.append(value)
        self.lowering.enter(self.module.add_func(Func("main", params)))
        return values

    def _input(self, node: Any, spec: Any) -> Any:
        if spec.kind is InputKind.USER_INPUT:
            fake = node.meta.get("val")
            if isinstance(fake, torch.Tensor):
                shape = self.lowering.symbols.shape(fake.shape)
                return Value(value_name(node.name), Tensor(dtype_of(fake.dtype), shape))
            if isinstance(fake, SIZES):
                raise Unsupported(UNSUPPORTED_FORM, "a size as an input of the model is not supported", "pass a tensor")
            return fake
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            state = self.program.state_dict
            tensor = state[spec.target] if spec.target in state else self.program.constants[spec.target]
            weights, trained = self.lowering.weights, spec.kind is InputKind.PARAMETER
            if not tensor.is_complex():
                return weights.constant(spec.target, tensor, trained)
            parts = {"real": tensor.real, "imag": tensor.imag}
            return Complex(*(weights.constant(f"{spec.target}.{name}", part, trained) for name, part in parts.items()))
        raise Unsupported(UNSUPPORTED_FORM, f"an input of kind {spec.kind.name.lower()} is not supported")

    def _outputs(self, values: Sequence[Any]) -> None:
        names = iter(output_names(self.program))
        for value, spec in zip(values, self.program.graph_signature.output_specs, strict=True):
            if spec.kind is not OutputKind.USER_OUTPUT:
                self.problems.append(_mutation(spec))
                continue
            name = next(names)
            if value is None or value is _UNKNOWN or isinstance(value, bool | int | float | str):
                continue  # known before the model runs, or reported
            if isinstance(value, Complex):
                message = f"the result '{name}' is complex"
                self.problems.append(Problem(UNSUPPORTED_FORM, message, help="return torch.view_as_real of it"))
                continue
            self._output(value, value_name(name))

    def _output(self, value: Any, name: str) -> None:
        lowering = self.lowering
        lowering.b.loc = None
        result = lowering.tensor(value)
        if result.producer is None or any(result is other for other in self.module.main.returns):
            result = lowering.b.view.reshape(result, shape=result.shape)
        self.module.main.returns.append(result)
        if result.name != name:
            self.module.main.rename(result, name)

    # -- the graph ---------------------------------------------------------------------------------------------
    def _graph(self, graph_module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Sequence[Any]:
        """Lower every node; the values of the graph's outputs."""
        values: dict[torch.fx.Node, Any] = {}
        waiting = iter(inputs)
        for node in graph_module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(waiting)
            elif node.op == "get_attr":
                values[node] = getattr(graph_module, node.target)
            elif node.op == "output":
                result = torch.fx.node.map_arg(node.args[0], values.__getitem__)
                return result if isinstance(result, tuple | list) else (result,)
            else:
                values[node] = self._node(node, values)
        raise AssertionError("a graph without output")

    def _node(self, node: torch.fx.Node, values: Mapping[torch.fx.Node, Any]) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        if any(value is _UNKNOWN for value in _leaves((args, kwargs))):
            return _UNKNOWN
        name = short_name(node.target)
        self.lowering.node = node
        self.lowering.b.loc = node_loc(node, name)
        return self._guarded(node, name, lambda: self._lower(node, args, kwargs))

    def _guarded(self, node: torch.fx.Node, op: str, lower: Callable[[], Any]) -> Any:
        """The result, or _UNKNOWN after noting why there is none; what depends on it is not looked at."""
        try:
            return lower()
        except Unsupported as fault:
            self.problems.append(problem(node, op, fault.code, fault.message, fault.help))
        except TypeFault as fault:
            self.problems.append(problem(node, op, BAD_NODE, fault.message))
        return _UNKNOWN

    def _lower(self, node: torch.fx.Node, args: Any, kwargs: dict[str, Any]) -> Any:
        result = node.meta.get("val")
        if isinstance(result, SIZES | int | float):
            return self._size(result)
        if node.target is operator.getitem:
            return self._part(args[0], args[1])
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._inline(node, args) if is_inlined(node.target) else _UNKNOWN
        if is_check(node.target):
            return None
        return self._call(node.target, args, {key: value for key, value in kwargs.items() if key not in _IGNORED})

    @staticmethod
    def _part(results: Sequence[Any], index: int) -> Any:
        """One of several results. Lowerings leave out what only a backward pass needs."""
        part = results[index] if index < len(results) else None
        if part is None:
            raise Unsupported(UNSUPPORTED_FORM, f"result {index} of the operator is not computed")
        return part

    def _size(self, result: Any) -> Any:
        symbols = self.lowering.symbols
        if isinstance(result, torch.SymFloat):
            return real(self.lowering, result)
        return symbols.dim(result) if isinstance(result, torch.SymInt) else symbols.number(result)

    def _call(self, target: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if has_complex((args, kwargs)):
            if not takes_complex(target):
                return _UNKNOWN  # listed by unsupported_ops
            return call_on_complex(self.lowering, target, lambda parts: self._call(target, parts, kwargs), args, kwargs)
        formula = rule_of(target)
        if formula is not None and (not _leaves(args) or any(isinstance(arg, Lazy) for arg in _leaves(args))):
            known = formula(self.lowering, *args, **kwargs)
            if known is not None:
                return known
        handler = handler_of(target)
        if handler is None:
            return _UNKNOWN  # listed by unsupported_ops
        refuse_reals(self.lowering, target, args)
        if not handler.lazy:
            args, kwargs = _map((args, kwargs), lambda x: self.lowering.tensor(x) if isinstance(x, Lazy) else x)
        return handler.function(self.lowering, *args, **kwargs)

    def _inline(self, node: torch.fx.Node, args: Any) -> Any:
        """The body of an operator that only wraps a graph."""
        if node.target.name() == "wrap_with_autocast" and args[2]:
            raise Unsupported(
                UNSUPPORTED_FORM, "an autocast region inside the model is not supported", "export without it"
            )
        at = next(i for i, arg in enumerate(args) if isinstance(arg, torch.fx.GraphModule))
        return tuple(self._graph(args[at], args[at + 1 :]))

    def _sweep(self) -> None:
        """Remove nodes and weights that nothing needs."""
        for node in reversed(list(self.module.main.nodes)):
            kept = any(
                result.users or any(result is value for value in self.module.main.returns) for result in node.results
            )
            if not kept:
                self.module.main.erase(node)
        self.lowering.weights.prune()


_UNKNOWN = object()


def _mutation(spec: Any) -> Problem:
    what = spec.target or spec.arg.name
    return Problem(
        UNSUPPORTED_FORM,
        f"the model writes to '{what}' ({spec.kind.name.lower().replace('_', ' ')})",
        help="a compiled model keeps no state: call model.eval(), return the new value instead, or use use_cache=False",
    )


def _leaves(args: Any) -> list[Any]:
    """Operands in nested lists, flattened, without None and attributes that are no values."""
    if isinstance(args, dict):
        args = list(args.values())
    if isinstance(args, tuple | list):
        return [leaf for arg in args for leaf in _leaves(arg)]
    return [args] if isinstance(args, Value | Uniform | Affine | Mask | Choice) or args is _UNKNOWN else []


def _map(args: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(args, dict):
        return {key: _map(value, change) for key, value in args.items()}
    if isinstance(args, tuple | list):
        return type(args)(_map(arg, change) for arg in args)
    return change(args)
