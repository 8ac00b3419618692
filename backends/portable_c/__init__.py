"""Portable C: kernels printed as C11 for machines that have no target of their own, such as microcontrollers.

`ranges.py` finds what integers can be, `expressions.py` and `printer.py` print a TIRx function with types to match,
`kernels.py` prints all kernels of a model, `folder.py` writes them with driver, runtime and weights, `targets.py` knows
compilers and their flags.
"""
