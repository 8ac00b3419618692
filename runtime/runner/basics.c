/* basics.c: messages, memory, files, and what element types are. */
#include "runner.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("nomul-run: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(EXIT_ERROR);
}

void *allocate(size_t bytes) {
  void *memory = NULL;
  if (bytes < SIZE_MAX / 2) {
    const size_t rounded = (bytes + NM_ALIGNMENT) / NM_ALIGNMENT * NM_ALIGNMENT;
    memory = aligned_alloc(NM_ALIGNMENT, rounded);
    if (memory) memset(memory, 0, rounded);
  }
  if (!memory) fail("not enough memory for %zu bytes", bytes);
  return memory;
}

uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) fail("cannot open %s", path);
  long end = -1;
  if (fgetc(file) == EOF && ferror(file)) fail("cannot read %s", path); /* a folder opens, and has a size */
  if (fseek(file, 0, SEEK_END) == 0) end = ftell(file);
  if (end < 0 || fseek(file, 0, SEEK_SET) != 0) fail("cannot read %s: it is no plain file", path);
  uint8_t *bytes = allocate((size_t)end);
  if (fread(bytes, 1, (size_t)end, file) != (size_t)end) fail("cannot read %s", path);
  fclose(file);
  *size = (size_t)end;
  return bytes;
}

size_t dtype_size(int32_t dtype) {
  static const size_t sizes[] = {0, 8, 4, 2, 2, 8, 4, 2, 1, 1, 1};
  return sizes[dtype];
}

const char *dtype_name(int32_t dtype) {
  static const char *const names[] = {"?", "f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"};
  return names[dtype];
}

size_t element_count(const nm_tensor *tensor) {
  size_t count = 1;
  for (int32_t axis = 0; axis < tensor->rank; axis++) count *= (size_t)tensor->shape[axis];
  return count;
}

size_t byte_count(const nm_tensor *tensor) { return element_count(tensor) * dtype_size(tensor->dtype); }
