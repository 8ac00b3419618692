"""Transforms: changes of layers that a recipe asks for before their weights are encoded. One pass each in a file.

Most keep what the model computes, up to rounding: they move numbers between neighbouring layers so that weights suffer
less from their encoding. `compiler/phases.py` says in which order they run.
"""

from nomul.passes.transforms.base import Transform, all_transforms, read_transformation

__all__ = ["Transform", "all_transforms", "read_transformation"]
