"""The page of `nomul view`: one HTML file that shows passes, graphs, differences, weights, kernels and memory.

`sources.py` reads a dump, an artifact or a .nir file; `tables.py`, `fold.py`, `weights.py` and `memory.py` make plain
data of it; `page.py` puts the data into the page, whose parts lie in `page/`."""
