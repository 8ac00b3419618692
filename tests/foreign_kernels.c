/* foreign_kernels.c: calls kernels between unmapped pages, one request after the other, for tests/foreign_kernels.py.
 *
 * Request (u64 each): kernel, buffers, pointers, dims, results, tiles, pieces, bytes of scratch; then the bytes and the
 * alignment of each buffer; the buffer of each pointer; the dims; the buffer of each result; the data of all buffers.
 * Answer: status (u64): 0, or 1 where something wrote outside of its buffer; then the data of the results. */
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST = 64, MARK = 0xA5 };
typedef int32_t (*kernel_function)(void *const *pointers, const int64_t *dims, int64_t begin, int64_t end, void *scratch);
extern const kernel_function kernels[];

typedef struct {
  uint8_t *memory, *data;
  size_t room, bytes;
} guarded;

static void die(const char *why) {
  fprintf(stderr, "%s\n", why);
  exit(2);
}

static void take(void *data, size_t size) {
  if (size && fread(data, size, 1, stdin) != 1) die("the request ends early");
}

static void put(const void *data, size_t size) {
  if (size && fwrite(data, size, 1, stdout) != 1) die("cannot write the answer");
}

static guarded make(uint64_t bytes, uint64_t alignment) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  guarded made = {NULL, NULL, (size_t)(bytes + page - 1) / page * page + page, (size_t)bytes};
  made.memory = mmap(NULL, made.room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made.memory == MAP_FAILED || mprotect(made.memory + made.room, page, PROT_NONE) != 0) die("out of memory");
  memset(made.memory, MARK, made.room);
  made.data = made.memory + (made.room - made.bytes) / alignment * alignment;
  return made;
}

static int sound(const guarded *made) {
  for (uint8_t *at = made->memory; at < made->memory + made->room; at++)
    if (*at != MARK && (at < made->data || at >= made->data + made->bytes)) return 0;
  return 1;
}

static void release(guarded *made) { munmap(made->memory, made->room + (size_t)sysconf(_SC_PAGESIZE)); }

static void serve(uint64_t number) {
  uint64_t head[7], shape[MOST][2], pointer[MOST], result[MOST];
  int64_t dims[MOST];
  guarded buffers[MOST + 1];
  void *pointers[MOST];
  take(head, sizeof head);
  const uint64_t count = head[0], tiles = head[4], pieces = head[5];
  if (count > MOST || head[1] > MOST || head[2] > MOST || head[3] > MOST) die("too many operands");
  take(shape, (size_t)count * sizeof shape[0]);
  take(pointer, (size_t)head[1] * sizeof pointer[0]);
  take(dims, (size_t)head[2] * sizeof dims[0]);
  take(result, (size_t)head[3] * sizeof result[0]);
  for (uint64_t i = 0; i < count; i++) {
    buffers[i] = make(shape[i][0], shape[i][1]);
    take(buffers[i].data, buffers[i].bytes);
  }
  buffers[count] = make(head[6], 64);
  for (uint64_t i = 0; i < head[1]; i++) pointers[i] = buffers[pointer[i]].data;
  uint64_t status = 0;
  for (uint64_t piece = pieces; piece-- > 0;) {
    const int64_t begin = (int64_t)(tiles * piece / pieces), end = (int64_t)(tiles * (piece + 1) / pieces);
    if (kernels[number](pointers, dims, begin, end, buffers[count].data) != 0) die("a kernel failed");
  }
  for (uint64_t i = 0; i <= count; i++) status |= (uint64_t)!sound(&buffers[i]);
  put(&status, sizeof status);
  for (uint64_t i = 0; i < head[3]; i++) put(buffers[result[i]].data, buffers[result[i]].bytes);
  for (uint64_t i = 0; i <= count; i++) release(&buffers[i]);
  if (fflush(stdout) != 0) die("cannot write the answer");
}

int main(void) {
  uint64_t number;
  while (fread(&number, sizeof number, 1, stdin) == 1) serve(number);
  return 0;
}
