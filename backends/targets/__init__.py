"""Machine families, one a file, found by themselves: each defines `FAMILY` (see `nomul.backends.target.Family`)."""
