"""Files of learned maps: safetensors with `LAYER.q` [H, D, F] and `LAYER.k` [G, D, F] by the names of layers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nomul.ir.errors import NomulError
from nomul.passes.exchange.base import AttentionLayer

FORMS = ("softmax", "exp")
_FORM = "nomul.map"


@dataclass(frozen=True)
class Maps:
    """form: of `nn.hedgehog_map`.  arrays: by `LAYER.q` and `LAYER.k`."""

    form: str
    arrays: Mapping[str, np.ndarray]

    def of(self, layer: AttentionLayer, part: str) -> np.ndarray:
        """The map of the queries ("q") or the keys ("k") of a layer that it does not refuse."""
        return self.arrays[f"{layer.name}.{part}"]

    def refusal(self, layer: AttentionLayer) -> str | None:
        """Why the file has no maps for a layer, or None."""
        q, k, _ = layer.operands
        for part, x in (("q", q), ("k", k)):
            key, wanted = f"{layer.name}.{part}", tuple(size.value for size in x.shape[2:])
            if key not in self.arrays:
                near = ", ".join(difflib.get_close_matches(key, self.arrays, 2, 0.3))
                return f"the file of maps has no '{key}'" + (f" (near to it: {near})" if near else "")
            shape = self.arrays[key].shape
            if len(shape) != 3 or shape[:2] != wanted or shape[2] == 0:
                return f"the map '{key}' is {list(shape)}, not [{wanted[0]}, {wanted[1]}, F]"
            if not np.isfinite(self.arrays[key]).all():
                return f"the map '{key}' has numbers that are not finite"
        if self.of(layer, "q").shape[2] != self.of(layer, "k").shape[2]:
            return f"the maps of '{layer.name}' have features of other sizes for queries and keys"
        return None


def _read(path: str | Path) -> Maps:
    with safe_open(path, framework="np") as file:
        arrays = {key: file.get_tensor(key).astype(np.float32, copy=False) for key in file.keys()}  # noqa: SIM118
        form = (file.metadata() or {}).get(_FORM, FORMS[0])
    return Maps(form, arrays)


def load_maps(path: str | Path) -> Maps:
    """Raises NomulError (NM465) for a file that cannot be read."""
    try:
        maps = _read(path)
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NomulError("NM465", f"cannot read the maps {path}: {reason}", help=_HELP) from None
    if maps.form not in FORMS:
        raise NomulError("NM465", f"the maps {path} are of form '{maps.form}', not {' or '.join(FORMS)}", help=_HELP)
    return maps


_HELP = "nomul.qat.distill_attention writes such a file"


def save_maps(maps: Maps, path: str | Path) -> None:
    """Raises NomulError (NM465) where the file cannot be written."""
    try:
        save_file({key: np.ascontiguousarray(array) for key, array in maps.arrays.items()}, path, {_FORM: maps.form})
    except (OSError, SafetensorError) as error:
        raise NomulError("NM465", f"cannot write the maps {path}: {error}") from None
