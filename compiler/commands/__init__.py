"""The sub-commands of `nomul`, one module each, found by `compiler/cli.py`."""
