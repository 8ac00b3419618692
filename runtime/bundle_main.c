/* main.c: runs the model on made-up inputs and prints what comes out and how long it takes.
 *
 *     ./main [DIM=SIZE]... [threads=N] [runs=N]
 *
 * Floats are pseudo-random in [-1, 1), everything else is 1. It shows every call that a program needs. */
#define _POSIX_C_SOURCE 200809L
#include "nomul.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Only looked at if the model keeps its weights in a file. */
#if defined(__APPLE__)
#define WEIGHTS "model.dylib.weights"
#else
#define WEIGHTS "model.so.weights"
#endif

static void stop(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(const nm_model *model, const char *what, nm_status status) {
  char text[512];
  if (status == NM_OK) return;
  model->describe(status, text, sizeof text);
  stop(what, text);
}

static void *allocate(size_t bytes) {
  void *memory = aligned_alloc(NM_ALIGNMENT, (bytes + NM_ALIGNMENT) / NM_ALIGNMENT * NM_ALIGNMENT);
  if (!memory) stop("memory", "not enough");
  return memory;
}

static int64_t option(int count, char **words, const char *name, int64_t otherwise) {
  const size_t length = strlen(name);
  for (int i = 1; i < count; i++) {
    if (strncmp(words[i], name, length) == 0 && words[i][length] == '=') return strtoll(words[i] + length + 1, NULL, 10);
  }
  return otherwise;
}

static size_t element_size(int32_t dtype) {
  static const size_t sizes[] = {0, 8, 4, 2, 2, 8, 4, 2, 1, 1, 1};
  return sizes[dtype];
}

static size_t elements(const nm_tensor *tensor) {
  size_t count = 1;
  for (int32_t axis = 0; axis < tensor->rank; axis++) count *= (size_t)tensor->shape[axis];
  return count;
}

static void fill(const nm_tensor *tensor) {
  static uint32_t state = 1;
  const size_t count = elements(tensor);
  for (size_t i = 0; i < count; i++) {
    state = state * 1664525u + 1013904223u;
    const double random = (double)state / 2147483648.0 - 1.0;
    switch (tensor->dtype) {
      case NM_F64: ((double *)tensor->data)[i] = random; break;
      case NM_F32: ((float *)tensor->data)[i] = (float)random; break;
      case NM_F16: ((uint16_t *)tensor->data)[i] = 0x3c00; break;
      case NM_BF16: ((uint16_t *)tensor->data)[i] = 0x3f80; break;
      case NM_I64: ((int64_t *)tensor->data)[i] = 1; break;
      case NM_I32: ((int32_t *)tensor->data)[i] = 1; break;
      case NM_I16: ((int16_t *)tensor->data)[i] = 1; break;
      default: ((uint8_t *)tensor->data)[i] = 1; break;
    }
  }
}

static void print_result(const nm_port *port, const nm_tensor *tensor) {
  const size_t count = elements(tensor), bytes = count * element_size(tensor->dtype);
  uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
  for (size_t i = 0; i < bytes; i++) hash = (hash ^ ((uint8_t *)tensor->data)[i]) * UINT64_C(0x100000001b3);
  printf("%s %s: %zu elements, checksum %016" PRIx64, port->name, port->shape_text, count, hash);
  if (tensor->dtype == NM_F32) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += ((float *)tensor->data)[i];
    printf(", mean %.6g", count ? sum / (double)count : 0);
  }
  printf("\n");
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Fills in a tensor for a port, with memory of its own. */
static nm_tensor make_tensor(const nm_port *port, int64_t *shape) {
  nm_tensor tensor = {.shape = shape, .rank = port->rank, .dtype = port->dtype};
  tensor.data = allocate(elements(&tensor) * element_size(port->dtype));
  return tensor;
}

static void choose_dims(const nm_model *model, int count, char **words, int64_t *dims) {
  for (uint32_t i = 0; i < model->dim_count; i++) {
    const nm_dim *dim = &model->dims[i];
    const int64_t usual = dim->min > 16 ? dim->min : dim->max < 16 ? dim->max : 16;
    dims[i] = option(count, words, dim->name, usual);
    printf("%s = %" PRId64 " in [%" PRId64 ", %" PRId64 "]\n", dim->name, dims[i], dim->min, dim->max);
  }
}

static nm_tensor *make_inputs(const nm_model *model, const int64_t *dims) {
  nm_tensor *inputs = allocate(model->input_count * sizeof *inputs);
  for (uint32_t i = 0; i < model->input_count; i++) {
    int64_t *shape = allocate(NM_MAX_RANK * sizeof *shape);
    check(model, model->inputs[i].name, model->input_shape(dims, i, shape));
    inputs[i] = make_tensor(&model->inputs[i], shape);
    fill(&inputs[i]);
  }
  return inputs;
}

static nm_tensor *make_outputs(const nm_model *model, const int64_t *dims) {
  nm_tensor *outputs = allocate(model->output_count * sizeof *outputs);
  for (uint32_t i = 0; i < model->output_count; i++) {
    int64_t *shape = allocate(NM_MAX_RANK * sizeof *shape);
    check(model, model->outputs[i].name, model->output_shape(dims, i, shape));
    outputs[i] = make_tensor(&model->outputs[i], shape);
  }
  return outputs;
}

static nm_env make_env(const nm_model *model, const int64_t *dims, uint32_t threads) {
  nm_env env = {.size = sizeof env, .scratch_size = model->scratch_size(dims, threads)};
  if (!env.scratch_size) stop("threads or dims", "out of range");
  env.scratch = allocate(env.scratch_size);
  if (model->weights_external) check(model, WEIGHTS, model->map_weights(WEIGHTS, &env.weights, &env.weights_size));
  if (threads > 1) {
    const size_t pool_size = model->pool_size(threads);
    check(model, "threads", model->pool_start(allocate(pool_size), pool_size, threads, &env.pool));
  }
  return env;
}

/* The least time of so many runs in seconds. */
static double measure(const nm_model *model, const nm_env *env, const nm_tensor *in, const nm_tensor *out, int64_t runs) {
  double best = 1e30;
  for (int64_t i = 0; i < runs; i++) {
    const double start = seconds();
    check(model, "run", model->run(env, in, out));
    const double time = seconds() - start;
    if (time < best) best = time;
  }
  return best;
}

int main(int count, char **words) {
  int64_t dims[NM_MAX_DIMS];
  const uint32_t threads = (uint32_t)option(count, words, "threads", 1);
  const int64_t runs = option(count, words, "runs", 10);
  const nm_model *model = nm_query(NM_ABI);
  if (!model) stop("nm_query", "the library has another ABI");
  if (model->missing_cpu()) stop("this CPU lacks", model->missing_cpu());
  printf("%s for %s, level %s\n", model->name, model->target, model->levels[model->best_level() - 1].name);

  choose_dims(model, count, words, dims);
  const nm_tensor *inputs = make_inputs(model, dims), *outputs = make_outputs(model, dims);
  const nm_env env = make_env(model, dims, threads);
  const double best = measure(model, &env, inputs, outputs, runs);
  for (uint32_t i = 0; i < model->output_count; i++) print_result(&model->outputs[i], &outputs[i]);
  printf("best of %" PRId64 " runs: %.3f ms, %" PRIu32 " thread%s\n", runs, best * 1e3, threads, threads > 1 ? "s" : "");
  if (env.pool) model->pool_stop(env.pool); /* the system takes back the memory */
  return 0;
}
