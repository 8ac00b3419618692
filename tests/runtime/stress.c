/* Several threads run the toy model at once, with no pool, a pool of their own, or one that all share, on random shapes
 * in memory of exactly the right size; each result is compared with the definition. For builds with sanitizers.
 *
 *     ./stress USERS TURNS */
#define _POSIX_C_SOURCE 200809L
#include "nomul.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const nm_model *model;
static nm_pool *shared_pool;
static int turns;

static void stop(const char *what, nm_status status) {
  char text[256];
  model->describe(status, text, sizeof text);
  fprintf(stderr, "%s: %s\n", what, text);
  exit(1);
}

static void *allocate(size_t bytes) {
  void *memory = NULL;
  if (posix_memalign(&memory, NM_ALIGNMENT, bytes ? bytes : 1)) exit(2);
  return memory;
}

static nm_pool *start_pool(uint32_t threads, void **memory) {
  nm_pool *pool = NULL;
  const size_t size = model->pool_size(threads);
  *memory = allocate(size);
  const nm_status status = model->pool_start(*memory, size, threads, &pool);
  if (status != NM_OK) stop("pool_start", status);
  return pool;
}

static float expected(const float *x, const float *y, int64_t length, int64_t b, int64_t s) {
  const int64_t from = length - 1 - s;
  return (x[b * length + from] + y[b * (2 * length + 1) + 2 * from + 1] + (float)(from % 4)) * 0.5f;
}

static void run_once(unsigned *seed, nm_pool *pool, uint32_t threads) {
  const int64_t batch = 1 + rand_r(seed) % 40, length = 1 + rand_r(seed) % 60;
  const int64_t x_shape[] = {batch, length}, y_shape[] = {batch, 2 * length + 1}, info_shape[] = {2};
  const int64_t x_size = batch * length, y_size = batch * (2 * length + 1);
  float *x = malloc((size_t)x_size * 4), *y = malloc((size_t)y_size * 4), *z = malloc((size_t)x_size * 4);
  int64_t info[2], dims[NM_MAX_DIMS];
  for (int64_t i = 0; i < x_size; i++) x[i] = (float)(rand_r(seed) % 1000);
  for (int64_t i = 0; i < y_size; i++) y[i] = (float)(rand_r(seed) % 1000);
  const nm_tensor in[] = {{x, x_shape, 2, NM_F32}, {y, y_shape, 2, NM_F32}};
  const nm_tensor out[] = {{z, x_shape, 2, NM_F32}, {info, info_shape, 1, NM_I64}};

  nm_status status = model->bind(in, dims);
  if (status != NM_OK) stop("bind", status);
  nm_env env = {.size = sizeof env, .pool = pool, .scratch_size = model->scratch_size(dims, threads)};
  env.scratch = allocate(env.scratch_size);
  status = model->run(&env, in, out);
  if (status != NM_OK) stop("run", status);
  for (int64_t b = 0; b < batch; b++) {
    for (int64_t s = 0; s < length; s++) {
      if (z[b * length + s] == expected(x, y, length, b, s)) continue;
      fprintf(stderr, "z[%d, %d] of [%d, %d] is wrong\n", (int)b, (int)s, (int)batch, (int)length);
      exit(1);
    }
  }
  free(env.scratch), free(x), free(y), free(z);
}

static void *user(void *argument) {
  unsigned seed = 1 + *(unsigned *)argument;
  for (int turn = 0; turn < turns; turn++) {
    void *memory = NULL;
    if (turn % 3 == 0) run_once(&seed, NULL, 1);
    if (turn % 3 == 1) run_once(&seed, shared_pool, 3);
    if (turn % 3 == 2 && turn % 10 == 2) {
      nm_pool *pool = start_pool(2, &memory);
      for (int i = 0; i < 10; i++) run_once(&seed, pool, 2);
      model->pool_stop(pool);
      free(memory);
    }
  }
  return NULL;
}

int main(int count, char **words) {
  pthread_t threads[16];
  unsigned numbers[16];
  void *memory;
  if (count != 3) return 2;
  const int users = atoi(words[1]);
  turns = atoi(words[2]);
  model = nm_query(NM_ABI);
  if (!model || users > 16) return 2;
  shared_pool = start_pool(3, &memory);
  for (int i = 0; i < users; i++) {
    numbers[i] = (unsigned)i;
    if (pthread_create(&threads[i], NULL, user, &numbers[i])) return 2;
  }
  for (int i = 0; i < users; i++) pthread_join(threads[i], NULL);
  model->pool_stop(shared_pool);
  free(memory);
  puts("all right");
  return 0;
}
