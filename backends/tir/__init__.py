"""Helpers with which hand-written kernels compose TIRx: statements, vectors, register tiles, outputs."""
