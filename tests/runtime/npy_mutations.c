/* npy_mutations.c: npy_read on damaged files, each in memory of exactly its size, so that a sanitizer sees any slip.
 *
 *     npy_mutations ROUNDS FILE.npy... */
#include "runner.h"

#include <stdlib.h>
#include <string.h>

static uint32_t state = 1;

static uint32_t draw(uint32_t limit) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % limit;
}

static uint8_t *damage(const uint8_t *bytes, size_t *size) {
  static const char letters[] = "0123456789,()'{}:<>|fiubVTrue\n \x93";
  const uint32_t kind = draw(4);
  if (kind == 0) *size = draw((uint32_t)*size + 1);
  uint8_t *copy = malloc(*size ? *size : 1);
  memcpy(copy, bytes, *size);
  for (uint32_t i = draw(4); i > 0 && *size; i--) {
    const uint32_t at = draw(*size < 100 ? (uint32_t)*size : 100); /* the header */
    copy[at] = kind == 1 ? (uint8_t)draw(256) : (uint8_t)letters[draw(sizeof letters - 1)];
  }
  return copy;
}

static void examine(const uint8_t *bytes, size_t size, long *accepted) {
  npy_array array;
  const char *wrong = npy_read(bytes, size, &array);
  if (wrong) {
    if (!*wrong) abort();
    return;
  }
  ++*accepted;
  size_t count = 1;
  for (int32_t axis = 0; axis < array.rank; axis++) count *= (size_t)array.shape[axis];
  if (array.data < bytes || array.data + array.size != bytes + size) abort();
  if (count * dtype_size(array.dtype) != array.size) abort();
}

int main(int argc, char **argv) {
  long accepted = 0;
  for (int file = 2; file < argc; file++) {
    size_t size;
    uint8_t *bytes = read_file(argv[file], &size);
    for (long round = 0; round < atol(argv[1]); round++) {
      size_t damaged_size = size;
      uint8_t *damaged = damage(bytes, &damaged_size);
      examine(damaged, damaged_size, &accepted);
      free(damaged);
    }
    free(bytes);
  }
  printf("accepted %ld\n", accepted);
  return 0;
}
