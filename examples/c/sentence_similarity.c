/* Compares sentences with a compiled sentence encoder (BERT-like: input_ids, attention_mask and perhaps token_type_ids
 * of i64[B, S] -> f32[B, S, width]), from plain C.
 *
 *     ./sentence_similarity model.so sentences.ids [threads]
 *
 * sentences.ids has one sentence a line, as token ids separated by blanks. Each runs at its own length; its embedding is
 * the mean of the output over the tokens. Printed: the cosine of each sentence with the first. */
#define _POSIX_C_SOURCE 200809L
#include "nomul.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS 512

typedef struct {
  const nm_model *model;
  nm_env env;
  int64_t width; /* of an embedding */
} encoder;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(const nm_model *model, nm_status status) {
  char text[512];
  if (status == NM_OK) return;
  model->describe(status, text, sizeof text);
  fail(model->name, text);
}

static void *allocate(size_t bytes) {
  void *memory = NULL;
  if (posix_memalign(&memory, NM_ALIGNMENT, bytes)) fail("memory", "not enough");
  return memory;
}

/* ---- Open --------------------------------------------------------------------------------------------------- */

static const nm_model *open_model(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) fail("dlopen", dlerror());
  nm_query_function query;
  *(void **)&query = dlsym(library, "nm_query"); /* the cast that POSIX recommends */
  const nm_model *model = query ? query(NM_ABI) : NULL;
  if (!model) fail(path, "is no nomul artifact of this version");
  if (model->missing_cpu()) fail("this CPU lacks", model->missing_cpu());
  return model;
}

static encoder open_encoder(const char *path, uint32_t threads) {
  const nm_model *model = open_model(path);
  encoder result = {.model = model, .env = {.size = sizeof(nm_env)}, .width = -1};
  if (model->output_count && model->outputs[0].rank == 3 && model->outputs[0].dtype == NM_F32) {
    result.width = model->outputs[0].shape[2];
  }
  if (result.width < 0) fail(path, "is no sentence encoder: its first output is not f32[B, S, width]");
  if (model->weights_external) {
    char weights[4096];
    snprintf(weights, sizeof weights, "%s.weights", path);
    check(model, model->map_weights(weights, &result.env.weights, &result.env.weights_size));
  }
  if (threads > 1) {
    const size_t size = model->pool_size(threads);
    check(model, model->pool_start(allocate(size), size, threads, &result.env.pool));
  }
  return result;
}

/* ---- Run ---------------------------------------------------------------------------------------------------- */

/* Gives env enough scratch for inputs of these shapes; keeps what it has if that is enough. */
static void reserve_scratch(encoder *self, const nm_tensor *inputs, uint32_t threads) {
  int64_t dims[NM_MAX_DIMS];
  check(self->model, self->model->bind(inputs, dims));
  const size_t needed = self->model->scratch_size(dims, threads);
  if (needed <= self->env.scratch_size) return;
  free(self->env.scratch);
  self->env.scratch = allocate(needed);
  self->env.scratch_size = needed;
}

/* The mean of the encoder's output over the tokens, scaled to length 1. */
static void embed(encoder *self, uint32_t threads, int64_t *ids, int64_t count, float *embedding) {
  static int64_t ones[MAX_TOKENS], zeros[MAX_TOKENS];
  const int64_t in_shape[] = {1, count}, out_shape[] = {1, count, self->width};
  nm_tensor inputs[8];
  if (self->model->input_count > 8) fail(self->model->name, "has too many inputs for a sentence encoder");
  for (uint32_t i = 0; i < self->model->input_count; i++) {
    const char *name = self->model->inputs[i].name;
    void *data = strcmp(name, "input_ids") == 0 ? ids : strcmp(name, "attention_mask") == 0 ? ones : zeros;
    inputs[i] = (nm_tensor){data, in_shape, 2, NM_I64};
  }
  for (int64_t i = 0; i < count; i++) ones[i] = 1;
  float *states = allocate((size_t)(count * self->width) * sizeof *states);
  const nm_tensor output = {states, out_shape, 3, NM_F32};
  reserve_scratch(self, inputs, threads);
  check(self->model, self->model->run(&self->env, inputs, &output));

  double norm = 0;
  for (int64_t k = 0; k < self->width; k++) {
    double sum = 0;
    for (int64_t token = 0; token < count; token++) sum += states[token * self->width + k];
    embedding[k] = (float)(sum / (double)count);
    norm += (double)embedding[k] * embedding[k];
  }
  for (int64_t k = 0; k < self->width; k++) embedding[k] /= (float)sqrt(norm);
  free(states);
}

static int64_t read_ids(char *line, int64_t *ids) {
  int64_t count = 0;
  for (char *word = strtok(line, " \t\r\n"); word && count < MAX_TOKENS; word = strtok(NULL, " \t\r\n")) {
    ids[count++] = strtoll(word, NULL, 10);
  }
  return count;
}

int main(int count, char **words) {
  if (count < 3) fail("usage", "sentence_similarity model.so sentences.ids [threads]");
  const uint32_t threads = count > 3 ? (uint32_t)atoi(words[3]) : 1;
  encoder encode = open_encoder(words[1], threads);
  FILE *file = fopen(words[2], "r");
  if (!file) fail(words[2], "cannot be opened");

  char line[MAX_TOKENS * 8];
  int64_t ids[MAX_TOKENS];
  float *first = allocate((size_t)encode.width * sizeof *first), *other = allocate((size_t)encode.width * sizeof *other);
  for (int number = 1; fgets(line, sizeof line, file); number++) {
    const int64_t tokens = read_ids(line, ids);
    if (tokens == 0) fail(words[2], "has an empty line");
    embed(&encode, threads, ids, tokens, number == 1 ? first : other);
    double cosine = 0;
    for (int64_t k = 0; k < encode.width; k++) cosine += (double)first[k] * (number == 1 ? first : other)[k];
    printf("%d %d tokens %.6f\n", number, (int)tokens, cosine);
  }
  fclose(file);
  if (encode.env.pool) encode.model->pool_stop(encode.env.pool);
  return 0;
}
