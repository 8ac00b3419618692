"""Machine families, one a file, found by themselves: each file defines `FAMILY` (see `nomul.backends.target.Family`)."""
