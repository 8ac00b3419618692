"""Saved programs (`.pt2`) are read without running anything from the file.

torch.export.load is not used: it unpickles weights, constants and sample inputs, loads compiled libraries from the
archive, evaluates size expressions as Python and pastes names into generated code. Here raw tensors are read as bytes,
pickles are never opened, and the program's JSON passes `nomul.frontend.torch.sanitise` before torch's deserialiser.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any

import torch

from nomul.frontend.common import BAD_SOURCE
from nomul.frontend.torch.sanitise import clean_program
from nomul.ir.errors import NomulError

_PICKLE_HELP = (
    "a pickle can run any code. Build the model in Python, load its weights with "
    "model.load_state_dict(torch.load(path, weights_only=True)), and pass the module; or save it with torch.export.save"
)


def load_program(path: str) -> torch.export.ExportedProgram:
    """The program in a `.pt2` file. Raises NomulError (NM200) for other files, and for contents that would run code."""
    if not os.path.isfile(path):
        raise NomulError(BAD_SOURCE, f"there is no file {path}")
    if not path.endswith(".pt2"):
        raise NomulError(BAD_SOURCE, f"{os.path.basename(path)} is not a saved program (.pt2)", help=_PICKLE_HELP)
    try:
        return _load(path)
    except NomulError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise NomulError(
            BAD_SOURCE,
            f"{os.path.basename(path)} is not a program that torch {torch.__version__} can read: {first}",
            help="save it again with torch.export.save of this torch version",
        ) from error


def _load(path: str) -> torch.export.ExportedProgram:
    from torch._export.serde import schema
    from torch._export.serde.serialize import ExportedProgramDeserializer, _bytes_to_dataclass
    from torch.export.pt2_archive._package import PT2ArchiveReader

    with PT2ArchiveReader(path) as reader:
        model = _model_name(reader.get_file_names())
        program = clean_program(json.loads(reader.read_bytes(f"models/{model}.json")))
        weights = _tensors(reader, "data/weights", f"{model}_weights_config.json")
        constants = _tensors(reader, "data/constants", f"{model}_constants_config.json")
    parsed = _bytes_to_dataclass(schema.ExportedProgram, json.dumps(program).encode())
    return ExportedProgramDeserializer().deserialize(parsed, weights, constants, b"")


def _model_name(files: list[str]) -> str:
    """The only model of an archive that holds no compiled code."""
    if any(name.startswith(("data/aotinductor", "data/executorch")) for name in files):
        raise NomulError(
            BAD_SOURCE, "the archive holds compiled code, which is never loaded", help="save it with torch.export.save"
        )
    models = [name for name in files if re.fullmatch(r"models/[\w.-]+\.json", name)]
    if len(models) != 1:
        raise NomulError(BAD_SOURCE, f"the archive holds {len(models)} programs, not one")
    return models[0].removeprefix("models/").removesuffix(".json")


def _tensors(reader: Any, folder: str, config: str) -> dict[str, torch.Tensor]:
    """Tensors by name, views of the archive's raw records; tied ones share memory."""
    entries = json.loads(reader.read_bytes(f"{folder}/{config}"))["config"]
    records: dict[tuple[str, torch.dtype], torch.Tensor] = {}
    tensors = {}
    for name, entry in entries.items():
        record, meta = entry["path_name"], entry.get("tensor_meta")
        if entry.get("use_pickle") or meta is None or not re.fullmatch(r"(weight|tensor)_\d+", record):
            raise NomulError(BAD_SOURCE, f"'{name}' is stored as a pickle, which is never opened", help=_PICKLE_HELP)
        dtype = _dtype(meta["dtype"])
        if (record, dtype) not in records:
            records[record, dtype] = _record(reader, f"{folder}/{record}", dtype)
        tensor = _strided(name, records[record, dtype], meta)
        tensors[name] = torch.nn.Parameter(tensor, requires_grad=False) if entry.get("is_param") else tensor
    return tensors


def _dtype(number: int) -> torch.dtype:
    from torch._export.serde.schema import ScalarType
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    return _SERIALIZE_TO_TORCH_DTYPE[ScalarType(number)]


def _record(reader: Any, name: str, dtype: torch.dtype) -> torch.Tensor:
    raw = bytearray(reader.read_bytes(name))
    return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _strided(name: str, flat: torch.Tensor, meta: dict[str, Any]) -> torch.Tensor:
    sizes, strides = ([_integer(value) for value in meta[key]] for key in ("sizes", "strides"))
    offset = _integer(meta["storage_offset"])
    if min([offset, *sizes, *strides], default=0) < 0 or len(sizes) != len(strides):
        raise NomulError(BAD_SOURCE, f"'{name}' has a negative size")
    if math.prod(sizes) == 0:
        return flat.new_empty(sizes)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if last >= flat.numel():
        raise NomulError(BAD_SOURCE, f"'{name}' needs more bytes than the file has")
    return torch.as_strided(flat, sizes, strides, offset)


def _integer(value: Any) -> int:
    number = value["as_int"] if isinstance(value, dict) else value
    if not isinstance(number, int):
        raise NomulError(BAD_SOURCE, "a weight has a symbolic size")
    return number
