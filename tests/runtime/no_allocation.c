/* Counts what a run of the toy model asks of malloc and its kin: nothing, with and without threads. GNU libc. */
#include "nomul.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
static atomic_int calls;

void *malloc(size_t size) {
  calls++;
  return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
  calls++;
  return __libc_calloc(count, size);
}
void *realloc(void *memory, size_t size) {
  calls++;
  return __libc_realloc(memory, size);
}
int posix_memalign(void **memory, size_t alignment, size_t size) {
  calls++;
  *memory = __libc_memalign(alignment, size);
  return 0;
}

int main(void) {
  static float x[64 * 8], y[64 * 17], z[64 * 8];
  static _Alignas(64) char scratch[1 << 16], pool_memory[1 << 12];
  static int64_t info[2];
  const int64_t x_shape[] = {64, 8}, y_shape[] = {64, 17}, info_shape[] = {2};
  const nm_tensor in[] = {{x, x_shape, 2, NM_F32}, {y, y_shape, 2, NM_F32}};
  const nm_tensor out[] = {{z, x_shape, 2, NM_F32}, {info, info_shape, 1, NM_I64}};
  const nm_model *model = nm_query(NM_ABI);
  nm_env env = {.size = sizeof env, .scratch = scratch, .scratch_size = sizeof scratch};
  free(malloc(1)); /* shows that the counter counts */
  const int counted = calls == 1;
  nm_status status = model->run(&env, in, out);
  const int serial = calls - 1;
  if (model->pool_start(pool_memory, sizeof pool_memory, 3, &env.pool) != NM_OK) return 2;
  calls = 0;
  for (int i = 0; i < 100 && status == NM_OK; i++) status = model->run(&env, in, out);
  const int parallel = calls;
  model->pool_stop(env.pool);
  printf("counted %d, serial %d, parallel %d, status %d\n", counted, serial, parallel, status);
  return 0;
}
