"""All kernels, one file per (op, encoding); `nomul.backends.registry.all_kernels` imports every file here by itself."""
