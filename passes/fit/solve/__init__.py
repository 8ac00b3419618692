"""The mathematics that fitters share, on plain matrices: scales, planes, palettes, sparsity, error compensation."""
