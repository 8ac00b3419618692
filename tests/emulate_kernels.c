/* emulate_kernels.c: calls kernels with buffers from a file, for tests/emulate_kernels.py; `calls` is a generated table.
 *
 * Request: number of calls (u32). For each: kernel, buffers, results (the last of the buffers), dims, cuts (u32 each);
 * size of scratch (u64); dims (i64); cuts between ranges of tiles (i64); alignment (u32), size (u64), bytes of each buffer.
 * Answer: the bytes of all results. A buffer ends at a page that cannot be touched, and what is before it is checked. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 65536
#define MOST 32

typedef int32_t (*call)(void **pointers, const int64_t *dims, int64_t begin, int64_t end, void *scratch);
extern const call calls[];

typedef struct {
  uint8_t *memory, *data;
  size_t room, size;
} buffer;

static FILE *request, *answer;

static void die(const char *why) {
  fprintf(stderr, "%s\n", why);
  exit(2);
}

static void take(void *data, size_t size) {
  if (size && fread(data, size, 1, request) != 1) die("the request ends early");
}

static buffer make(size_t size, size_t alignment) {
  buffer made = {.size = size, .room = (size + PAGE - 1) / PAGE * PAGE + PAGE};
  made.memory = mmap(NULL, made.room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made.memory == MAP_FAILED || mprotect(made.memory + made.room, PAGE, PROT_NONE) != 0) die("out of memory");
  made.data = made.memory + (made.room - size) / alignment * alignment;
  memset(made.memory, 0xa5, made.room);
  return made;
}

static void check(const buffer *used) {
  for (const uint8_t *at = used->memory; at < used->memory + used->room; at++) {
    if ((at < used->data || at >= used->data + used->size) && *at != 0xa5) die("a kernel wrote outside of a buffer");
  }
}

static void run(void) {
  uint32_t head[5]; /* kernel, buffers, results, dims, cuts */
  uint64_t scratch_size, size;
  int64_t dims[MOST], cuts[MOST];
  buffer buffers[MOST + 1];
  void *pointers[MOST];
  take(head, sizeof head);
  take(&scratch_size, sizeof scratch_size);
  if (head[1] > MOST || head[3] > MOST || head[4] > MOST) die("too many");
  take(dims, head[3] * sizeof *dims);
  take(cuts, head[4] * sizeof *cuts);
  for (uint32_t i = 0; i < head[1]; i++) {
    uint32_t alignment;
    take(&alignment, sizeof alignment);
    take(&size, sizeof size);
    buffers[i] = make((size_t)size, alignment);
    take(buffers[i].data, (size_t)size);
    pointers[i] = buffers[i].data;
  }
  buffers[head[1]] = make((size_t)scratch_size, 64);
  for (uint32_t i = head[4] - 1; i > 0; i--) {
    if (calls[head[0]](pointers, dims, cuts[i - 1], cuts[i], buffers[head[1]].data) != 0) die("a kernel failed");
  }
  for (uint32_t i = 0; i <= head[1]; i++) {
    check(&buffers[i]);
    const int is_result = i >= head[1] - head[2] && i < head[1];
    if (is_result && buffers[i].size) fwrite(buffers[i].data, buffers[i].size, 1, answer);
    munmap(buffers[i].memory, buffers[i].room + PAGE);
  }
}

int main(int count, char **arguments) {
  uint32_t number;
  if (count != 3) die("usage: program REQUEST ANSWER");
  request = fopen(arguments[1], "rb");
  answer = fopen(arguments[2], "wb");
  if (!request || !answer) die("cannot open the files");
  for (take(&number, sizeof number); number; number--) run();
  return fclose(answer) ? 2 : 0;
}
