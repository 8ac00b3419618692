"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """As pip knows it; "unknown" where the package is not installed."""
    try:
        return version("nomul")
    except PackageNotFoundError:
        return "unknown"
