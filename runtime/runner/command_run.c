/* command_run.c: one run on the user's files. */
#include "runner.h"

#include <stdlib.h>
#include <string.h>

static void print_result(const nm_port *port, const nm_tensor *tensor) {
  const size_t count = element_count(tensor);
  printf("%s: %s [", port->name, dtype_name(port->dtype));
  for (int32_t axis = 0; axis < tensor->rank; axis++) printf("%s%" PRId64, axis ? ", " : "", tensor->shape[axis]);
  printf("]");
  for (size_t i = 0; i < count && i < 4; i++) {
    switch (tensor->dtype) {
      case NM_F64: printf(" %.6g", ((double *)tensor->data)[i]); break;
      case NM_F32: printf(" %.6g", (double)((float *)tensor->data)[i]); break;
      case NM_I64: printf(" %" PRId64, ((int64_t *)tensor->data)[i]); break;
      case NM_I32: printf(" %" PRId32, ((int32_t *)tensor->data)[i]); break;
      default: break;
    }
  }
  printf("\n");
}

static void write_file(const char *path, const nm_tensor *tensor) {
  FILE *file = fopen(path, "wb");
  if (!file) fail("cannot write %s", path);
  const int written = npy_write(file, tensor);
  if (fclose(file) != 0 || !written) fail("cannot write %s: is the disk full?", path);
}

/* DIR/NAME.npy, where letters that a file name should not have become '_'. */
static void write_into(const char *folder, const char *name, const nm_tensor *tensor) {
  const size_t room = strlen(folder) + strlen(name) + 6;
  char *path = allocate(room), *at = path + snprintf(path, room, "%s/", folder);
  for (; *name; name++) {
    const int plain = (*name >= '0' && *name <= '9') || ((*name | 32) >= 'a' && (*name | 32) <= 'z') || strchr("._-", *name);
    *at++ = plain ? *name : '_';
  }
  memcpy(at, ".npy", 5);
  write_file(path, tensor);
  free(path);
}

static void write_named(const session *s, const char *word) {
  for (uint32_t i = 0; i < s->model->output_count; i++) {
    const char *path = value_of(word, s->model->outputs[i].name);
    if (!path) continue;
    write_file(path, &s->outputs[i]);
    return;
  }
  fail("--output %s: the model has no such output (--info lists them)", word);
}

int command_run(session *s) {
  const options *o = s->options;
  if (o->dim_count) fail("--dim is for --info and --bench: here the inputs have their sizes");
  load_inputs(s);
  prepare(s);
  run_once(s);
  for (uint32_t i = 0; i < s->model->output_count; i++) {
    print_result(&s->model->outputs[i], &s->outputs[i]);
    if (o->folder) write_into(o->folder, s->model->outputs[i].name, &s->outputs[i]);
  }
  for (int i = 0; i < o->output_count; i++) write_named(s, o->outputs[i]);
  return 0;
}
