"""Ops without kernels become the ops that they are made of."""
