"""C source of nomul-run, the program that runs, checks and times one model; `backends/runner.py` builds it."""
