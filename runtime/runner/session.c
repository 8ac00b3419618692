/* session.c: gets a model ready to run: its inputs, outputs, scratch, threads and weights. */
#include "runner.h"

#include <stdlib.h>
#include <string.h>

void check(const nm_model *model, const char *what, nm_status status) {
  char words[512];
  if (status == NM_OK) return;
  model->describe(status, words, sizeof words);
  fail("%s: %s", what, words);
}

static uint32_t find_level(const nm_model *model, const char *name) {
  if (!name) return 0;
  for (uint32_t level = 1; level <= model->level_count; level++) {
    if (strcmp(model->levels[level - 1].name, name) != 0) continue;
    const char *missing = model->missing_feature(level);
    if (missing) fail("this CPU lacks %s, which level %s needs", missing, name);
    return level;
  }
  fail("the model has no level %s (--info lists them)", name);
}

session open_session(const options *o) {
  const nm_model *model = find_model(o->library);
  if (!model) fail("the model speaks another version of the interface than %u", NM_ABI);
  if (model->missing_cpu()) fail("this CPU lacks %s, which the model (%s) needs", model->missing_cpu(), model->target);
  session s = {.model = model, .options = o};
  s.inputs = allocate(model->input_count * sizeof *s.inputs);
  s.outputs = allocate(model->output_count * sizeof *s.outputs);
  s.env = (nm_env){.size = sizeof s.env, .level = find_level(model, o->level)};
  return s;
}

void choose_dims(session *s) {
  const options *o = s->options;
  int known = 0;
  for (uint32_t i = 0; i < s->model->dim_count; i++) {
    const nm_dim *dim = &s->model->dims[i];
    s->dims[i] = recorded.usual_dims[i];
    for (int k = 0; k < o->dim_count; k++) {
      const char *value = value_of(o->dims[k], dim->name);
      if (!value) continue;
      char *end;
      known++;
      s->dims[i] = strtoll(value, &end, 10);
      const int in_range = s->dims[i] >= dim->min && s->dims[i] <= dim->max;
      if (end == value || *end || !in_range) {
        fail("dim %s goes from %" PRId64 " to %" PRId64 ", not %s", dim->name, dim->min, dim->max, value);
      }
    }
  }
  if (known != o->dim_count) fail("a --dim names no dim of the model, or one twice (--info lists them)");
}

/* ---- Inputs --------------------------------------------------------------------------------------------------- */

nm_tensor tensor_of_npy(const char *what, const uint8_t *bytes, size_t size, const nm_port *port) {
  npy_array array;
  const char *wrong = npy_read(bytes, size, &array);
  if (wrong) fail("%s: %s", what, wrong);
  if (array.dtype != port->dtype) {
    fail("%s: its elements are %s, those of %s %s", what, dtype_name(array.dtype), port->name, dtype_name(port->dtype));
  }
  if (array.rank != port->rank) {
    fail("%s: it has %d axes, %s has %d: %s", what, array.rank, port->name, port->rank, port->shape_text);
  }
  int64_t *shape = allocate(sizeof array.shape);
  memcpy(shape, array.shape, sizeof array.shape);
  nm_tensor tensor = {allocate(array.size), shape, array.rank, array.dtype};
  memcpy(tensor.data, array.data, array.size);
  return tensor;
}

static void load_input(session *s, const char *word) {
  for (uint32_t i = 0; i < s->model->input_count; i++) {
    const char *path = value_of(word, s->model->inputs[i].name);
    if (!path) continue;
    if (s->inputs[i].data) fail("input %s is given twice", s->model->inputs[i].name);
    size_t size;
    uint8_t *bytes = read_file(path, &size);
    s->inputs[i] = tensor_of_npy(path, bytes, size, &s->model->inputs[i]);
    free(bytes);
    return;
  }
  fail("%s: the model has no such input (--info lists them)", word);
}

void load_inputs(session *s) {
  for (int i = 0; i < s->options->word_count; i++) load_input(s, s->options->words[i]);
}

