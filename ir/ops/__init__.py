"""All ops, one family a file; `nomul.ir.op.all_ops` imports every file here by itself."""
