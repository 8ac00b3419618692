"""Files of the text form: `NAME.nir` with the weights beside it, in `NAME.safetensors` or, in the folder of a dump, in
one file for all."""

from __future__ import annotations

from pathlib import Path

from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.ir.parser import parse_module
from nomul.ir.text import print_module
from nomul.ir.weights_file import load_weights, read_source, save_weights, source_metadata
from nomul.passes.dump import WEIGHTS


def read_nir(path: Path) -> Module:
    """A module with its weights where their file is there. Raises NomulError (NM003, NM004, or as the parser)."""
    module = parse_module(read_text(path))
    weights = next((file for file in (weights_path(path), path.with_name(WEIGHTS)) if file.exists()), None)
    if weights is not None:
        module.source = read_source(load_weights(module, weights), module)
        module.origin = str(module.source.get("origin", ""))
    return module


def read_text(path: Path) -> str:
    """Raises NomulError (NM003, NM004)."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NomulError("NM003", f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NomulError("NM004", f"{path} is not a text file") from None


def require_weights(module: Module) -> None:
    """Raises NomulError (NM016) where a weight is known by name and type only."""
    missing = [name for name, weight in module.weights.items() if not weight.fields]
    if missing:
        shown = ", ".join(f"@{name}" for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
        message = f"{len(missing)} of {len(module.weights)} weights have no data: {shown}"
        help = f"put them beside the text: NAME.safetensors beside NAME.nir, or the {WEIGHTS} of its dump"
        raise NomulError("NM016", message, help=help)


def write_nir(module: Module, path: Path) -> None:
    """The text, and the weights beside it. Raises NomulError."""
    path.write_text(print_module(module), encoding="utf-8")
    if module.weights and all(weight.fields for weight in module.weights.values()):
        save_weights(module, weights_path(path), source_metadata(module))


def weights_path(path: Path) -> Path:
    """The file that holds the weights of a .nir file."""
    return path.with_suffix(".safetensors")
