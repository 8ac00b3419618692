/* npy.c: reads and writes numpy's .npy files; what it reads may be any bytes. */
#include "runner.h"

#include <string.h>

#define LARGEST_HEADER 65536 /* numpy's own headers have some 100 bytes */

/* ---- The header is a Python dictionary: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } ------------ */

typedef struct {
  const char *at, *end;
} text;

static void skip_blanks(text *t) {
  while (t->at < t->end && (*t->at == ' ' || *t->at == '\n' || *t->at == '\t' || *t->at == '\r')) t->at++;
}

static int take(text *t, const char *word) {
  const size_t length = strlen(word);
  skip_blanks(t);
  if ((size_t)(t->end - t->at) < length || memcmp(t->at, word, length) != 0) return 0;
  t->at += length;
  return 1;
}

static int is_next(text *t, char letter) {
  skip_blanks(t);
  return t->at < t->end && *t->at == letter;
}

/* A string in quotes without escapes; fails where it does not fit. */
static int take_string(text *t, char *into, size_t room) {
  if (!is_next(t, '\'') && !is_next(t, '"')) return 0;
  const char quote = *t->at++;
  size_t length = 0;
  for (; t->at < t->end && *t->at != quote && length + 1 < room; t->at++) into[length++] = *t->at;
  into[length] = 0;
  return t->at < t->end && *t->at++ == quote;
}

static int take_size(text *t, int64_t *size) {
  skip_blanks(t);
  if (t->at == t->end || *t->at < '0' || *t->at > '9') return 0;
  for (*size = 0; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++) {
    if (*size > (INT64_MAX - 9) / 10) return 0;
    *size = *size * 10 + (*t->at - '0');
  }
  return 1;
}

static const char *take_shape(text *t, npy_array *array) {
  if (!take(t, "(")) return "its header has no shape";
  for (array->rank = 0; !take(t, ")"); array->rank++) {
    if (array->rank == NM_MAX_RANK) return "it has too many axes";
    if (!take_size(t, &array->shape[array->rank])) return "its header has no proper shape";
    if (!take(t, ",") && !is_next(t, ')')) return "its header has no proper shape";
  }
  return NULL;
}

/* The element type of a description such as "<f4"; bf16 is what numpy, which does not know it, calls "<V2". */
static const char *take_dtype(text *t, npy_array *array) {
  static const struct {
    const char *name;
    int32_t dtype;
  } known[] = {{"f8", NM_F64}, {"f4", NM_F32}, {"f2", NM_F16}, {"V2", NM_BF16}, {"i8", NM_I64},
               {"i4", NM_I32}, {"i2", NM_I16}, {"i1", NM_I8},  {"u1", NM_U8},   {"b1", NM_BOOL}};
  char name[8];
  if (!take_string(t, name, sizeof name)) return "its header has no element type that a model takes";
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (name[0] == 0 || strcmp(name + 1, known[i].name) != 0) continue;
    array->dtype = known[i].dtype;
    if (strchr("<|=", name[0]) || dtype_size(array->dtype) == 1) return NULL;
    return name[0] == '>' ? "its numbers are big-endian; save it with x.astype(x.dtype.newbyteorder('<'))"
                          : "its header has no proper element type";
  }
  return "its element type is none that a model takes";
}

static const char *take_order(text *t) {
  if (take(t, "False")) return NULL;
  if (take(t, "True")) return "it is in Fortran order; save it with numpy.ascontiguousarray";
  return "its header does not say in which order the axes are";
}

static const char *read_header(text *t, npy_array *array) {
  int seen[3] = {0};
  if (!take(t, "{")) return "its header is no dictionary";
  while (!take(t, "}")) {
    char key[16];
    if (!take_string(t, key, sizeof key) || !take(t, ":")) return "its header is damaged";
    const int index = strcmp(key, "descr") == 0 ? 0 : strcmp(key, "fortran_order") == 0 ? 1 : strcmp(key, "shape") == 0 ? 2 : 3;
    if (index == 3 || seen[index]++) return "its header has an entry that should not be there";
    const char *wrong = index == 0 ? take_dtype(t, array) : index == 1 ? take_order(t) : take_shape(t, array);
    if (wrong) return wrong;
    if (!take(t, ",") && !is_next(t, '}')) return "its header is damaged";
  }
  skip_blanks(t);
  return seen[0] && seen[1] && seen[2] && t->at == t->end ? NULL : "its header is damaged";
}

/* ---- Files ---------------------------------------------------------------------------------------------------- */

/* The bytes that the shape says; SIZE_MAX where they are more than the address space. */
static size_t data_size(const npy_array *array) {
  size_t size = dtype_size(array->dtype);
  for (int32_t axis = 0; axis < array->rank; axis++) {
    if (array->shape[axis] == 0) return 0;
  }
  for (int32_t axis = 0; axis < array->rank; axis++) {
    if ((uint64_t)array->shape[axis] > (SIZE_MAX - 1) / size) return SIZE_MAX;
    size *= (size_t)array->shape[axis];
  }
  return size;
}

const char *npy_read(const uint8_t *bytes, size_t size, npy_array *array) {
  if (size < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0) return "it is no .npy file";
  if (bytes[6] < 1 || bytes[6] > 3) return "it is a .npy file of an unknown version";
  const size_t start = bytes[6] == 1 ? 10 : 12;
  if (size < start) return "it is cut off";
  size_t length = (size_t)bytes[8] | (size_t)bytes[9] << 8;
  if (start == 12) length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
  if (length > LARGEST_HEADER) return "its header is too long";
  if (length > size - start) return "it is cut off";
  text header = {(const char *)bytes + start, (const char *)bytes + start + length};
  const char *wrong = read_header(&header, array);
  if (wrong) return wrong;
  array->data = bytes + start + length;
  array->size = data_size(array);
  if (array->size > size - start - length) return "it is cut off: it has fewer bytes than its shape says";
  if (array->size < size - start - length) return "it has more bytes than its shape says";
  for (size_t i = 0; array->dtype == NM_BOOL && i < array->size; i++) {
    if (array->data[i] > 1) return "it has a bool that is neither 0 nor 1";
  }
  return NULL;
}

int npy_write(FILE *file, const nm_tensor *tensor) {
  static const char *const names[] = {"", "<f8", "<f4", "<f2", "<V2", "<i8", "<i4", "<i2", "|i1", "|u1", "|b1"};
  char header[640] = "\x93NUMPY\x01"; /* at most 16 sizes of 20 digits */
  size_t length = 10;
  length += (size_t)snprintf(header + length, sizeof header - length,
                             "{'descr': '%s', 'fortran_order': False, 'shape': (", names[tensor->dtype]);
  for (int32_t axis = 0; axis < tensor->rank; axis++) {
    length += (size_t)snprintf(header + length, sizeof header - length, "%" PRId64 ", ", tensor->shape[axis]);
  }
  length += (size_t)snprintf(header + length, sizeof header - length, "), }");
  while (length % 64 != 63) header[length++] = ' ';
  header[length++] = '\n';
  header[8] = (char)((length - 10) & 0xff);
  header[9] = (char)((length - 10) >> 8);
  const size_t size = byte_count(tensor);
  return fwrite(header, 1, length, file) == length && (size == 0 || fwrite(tensor->data, 1, size, file) == size);
}
