"""Transposes sink towards the outputs, where they meet their inverses and vanish."""
