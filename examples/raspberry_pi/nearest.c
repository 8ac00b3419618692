/* Finds for each sentence the one that means nearly the same, with a compiled sentence encoder that is linked in
 * (input_ids, attention_mask: i64[1, S] -> the last output f32[1, width]).
 *
 *     ./nearest sentences.ids      one sentence a line, as token numbers (examples/sentence_ids.py writes them) */
#include "nomul.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SENTENCES = 1000, MAX_TOKENS = 512, MAX_OUTPUTS = 8 };

static const nm_model *model;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "nearest: %s: %s\n", what, why);
  exit(1);
}

static void check(const char *what, nm_status status) {
  char text[512];
  if (status == NM_OK) return;
  model->describe(status, text, sizeof text);
  fail(what, text);
}

static void *allocate(size_t bytes) {
  void *memory = aligned_alloc(NM_ALIGNMENT, (bytes + NM_ALIGNMENT) / NM_ALIGNMENT * NM_ALIGNMENT);
  if (!memory) fail("memory", "not enough");
  return memory;
}

static void open_model(void) {
  model = nm_query(NM_ABI);
  if (!model) fail("model", "speaks another version of the interface");
  if (model->missing_cpu()) fail("this CPU lacks", model->missing_cpu());
  const nm_port *last = &model->outputs[model->output_count - 1];
  const int is_embedding = last->rank == 2 && last->dtype == NM_F32;
  if (!is_embedding || model->input_count != 2 || model->output_count > MAX_OUTPUTS || model->weights_external) fail("model", "is no sentence encoder with its weights inside");
}

/* The embedding of one sentence, scaled to length 1; its width goes to *width. */
static float *embed(int64_t *ids, int64_t count, int64_t *width) {
  const int64_t shape[] = {1, count};
  int64_t ones[MAX_TOKENS], dims[NM_MAX_DIMS], shapes[MAX_OUTPUTS][NM_MAX_RANK];
  for (int64_t i = 0; i < count; i++) ones[i] = 1;
  const nm_tensor inputs[] = {{ids, shape, 2, NM_I64}, {ones, shape, 2, NM_I64}};
  nm_tensor outputs[MAX_OUTPUTS];
  check("inputs", model->bind(inputs, dims));
  for (uint32_t i = 0; i < model->output_count; i++) {
    size_t elements = 1;
    check("output", model->output_shape(dims, i, shapes[i]));
    for (int32_t axis = 0; axis < model->outputs[i].rank; axis++) elements *= (size_t)shapes[i][axis];
    outputs[i] = (nm_tensor){allocate(elements * 8), shapes[i], model->outputs[i].rank, model->outputs[i].dtype};
  }
  nm_env env = {.size = sizeof env, .scratch_size = model->scratch_size(dims, 1)};
  env.scratch = allocate(env.scratch_size); /* the only memory that run uses */
  check("run", model->run(&env, inputs, outputs));
  free(env.scratch);

  const uint32_t last = model->output_count - 1;
  for (uint32_t i = 0; i < last; i++) free(outputs[i].data);
  float *embedding = outputs[last].data;
  double norm = 0;
  *width = shapes[last][1];
  for (int64_t k = 0; k < *width; k++) norm += (double)embedding[k] * (double)embedding[k];
  for (int64_t k = 0; k < *width; k++) embedding[k] /= (float)sqrt(norm);
  return embedding;
}

static int64_t read_ids(char *line, int64_t *ids) {
  int64_t count = 0;
  for (char *word = strtok(line, " \t\r\n"); word && count < MAX_TOKENS; word = strtok(NULL, " \t\r\n")) {
    ids[count++] = strtoll(word, NULL, 10);
  }
  return count;
}

static float product(const float *a, const float *b, int64_t width) {
  float sum = 0;
  for (int64_t k = 0; k < width; k++) sum += a[k] * b[k];
  return sum;
}

static void print_nearest(float *const *embeddings, int sentences, int one, int64_t width) {
  int nearest = -1;
  float best = -2;
  for (int other = 0; other < sentences; other++) {
    const float cosine = product(embeddings[one], embeddings[other], width);
    if (other == one || cosine <= best) continue;
    best = cosine;
    nearest = other;
  }
  printf("%d: nearest %d, cosine %.6f\n", one + 1, nearest + 1, (double)best);
}

int main(int count, char **words) {
  static char line[MAX_TOKENS * 8];
  static float *embeddings[MAX_SENTENCES];
  int64_t ids[MAX_TOKENS], width = 0;
  int sentences = 0;
  if (count != 2) fail("usage", "nearest sentences.ids");
  open_model();
  FILE *file = fopen(words[1], "r");
  if (!file) fail(words[1], "cannot be opened");
  while (sentences < MAX_SENTENCES && fgets(line, sizeof line, file)) {
    const int64_t tokens = read_ids(line, ids);
    if (tokens == 0) fail(words[1], "has an empty line");
    embeddings[sentences++] = embed(ids, tokens, &width);
  }
  fclose(file);
  for (int i = 0; i < sentences && sentences > 1; i++) print_nearest(embeddings, sentences, i, width);
  for (int i = 0; i < sentences; i++) free(embeddings[i]);
  return 0;
}
