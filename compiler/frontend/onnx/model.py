"""Opens an ONNX model and checks what must hold before any node is looked at; no tensor data is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from nomul.frontend.common import BAD_SOURCE
from nomul.ir.errors import NomulError

OLDEST_OPSET = 1  # the tests hold 9 to the newest; older ones work where an operator has not changed since
MOST_PRODUCER = 80  # letters that are kept of a producer's name
PROTOBUF_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Source:
    """A parsed model. folder: where external data may lie, or None for a model that did not come from a file.

    opsets: version of each domain; functions: model-local functions by (domain, name)."""

    proto: onnx.ModelProto
    folder: Path | None
    opsets: dict[str, int]
    functions: dict[tuple[str, str], onnx.FunctionProto]


def open_model(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Source:
    """Raises NomulError (NM200) for what is no readable ONNX model of a known version."""
    if isinstance(source, onnx.ModelProto):
        return _checked(source, None)
    if isinstance(source, bytes):
        return _checked(_parse(source, "the given bytes"), None)
    path = Path(source)
    try:
        if not path.is_file():
            raise NomulError(BAD_SOURCE, f"there is no file {path}")
        if path.stat().st_size > PROTOBUF_LIMIT:
            raise NomulError(
                BAD_SOURCE, f"{path} is larger than 2 GiB", help="save the model with its weights as external data"
            )
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise NomulError(BAD_SOURCE, f"cannot read {path}: {error}") from error
    return _checked(_parse(content, str(path)), path.resolve().parent)


def _parse(content: bytes, what: str) -> onnx.ModelProto:
    try:
        proto = onnx.ModelProto.FromString(content)
    except (DecodeError, ValueError) as error:
        raise NomulError(BAD_SOURCE, f"{what} is not an ONNX model, or it is damaged") from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise NomulError(BAD_SOURCE, f"{what} is not an ONNX model: it has no graph or no operator set")
    return proto


def _checked(proto: onnx.ModelProto, folder: Path | None) -> Source:
    opsets = domain_versions(proto.opset_import)
    version, newest = opsets.get("", OLDEST_OPSET), onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= version <= newest:
        raise NomulError(
            BAD_SOURCE,
            f"the model uses operator set {version}; known are {OLDEST_OPSET} to {newest}",
            help="convert it with onnx.version_converter, or install a newer onnx",
        )
    if not proto.graph.output:
        raise NomulError(BAD_SOURCE, "the model has no outputs")
    functions = {(domain_name(f.domain), f.name): f for f in proto.functions}
    return Source(proto, folder, opsets, functions)


def origin(source: Source) -> str:
    """What wrote the model, as `ONNX operator set 17, pytorch 2.3.0`."""
    producer = f"{source.proto.producer_name} {source.proto.producer_version}".strip()
    producer = "".join(letter for letter in producer if letter.isprintable())[:MOST_PRODUCER]
    form = f"ONNX operator set {source.opsets.get('', OLDEST_OPSET)}"
    return f"{form}, {producer}" if producer else form


def domain_versions(imports: object) -> dict[str, int]:
    """Operator set versions by domain name."""
    return {domain_name(entry.domain): entry.version for entry in imports}  # type: ignore[attr-defined]


def domain_name(domain: str) -> str:
    """`ai.onnx` is another spelling of the default domain."""
    return "" if domain == "ai.onnx" else domain
