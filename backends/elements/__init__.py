"""Rules of element-wise ops, one family a file; `nomul.backends.emit.rules` imports every file here by itself."""
