/* command_info.c: what the model takes and gives, and the memory it needs. */
#include "runner.h"

static void print_ports(const char *kind, const nm_port *ports, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    printf("%s %s: %s %s\n", kind, ports[i].name, dtype_name(ports[i].dtype), ports[i].shape_text);
  }
}

static void print_levels(const nm_model *model) {
  const uint32_t best = model->best_level();
  for (uint32_t level = 1; level <= model->level_count; level++) {
    const char *missing = model->missing_feature(level);
    printf("level %s (%s): ", model->levels[level - 1].name, model->levels[level - 1].features);
    if (missing) printf("this CPU lacks %s\n", missing);
    else printf("%s\n", level == best ? "used on this CPU" : "runs on this CPU");
  }
}

static void print_scratch(const nm_model *model, const int64_t *dims, uint32_t threads) {
  const size_t bytes = model->scratch_size(dims, threads);
  printf("scratch memory of a run, %" PRIu32 " thread%s", threads, threads > 1 ? "s" : "");
  for (uint32_t i = 0; i < model->dim_count; i++) printf(", %s = %" PRId64, model->dims[i].name, dims[i]);
  if (bytes) printf(": %zu bytes\n", bytes);
  else printf(": more than this machine can address\n");
}

int command_info(session *s) {
  const nm_model *model = s->model;
  printf("%s for %s\n", model->name, model->target);
  print_ports("input", model->inputs, model->input_count);
  print_ports("output", model->outputs, model->output_count);
  for (uint32_t i = 0; i < model->dim_count; i++) {
    printf("dim %s: %" PRId64 " to %" PRId64 "\n", model->dims[i].name, model->dims[i].min, model->dims[i].max);
  }
  print_levels(model);
  printf("weights: %" PRIu64 " bytes%s\n", model->weights_size, model->weights_external ? ", in a file of their own" : "");
  choose_dims(s);
  print_scratch(model, s->dims, s->options->threads);
  return 0;
}
