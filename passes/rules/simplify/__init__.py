"""Canonical forms: fewer ways to say the same, so that the fusions need fewer patterns."""
