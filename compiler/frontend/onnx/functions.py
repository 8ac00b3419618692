"""Operators that are defined by other operators: functions of the model, and bodies that the ONNX standard gives."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import defs

from nomul.frontend.common import value_name
from nomul.frontend.onnx.model import domain_name
from nomul.frontend.onnx.registry import find_handler
from nomul.frontend.onnx.tensors import onnx_dtype
from nomul.ir.types import Tensor

Functions = dict[tuple[str, str], onnx.FunctionProto]


def find_schema(domain: str, name: str, opset: int) -> defs.OpSchema | None:
    """The standard's entry for an operator at an operator set version."""
    try:
        return defs.get_schema(name, opset, domain)
    except defs.SchemaError:
        return None


def standard_function(node: onnx.NodeProto, opset: int, types: Sequence[Tensor | None]) -> onnx.FunctionProto | None:
    """The standard's own definition of a node, for operands of these types; None where it has none."""
    schema = find_schema(domain_name(node.domain), node.op_type, opset)
    if schema is None:
        return None
    if schema.has_function:
        return _plain_body(schema, opset)
    version = _newest(schema.context_dependent_function_opset_versions, opset)
    if not version:
        return None
    protos = [_type_proto(type).SerializeToString() for type in types]
    body = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), protos)
    return onnx.FunctionProto.FromString(body) if body else None


def default_attributes(domain: str, name: str, opset: int) -> dict[str, onnx.AttributeProto]:
    """What the standard says of attributes that a node leaves out."""
    schema = find_schema(domain, name, opset)
    attributes = schema.attributes.items() if schema else ()
    return {key: a.default_value for key, a in attributes if a.default_value.type != onnx.AttributeProto.UNDEFINED}


def is_importable(domain: str, name: str, opset: int, functions: Functions) -> bool:
    """Whether an operator has a function here, in the model, or in the standard."""
    if find_handler(domain, name) or (domain, name) in functions:
        return True
    schema = find_schema(domain, name, opset)
    if schema is None:
        return False
    if schema.has_function:
        body = _plain_body(schema, opset)
        return body is not None and all(is_importable("", n.op_type, opset, functions) for n in body.node)
    return schema.has_context_dependent_function and not name.startswith("Sequence")


def _plain_body(schema: defs.OpSchema, opset: int) -> onnx.FunctionProto | None:
    """The definition that does not depend on operands' types."""
    version = _newest(schema.function_opset_versions, opset)
    body = schema.get_function_with_opset_version(version) if version else None
    return onnx.FunctionProto.FromString(body) if body else None


def _newest(versions: Sequence[int], opset: int) -> int | None:
    """The newest body that is not newer than the model; the oldest there is for an older model."""
    known = [version for version in versions if version <= opset]
    return max(known) if known else min(versions, default=None)


def _type_proto(type: Tensor | None) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    if type is None:
        return proto
    proto.tensor_type.elem_type = onnx_dtype(type.dtype)
    proto.tensor_type.shape.SetInParent()
    for size in type.shape:
        dim = proto.tensor_type.shape.dim.add()
        if size.value is None:
            dim.dim_param = value_name(str(size))
        else:
            dim.dim_value = size.value
    return proto
