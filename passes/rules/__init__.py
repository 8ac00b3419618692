"""Rewrite rules, one family a folder; each family is a pass."""