/* Pseudo-random, the same everywhere: floats in [-1, 1), integers in the bounds that the compiler noted. */
static void fill(const nm_tensor *tensor, const int64_t bounds[2]) {
  static uint32_t state = 1;
  const size_t count = element_count(tensor);
  for (size_t i = 0; i < count; i++) {
    state = state * 1664525u + 1013904223u;
    const double random = (double)state / 2147483648.0 - 1.0;
    const int64_t whole = bounds[0] + (int64_t)((uint64_t)(state >> 8) % (uint64_t)(bounds[1] - bounds[0] + 1));
    switch (tensor->dtype) {
      case NM_F64: ((double *)tensor->data)[i] = random; break;
      case NM_F32: ((float *)tensor->data)[i] = (float)random; break;
      case NM_F16: ((uint16_t *)tensor->data)[i] = (uint16_t)(0x3800 | state >> 31 << 15); break;  /* 0.5 or -0.5 */
      case NM_BF16: ((uint16_t *)tensor->data)[i] = (uint16_t)(0x3f00 | state >> 31 << 15); break; /* the same */
      case NM_I64: ((int64_t *)tensor->data)[i] = whole; break;
      case NM_I32: ((int32_t *)tensor->data)[i] = (int32_t)whole; break;
      case NM_I16: ((int16_t *)tensor->data)[i] = (int16_t)whole; break;
      case NM_BOOL: ((uint8_t *)tensor->data)[i] = 1; break;
      default: ((uint8_t *)tensor->data)[i] = (uint8_t)whole; break;
    }
  }
}

void free_tensor(nm_tensor *tensor) {
  free(tensor->data);
  free((void *)(uintptr_t)tensor->shape);
}

static nm_tensor new_tensor(const nm_port *port, const int64_t *shape) {
  nm_tensor tensor = {.shape = shape, .rank = port->rank, .dtype = port->dtype};
  tensor.data = allocate(byte_count(&tensor));
  return tensor;
}

void fill_inputs(session *s) {
  const nm_model *model = s->model;
  for (uint32_t i = 0; i < model->input_count; i++) {
    if (s->inputs[i].data) continue;
    int64_t *shape = allocate(NM_MAX_RANK * sizeof *shape);
    check(model, model->inputs[i].name, model->input_shape(s->dims, i, shape));
    s->inputs[i] = new_tensor(&model->inputs[i], shape);
    fill(&s->inputs[i], recorded.bounds[i]);
  }
}

/* ---- The rest ------------------------------------------------------------------------------------------------- */

/* The path of a file beside this program. */
static char *beside_program(const char *program, const char *file) {
  const char *slash = strrchr(program, '/');
  const size_t folder = slash ? (size_t)(slash + 1 - program) : 0;
  char *path = allocate(folder + strlen(file) + 1);
  memcpy(path, program, folder);
  strcpy(path + folder, file);
  return path;
}

static void use_weights(session *s) {
  const nm_model *model = s->model;
  const char *given = s->options->weights;
  if (!model->weights_external) return;
  char *usual = beside_program(s->options->program, recorded.weights_file);
  const char *path = given ? given : usual;
  check(model, path, model->map_weights(path, &s->env.weights, &s->env.weights_size));
  free(usual);
}

static void start_threads(session *s) {
  const uint32_t threads = s->options->threads;
  if (threads < 2) return;
  const size_t size = s->model->pool_size(threads);
  s->pool_memory = allocate(size);
  check(s->model, "--threads", s->model->pool_start(s->pool_memory, size, threads, &s->env.pool));
}

void prepare(session *s) {
  const nm_model *model = s->model;
  for (uint32_t i = 0; i < model->input_count; i++) {
    if (!s->inputs[i].data) fail("input %s is missing: %s=FILE.npy", model->inputs[i].name, model->inputs[i].name);
  }
  check(model, "inputs", model->bind(s->inputs, s->dims));
  for (uint32_t i = 0; i < model->output_count; i++) {
    int64_t *shape = allocate(NM_MAX_RANK * sizeof *shape);
    check(model, model->outputs[i].name, model->output_shape(s->dims, i, shape));
    s->outputs[i] = new_tensor(&model->outputs[i], shape);
  }
  s->env.scratch_size = model->scratch_size(s->dims, s->options->threads);
  s->env.scratch = allocate(s->env.scratch_size);
  use_weights(s);
  start_threads(s);
}

void run_once(session *s) { check(s->model, "run", s->model->run(&s->env, s->inputs, s->outputs)); }

static void free_tensors(nm_tensor *tensors, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) free_tensor(&tensors[i]);
  free(tensors);
}

void close_session(session *s) {
  const nm_model *model = s->model;
  if (s->env.pool) model->pool_stop(s->env.pool);
  if (s->env.weights) model->unmap_weights(s->env.weights, s->env.weights_size);
  free_tensors(s->inputs, model->input_count);
  free_tensors(s->outputs, model->output_count);
  free(s->pool_memory);
  free(s->env.scratch);
}
