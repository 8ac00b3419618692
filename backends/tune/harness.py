"""The C around measured kernels: one function that calls any of them many times and tells how long it took."""

from __future__ import annotations

from collections.abc import Sequence

_HEAD = """\
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <time.h>

typedef int32_t (*kernel)(void *const *args, const int64_t *dims, int64_t tiles, void *scratch);
"""
_TAIL = """\
/* Seconds of `calls` calls of a kernel on all its tiles; call i takes set (first + i) % sets of `count` pointers. */
__attribute__((visibility("default")))
double nm_measure(int32_t number, void *const *args, int32_t count, int32_t sets, int32_t first, int32_t calls,
                  const int64_t *dims, int64_t tiles, void *scratch) {
  struct timespec begin, end;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (int32_t i = 0; i < calls; i++) {
    kernels[number](args + (size_t)((first + i) % sets) * (size_t)count, dims, tiles, scratch);
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  return (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
}
"""


def harness_text(signatures: Sequence[tuple[int, int]]) -> str:
    """The text. signatures: for the kernels k0, k1, .. how many pointers and dims they take."""
    thunks = [_thunk(number, pointers, dims) for number, (pointers, dims) in enumerate(signatures)]
    table = ", ".join(f"call_{number}" for number in range(len(signatures)))
    return "\n".join([_HEAD, *thunks, f"static const kernel kernels[] = {{{table}}};\n", _TAIL])


def _thunk(number: int, pointers: int, dims: int) -> str:
    types = ", ".join(["void *"] * pointers + ["int64_t"] * (dims + 2) + ["void *"])
    given = ", ".join([*(f"args[{i}]" for i in range(pointers)), *(f"dims[{i}]" for i in range(dims))])
    return (
        f"extern int32_t k{number}({types});\n"
        f"static int32_t call_{number}(void *const *args, const int64_t *dims, int64_t tiles, void *scratch) {{\n"
        f"  (void)args, (void)dims;\n  return k{number}({given}, 0, tiles, scratch);\n}}\n"
    )
