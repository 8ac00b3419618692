/* Runs a compiled sentence encoder from C: no Python, no library but libc.
 *
 *     encode MODEL.so BATCH LENGTH IDS.bin MASK.bin OUT.bin
 *
 * IDS and MASK hold int64 [BATCH, LENGTH]; OUT gets the model's last output as floats. `make demo` builds and runs it.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nomul.h"

#define MAX_PORTS 16

static void fail(const char *what, const char *why) {
  fprintf(stderr, "encode: %s: %s\n", what, why);
  exit(1);
}

static void check(const nm_model *model, nm_status status, const char *what) {
  char text[512];
  if (status == NM_OK) return;
  model->describe(status, text, sizeof text);
  fail(what, text);
}

static void *allocate(size_t bytes) {
  size_t rounded = (bytes + NM_ALIGNMENT) / NM_ALIGNMENT * NM_ALIGNMENT;
  void *memory = aligned_alloc(NM_ALIGNMENT, rounded);
  if (!memory) fail("memory", "not enough");
  return memory;
}

static void *read_file(const char *path, size_t bytes) {
  void *data = allocate(bytes);
  FILE *file = fopen(path, "rb");
  if (!file) fail(path, "cannot open");
  if (fread(data, 1, bytes, file) != bytes) fail(path, "too short");
  fclose(file);
  return data;
}

static const nm_model *open_model(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) fail(path, dlerror());
  nm_query_function query;
  *(void **)&query = dlsym(library, "nm_query");
  if (!query) fail(path, "is no compiled model");
  const nm_model *model = query(NM_ABI);
  if (!model) fail(path, "speaks another version of the interface");
  const char *missing = model->missing_cpu();
  if (missing) fail("this CPU lacks", missing);
  return model;
}

static size_t element_bytes(int32_t dtype) {
  return dtype == NM_F64 || dtype == NM_I64 ? 8 : dtype == NM_F32 || dtype == NM_I32 ? 4
       : dtype == NM_F16 || dtype == NM_BF16 || dtype == NM_I16 ? 2 : 1;
}

/* Shapes and memory for the output ports; returns the bytes of the last one. */
static size_t make_outputs(const nm_model *model, const int64_t *dims, nm_tensor *outputs, int64_t (*shapes)[NM_MAX_RANK]) {
  size_t bytes = 0;
  for (uint32_t i = 0; i < model->output_count; i++) {
    const nm_port *port = &model->outputs[i];
    check(model, model->output_shape(dims, i, shapes[i]), "shape of an output");
    bytes = element_bytes(port->dtype);
    for (int32_t axis = 0; axis < port->rank; axis++) bytes *= (size_t)shapes[i][axis];
    outputs[i] = (nm_tensor){allocate(bytes), shapes[i], port->rank, port->dtype};
  }
  return bytes;
}

int main(int argc, char **argv) {
  if (argc != 7) fail("usage", "encode MODEL.so BATCH LENGTH IDS.bin MASK.bin OUT.bin");
  const nm_model *model = open_model(argv[1]);
  if (model->input_count != 2 || model->output_count > MAX_PORTS) fail(argv[1], "is no sentence encoder");

  int64_t shape[2] = {atoll(argv[2]), atoll(argv[3])};
  size_t bytes = (size_t)(shape[0] * shape[1]) * sizeof(int64_t);
  nm_tensor inputs[2] = {{read_file(argv[4], bytes), shape, 2, NM_I64}, {read_file(argv[5], bytes), shape, 2, NM_I64}};
  int64_t dims[NM_MAX_DIMS];
  check(model, model->bind(inputs, dims), "inputs");

  nm_tensor outputs[MAX_PORTS];
  int64_t shapes[MAX_PORTS][NM_MAX_RANK];
  size_t last_bytes = make_outputs(model, dims, outputs, shapes);
  nm_tensor *last = &outputs[model->output_count - 1];

  size_t scratch_bytes = model->scratch_size(dims, 1);
  nm_env env = {.size = sizeof env, .scratch = allocate(scratch_bytes), .scratch_size = scratch_bytes};
  check(model, model->run(&env, inputs, outputs), "run");

  FILE *file = fopen(argv[6], "wb");
  if (!file || fwrite(last->data, 1, last_bytes, file) != last_bytes || fclose(file)) fail(argv[6], "cannot write");
  printf("C program: %s, %lld texts of %lld tokens, %.1f MB scratch, first numbers", model->name, (long long)shape[0],
         (long long)shape[1], (double)scratch_bytes / 1e6);
  for (int i = 0; i < 4; i++) printf(" %.5f", (double)((const float *)last->data)[i]);
  printf("\n");
  for (uint32_t i = 0; i < model->output_count; i++) free(outputs[i].data);
  for (int i = 0; i < 2; i++) free(inputs[i].data);
  free(env.scratch);
  return 0;
}
