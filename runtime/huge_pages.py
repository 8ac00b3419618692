"""Weights in huge pages (Linux): memory that is read once through is read faster where pages are not 4 KiB, since the
hardware prefetches up to the end of a page."""

from __future__ import annotations

import ctypes
import mmap
import sys

from nomul.runtime.errors import RuntimeFault

_PAGE = 2 * 1024 * 1024  # bytes of a huge page on x86-64, and on ARM with pages of 4 KiB


class HugeCopy:
    """A private copy of `size` bytes. address: where it begins, at a multiple of 2 MiB; valid while this object lives.

    Raises RuntimeFault (NM608) on a system without transparent huge pages, or where memory does not suffice."""

    def __init__(self, source: int, size: int) -> None:
        if not sys.platform.startswith("linux"):
            raise _unavailable("huge pages can be asked for on Linux only")
        try:
            self._memory = mmap.mmap(-1, size + 2 * _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:
            raise _unavailable(f"no huge pages for {size} bytes of weights: {error}") from error
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.address = -(-start // _PAGE) * _PAGE
        ctypes.memmove(self.address, source, size)


def _unavailable(message: str) -> RuntimeFault:
    return RuntimeFault("NM608", message, "load without huge_pages")
