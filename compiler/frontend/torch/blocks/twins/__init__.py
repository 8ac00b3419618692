"""Twins of ops in torch, one family a file, found by themselves."""
