"""Walks an ONNX graph node by node and builds the module: known numbers and sizes stay known, the rest becomes nodes.

A node is tried in this order: arithmetic of known sizes (`@size_op`), folding of constant operands, the operator's
function (`@onnx_op`), a function of the model, the definition in the ONNX standard.
"""

from __future__ import annotations

import os
import warnings
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from nomul.frontend.common import BAD_DIM, BAD_NODE, BAD_SOURCE, DimRequest, NomulWarning, value_name
from nomul.frontend.onnx import fold, ports
from nomul.frontend.onnx.attributes import resolve_references
from nomul.frontend.onnx.dims import DimTable, SizeDemand
from nomul.frontend.onnx.entry import Entry, Scope
from nomul.frontend.onnx.functions import default_attributes, standard_function
from nomul.frontend.onnx.model import Source, domain_name, domain_versions, open_model, origin
from nomul.frontend.onnx.names import PathNames
from nomul.frontend.onnx.node import Operand, SourceNode
from nomul.frontend.onnx.registry import find_handler, find_size_handler
from nomul.frontend.onnx.unsupported import check_operators, node_loc
from nomul.ir.builder import Builder
from nomul.ir.errors import NomulError
from nomul.ir.graph import Constant, Func, Module, Value
from nomul.ir.op import TypeFault
from nomul.ir.types import DType

Attributes = Mapping[str, onnx.AttributeProto]
MAX_REFINEMENTS = 64
MAX_DEPTH = 32  # of functions and subgraphs inside each other


def import_onnx(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto, *, dims: Mapping[str, DimRequest] | None = None
) -> Module:
    """A module of level "tensor" from an ONNX model: a path, the file's bytes, or a ModelProto.

    Dynamic axes become named dims: by the model's name for them, else by input and axis (`x_3`). dims: their ranges,
    `{"batch": 1, "x_3": (32, 960)}`; the default is [1, 4096]. An axis that must be a multiple of 32 becomes
    `32*x_3_div32`. Raises NomulError for everything that is wrong with the model; warns (NomulWarning) where the graph
    narrows a dim."""
    opened = open_model(source)
    try:
        with np.errstate(all="ignore"):
            table = DimTable(list(opened.proto.graph.input), dims or {})
            module = _import_refining(opened, table)
    except NomulError:
        raise
    except Exception as error:  # a damaged file can break any assumption about what protobuf gives
        raise NomulError(BAD_SOURCE, f"the model is damaged: {error!r}") from error
    for note in table.all_notes():
        warnings.warn(note, NomulWarning, stacklevel=3)
    return module


def _import_refining(source: Source, table: DimTable) -> Module:
    """Import; when the graph demands more of a dim than the table grants, refine the table and start again."""
    for _ in range(MAX_REFINEMENTS):
        try:
            return GraphImporter(source, table).run()
        except SizeDemand as demand:
            table.refine(demand)
    raise NomulError(BAD_DIM, "the sizes that the model demands of its dims do not come to an end")


@dataclass
class Frame:
    """Where nodes are: names in sight, versions, and for a function the attributes and the place of its call."""

    env: MutableMapping[str, Operand]
    opsets: dict[str, int]
    attributes: Attributes = field(default_factory=dict)
    prefix: str = ""
    loc: str = ""
    depth: int = 0

    def inner(self, env: MutableMapping[str, Operand], **changes: Any) -> Frame:
        """A frame for a subgraph or function used here. Raises NomulError (NM200) where they nest too deep."""
        if self.depth >= MAX_DEPTH:
            raise NomulError(BAD_SOURCE, "functions of the model call each other without end", loc=self.loc)
        kept = {"opsets": self.opsets, "attributes": self.attributes, "prefix": self.prefix, "loc": self.loc}
        return Frame(env, depth=self.depth + 1, **(kept | changes))


