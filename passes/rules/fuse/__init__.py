"""Fusions: one op for what exporters write as many."""
