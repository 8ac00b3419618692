"""Measures kernels for `--tune`: at which sizes, by which version."""

from __future__ import annotations

from math import prod

from nomul.backends.select import Preference, Selection
from nomul.backends.tune import tune
from nomul.ir.graph import Module
from nomul.options import Options
from nomul.sample import module_fits, pick_dims
from nomul.version import package_version


def measured_sizes(module: Module) -> list[dict[str, int]]:
    """The smallest sizes, the usual ones (`nomul bench` takes them), and some between them."""
    usual = pick_dims(module.dims, {}, module_fits(module))
    least = {name: max(1, int(low)) for name, (low, _) in module.dims.items()}
    between = {name: round(prod((least[name], usual[name])) ** 0.5) for name in usual}
    return list({tuple(at.items()): at for at in (least, between, usual)}.values())


def preferences(module: Module, selection: Selection, options: Options) -> dict[str, Preference]:
    """What measuring tells now, or told when the file was written. Raises NomulError (NM406, NM407, NM511)."""
    assert options.tune is not None
    return tune(module, selection, measured_sizes(module), options.tune, package_version())
