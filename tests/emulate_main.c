/* emulate_main.c: runs a model once, for tests/emulate.py: inputs from a file, outputs to a file.
 *
 * Request: level and threads (u32 each), then for each input dtype and rank (i32), the sizes (i64) and the data.
 * Answer: status (i32) and best level (u32); for status 0 then for each output rank (i32), sizes (i64), data, otherwise
 * what is wrong (text). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nomul.h"

#if defined(SHARED)
#include <dlfcn.h>
#elif defined(MACHO)
nm_query_function macho_load(const char *path);
#endif

static const size_t element_sizes[] = {0, 8, 4, 2, 2, 8, 4, 2, 1, 1, 1}; /* by dtype */
static FILE *request, *answer;

static void die(const char *why) {
  fprintf(stderr, "%s\n", why);
  exit(2);
}

static void take(void *data, size_t size) {
  if (size && fread(data, size, 1, request) != 1) die("the request ends early");
}

static void put(const void *data, size_t size) {
  if (size && fwrite(data, size, 1, answer) != 1) die("cannot write the answer");
}

static void *aligned(size_t size) {
  void *memory = NULL;
  if (posix_memalign(&memory, NM_ALIGNMENT, size ? size : 1) != 0) die("out of memory");
  return memory;
}

static size_t bytes_of(const nm_tensor *tensor) {
  size_t bytes = element_sizes[tensor->dtype];
  for (int32_t i = 0; i < tensor->rank; i++) bytes *= (size_t)tensor->shape[i];
  return bytes;
}

static const nm_model *find_model(const char *path) {
#if defined(SHARED)
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) die(dlerror());
  const nm_query_function query = (nm_query_function)(uintptr_t)dlsym(library, "nm_query");
  if (!query) die(dlerror());
  return query(NM_ABI);
#elif defined(MACHO)
  return macho_load(path)(NM_ABI);
#else
  (void)path;
  return nm_query(NM_ABI);
#endif
}

static nm_tensor read_input(void) {
  nm_tensor tensor;
  take(&tensor.dtype, sizeof tensor.dtype);
  take(&tensor.rank, sizeof tensor.rank);
  int64_t *shape = aligned((size_t)tensor.rank * sizeof *shape);
  take(shape, (size_t)tensor.rank * sizeof *shape);
  tensor.shape = shape;
  tensor.data = aligned(bytes_of(&tensor));
  take(tensor.data, bytes_of(&tensor));
  return tensor;
}

static nm_pool *start_pool(const nm_model *model, uint32_t threads) {
  nm_pool *pool = NULL;
  const size_t size = model->pool_size(threads);
  if (threads > 1 && model->pool_start(aligned(size), size, threads, &pool) != NM_OK) die("no pool of threads");
  return pool;
}

static nm_status run(const nm_model *model, uint32_t level, uint32_t threads, nm_tensor *inputs, nm_tensor *outputs) {
  int64_t dims[NM_MAX_DIMS];
  nm_status status = model->bind(inputs, dims);
  if (status != NM_OK) return status;
  for (uint32_t i = 0; i < model->output_count; i++) {
    const nm_port *port = &model->outputs[i];
    int64_t *shape = aligned(NM_MAX_RANK * sizeof *shape);
    model->output_shape(dims, i, shape);
    outputs[i] = (nm_tensor){.shape = shape, .rank = port->rank, .dtype = port->dtype};
    outputs[i].data = aligned(bytes_of(&outputs[i]));
  }
  nm_env env = {.size = sizeof env, .level = level, .scratch_size = model->scratch_size(dims, threads)};
  env.scratch = aligned(env.scratch_size);
  env.pool = start_pool(model, threads);
  status = model->run(&env, inputs, outputs);
  if (env.pool) model->pool_stop(env.pool);
  return status;
}

int main(int count, char **arguments) {
  if (count != 4) die("usage: program REQUEST ANSWER LIBRARY");
  request = fopen(arguments[1], "rb");
  answer = fopen(arguments[2], "wb");
  if (!request || !answer) die("cannot open the files");
  const nm_model *model = find_model(arguments[3]);
  if (!model) die("nm_query knows another version");
  uint32_t level, threads;
  take(&level, sizeof level);
  take(&threads, sizeof threads);
  nm_tensor *inputs = aligned(model->input_count * sizeof *inputs);
  nm_tensor *outputs = aligned(model->output_count * sizeof *outputs);
  for (uint32_t i = 0; i < model->input_count; i++) inputs[i] = read_input();
  const nm_status status = run(model, level, threads, inputs, outputs);
  const uint32_t best = model->best_level();
  put(&status, sizeof status);
  put(&best, sizeof best);
  if (status != NM_OK) {
    char text[512];
    model->describe(status, text, sizeof text);
    if (NM_CODE(status) == NM_MISSING_CPU) snprintf(text, sizeof text, "%s", model->missing_feature(level));
    put(text, strlen(text));
  }
  for (uint32_t i = 0; i < model->output_count && status == NM_OK; i++) {
    put(&outputs[i].rank, sizeof outputs[i].rank);
    put(outputs[i].shape, (size_t)outputs[i].rank * sizeof *outputs[i].shape);
    put(outputs[i].data, bytes_of(&outputs[i]));
  }
  return fclose(answer) ? 2 : 0;
}
