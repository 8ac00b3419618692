"""Models inside packages that are installed for tests."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest


def onnx_file(package: str, pattern: str) -> Path:
    """A file inside an installed package; the test is skipped where that is absent."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"the package {package} is not installed")
    return next(Path(str(file.locate())) for file in files if file.match(pattern))
