"""What needs PyTorch, imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nomul.ir.errors import NomulError


def with_torch(module: str, name: str) -> Any:
    """What a module has under a name. Raises NomulError (NM007) where PyTorch is missing."""
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise NomulError("NM007", "PyTorch is not installed", help="pip install 'nomul[torch]'") from None
