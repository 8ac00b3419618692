"""Assembly that puts a file into an object: quick at any size, as C initialisers are not."""

from __future__ import annotations

_ASSEMBLY = """\
#if defined(__APPLE__)
.section __TEXT,__const
.private_extern _{symbol}
.globl _{symbol}
.p2align 6
_{symbol}:
#else
.section .rodata.{symbol},"a",%progbits
.globl {symbol}
.hidden {symbol}
.type {symbol},%object
.p2align 6
{symbol}:
#endif
.incbin "{file}"
#if defined(__ELF__)
.section .note.GNU-stack,"",%progbits
#endif
"""


def embedded(symbol: str, file: str) -> str:
    """Source for the C preprocessor and any assembler; the bytes of the file stand at `symbol`, aligned for vectors."""
    return _ASSEMBLY.format(symbol=symbol, file=file)