class GraphImporter:
    """One try of an import, for one table of dims."""

    def __init__(self, source: Source, table: DimTable) -> None:
        self.source = source
        self.table = table
        self.ranges = table.ranges
        self.module = Module(dims=dict(self.ranges), origin=origin(source))
        self._label = PathNames(name for node in source.proto.graph.node for name in node.output)
        self.scope = Scope(Builder(Func("main")), self.module, self._label)
        self._named: set[Value] = set()
        self._reserved = {value_name(output.name): output.name for output in source.proto.graph.output}

    def run(self) -> Module:
        """Raises NomulError, or SizeDemand for a demand that the table does not grant."""
        graph = self.source.proto.graph
        outputs = [output.name for output in graph.output]
        nodes = needed_nodes(graph.node, outputs)
        check_operators(nodes, self.source.opsets, self.source.functions)
        env, func = ports.inputs(self.source, self.table)
        self.scope = Scope(Builder(self.module.add_func(func)), self.module, self._label)
        self._named.update(func.params)
        frame = Frame(env, self.source.opsets)
        self.run_nodes(nodes, frame)
        ports.outputs(graph, [_lookup(frame, name, "the graph's outputs") for name in outputs], self.scope)
        ports.drop_unused(self.module)
        return self.module

    def run_nodes(self, nodes: Sequence[onnx.NodeProto], frame: Frame) -> None:
        for node in nodes:
            loc = f"{frame.loc}/{node_loc(node)}" if frame.loc else node_loc(node)
            operands = [_lookup(frame, name, loc) if name else None for name in node.input]
            with _blame(node.op_type, loc):
                results = self._run_node(node, operands, frame, loc)
            for name, result in zip(node.output, results, strict=False):
                if name:
                    frame.env[name] = result

    def run_graph(self, graph: onnx.GraphProto, operands: Sequence[Operand], frame: Frame, label: str) -> list[Operand]:
        """The outputs of a subgraph for operands; it sees the names around it."""
        prefix = f"{frame.prefix}{label}."
        env = dict(zip((i.name for i in graph.input), operands, strict=True))
        inner = frame.inner(ChainMap(env, frame.env), prefix=prefix)
        for name, entry in ports.initializers(graph, self.source.folder, prefix).items():
            inner.env.setdefault(name, entry)
        nodes = needed_nodes(graph.node, [output.name for output in graph.output])
        check_operators(nodes, frame.opsets, self.source.functions)
        self.run_nodes(nodes, inner)
        return [_lookup(inner, output.name, f"the outputs of {graph.name}") for output in graph.output]

    # -- one node ----------------------------------------------------------------------------------------------
    def _run_node(self, node: onnx.NodeProto, operands: list[Operand], frame: Frame, loc: str) -> list[Operand]:
        domain = domain_name(node.domain)
        attributes = resolve_references(node.attribute, frame.attributes)
        outputs = [f"{frame.prefix}{name}" if name else "" for name in node.output]
        opset = frame.opsets.get(domain, 1)
        made = SourceNode(domain, node.op_type, opset, operands, outputs, attributes, self, frame, self.scope, loc)
        sizes = self._on_sizes(made, domain)
        if sizes is not None:
            return self._entries(sizes, made)
        if (domain, node.op_type) in self.source.functions:
            return self._call(self.source.functions[domain, node.op_type], made)
        handler = find_handler(domain, node.op_type)
        if handler is None:
            return self.call_standard(made)
        folded = fold.try_fold(handler, made)
        if folded is not None:
            return self._entries(folded, made)
        func = self.scope.builder.func
        before = len(func.nodes)
        with self.scope.builder.at(loc):
            results = handler(made)
        for new in func.nodes[before:]:
            for value in new.results:
                if any(size.value is not None and size.value < 0 for size in value.shape):
                    made.fail(BAD_NODE, f"a size of its result {value.type} is negative")
        return self._entries(results, made)

    def _on_sizes(self, node: SourceNode, domain: str) -> Any:
        """The result of arithmetic of known sizes, or None where this is none, or the ranges do not decide it."""
        tensors = [operand for operand in node.operands if isinstance(operand, Entry)]
        if not any(entry.sizes is not None for entry in tensors) or not all(entry.is_known for entry in tensors):
            return None
        handler = find_size_handler(domain, node.op_type)
        results = handler(node) if handler else None
        if results is None:
            return None
        dtype = next(entry.type.dtype for entry in tensors if entry.sizes is not None)
        listed = results if isinstance(results, tuple) else (results,)
        return tuple(_sized(result, name, dtype) for result, name in zip(listed, node.outputs, strict=False))

    def call_standard(self, made: SourceNode) -> list[Operand]:
        """Expand an operator into its definition in the ONNX standard."""
        names = [f"in{index}" if operand is not None else "" for index, operand in enumerate(made.operands)]
        resolved = onnx.helper.make_node(made.op_type, names, made.outputs, domain=made.domain)
        made.attributes = default_attributes(made.domain, made.op_type, made.opset) | made.attributes
        resolved.attribute.extend(made.attributes.values())
        types = [operand.type if isinstance(operand, Entry) else None for operand in made.operands]
        body = standard_function(resolved, made.opset, types)
        if body is None:
            made.unsupported("this form of the operator is not supported")
        opsets = made.frame.opsets | domain_versions(body.opset_import)
        check_operators(body.node, opsets, self.source.functions)
        return self._call(body, made, opsets)

    def _call(self, body: onnx.FunctionProto, node: SourceNode, opsets: dict[str, int] | None = None) -> list[Operand]:
        """Inline a function: its nodes are imported where its call stands."""
        given = {attribute.name: attribute for attribute in body.attribute_proto} | node.attributes
        env: dict[str, Operand] = dict.fromkeys(body.input)
        env.update(zip(body.input, node.operands, strict=False))
        frame = node.frame.inner(
            env,
            opsets=opsets or domain_versions(body.opset_import),
            attributes=given,
            prefix=f"{next(filter(None, node.outputs), node.op_type)}.",
            loc=node.loc,
        )
        wanted = [name for name, output in zip(body.output, node.outputs, strict=False) if output]
        self.run_nodes(needed_nodes(body.node, wanted), frame)
        results = [frame.env.get(name) for name in body.output]
        return self._entries(tuple(results), node)

    # -- results -----------------------------------------------------------------------------------------------
    def _entries(self, results: Any, node: SourceNode) -> list[Operand]:
        """What a handler returned, as entries under the node's output names."""
        listed = list(results) if isinstance(results, tuple) else [results]
        if len(listed) < len([name for name in node.outputs if name]):
            node.unsupported(f"only {len(listed)} of {len(node.outputs)} results are supported")
        names = [*node.outputs, *[""] * len(listed)]
        for result, name in zip(listed, names, strict=False):
            if result is None and name:
                node.unsupported(f"its result '{name}' is not supported")
        return [self._entry(result, name) for result, name in zip(listed, names, strict=False)]

    def _entry(self, result: Any, name: str) -> Operand:
        if result is None or isinstance(result, Entry | list):
            return result
        if isinstance(result, Constant):
            return Entry.of_array(name, np.asarray(result.value, result.dtype.numpy))
        if isinstance(result, np.ndarray | np.generic):
            return Entry.of_array(name, np.asarray(result))
        self._rename(result, name)
        return Entry.of_value(name, result)

    def _rename(self, value: Value, name: str) -> None:
        """Give a value that a node has just made the name that the model has for it."""
        if not name or value in self._named or value.producer is None:
            return
        self._named.add(value)
        label = self._label(name)
        taken = self._reserved.get(label, name) != name
        self.scope.builder.func.rename(value, f"{label}_" if taken else label)


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in order. Raises NomulError (NM200) for a name that is defined twice."""
    made = [name for node in nodes for name in node.output if name]
    if len(set(made)) != len(made):
        twice = next(name for name in made if made.count(name) > 1)
        raise NomulError(BAD_SOURCE, f"the name '{twice}' is defined twice")
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed.update(_used_names(node))
    return kept[::-1]


def _used_names(node: onnx.NodeProto) -> set[str]:
    """Operands of a node and of everything in its subgraphs."""
    used = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            used.update(output.name for output in attribute.g.output)
            for inner in attribute.g.node:
                used |= _used_names(inner)
    return used


def _sized(result: Any, name: str, dtype: DType) -> Entry:
    """An object array becomes sizes of the operands' dtype; anything else has a dtype of its own."""
    if isinstance(result, Entry):
        return result
    return Entry.of_sizes(name, result, dtype) if result.dtype == object else Entry.of_array(name, result)


def _lookup(frame: Frame, name: str, user: str) -> Operand:
    if name not in frame.env:
        raise NomulError(BAD_SOURCE, f"'{name}' is used before it is defined", loc=user)
    return frame.env[name]


class _blame:
    """Turns what goes wrong inside a node into an error that names the node."""

    def __init__(self, op_type: str, loc: str) -> None:
        self.op_type = op_type
        self.loc = loc

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, TypeFault):
            raise NomulError(BAD_NODE, f"{self.op_type}: {error.message}", loc=self.loc) from error
        if isinstance(error, NomulError):
            if error.loc is None and len(error.problems) == 1:
                raise NomulError(error.code, error.message, self.loc, error.help) from error
        elif isinstance(error, Exception) and not isinstance(error, SizeDemand):
            message = f"{self.op_type}: operands or attributes do not fit ({type(error).__name__}: {error})"
            raise NomulError(BAD_NODE, message, loc=self.loc) from error
