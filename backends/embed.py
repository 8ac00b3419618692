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
.section {section}.{symbol},"a",%progbits
.globl {symbol}
.hidden {symbol}
.type {symbol},%object
.p2align {bits}
{symbol}:
#endif
.incbin "{file}"
#if defined(__ELF__)
.section .note.GNU-stack,"",%progbits
#endif
"""


_VECTOR_BITS, _HUGE_PAGE_BITS = 6, 21
_LARGE = 32 << 20  # bytes; smaller ones stay in a cache


def embedded(symbol: str, file: str, size: int = 0) -> str:
    """Source for the C preprocessor and any assembler; the bytes of the file stand at `symbol`, aligned for vectors.

    size: of the file, where it may be large: then it begins at a multiple of 2 MiB in ELF files and in memory, so that
    Linux can map it by huge pages, through which memory is read faster. It has a section of its own there: behind other
    constants in `.rodata`, which linkers align as its largest part, it would begin 2 MiB later."""
    large = size >= _LARGE
    section, bits = (".weights", _HUGE_PAGE_BITS) if large else (".rodata", _VECTOR_BITS)
    return _ASSEMBLY.format(symbol=symbol, file=file, section=section, bits=bits)
