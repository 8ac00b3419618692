"""Puts tests/ on the import path (pytest does that for the folder of a conftest): shared helpers are modules here."""
