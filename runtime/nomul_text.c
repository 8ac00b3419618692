/* nomul_text.c: sentences for statuses. */
#include "nomul_rt.h"

static const char *const sentences[] = {
    [NM_OK] = "success",
    [NM_NULL_POINTER] = "a required pointer is NULL",
    [NM_WRONG_ENV] = "nm_env.size is not sizeof(nm_env) of this version of nomul.h",
    [NM_WRONG_RANK] = "a tensor has too many or too few axes",
    [NM_WRONG_DTYPE] = "a tensor has the wrong element type",
    [NM_WRONG_SHAPE] = "an axis has a size that the model does not take",
    [NM_INCONSISTENT_DIM] = "an axis does not fit the sizes of the other axes",
    [NM_DIM_OUT_OF_RANGE] = "a dim is outside the range that the model was compiled for",
    [NM_MISALIGNED] = "tensor data is not aligned to its element type",
    [NM_SCRATCH_MISALIGNED] = "nm_env.scratch is not aligned to NM_ALIGNMENT bytes",
    [NM_SCRATCH_SHORT] = "nm_env.scratch_size is less than scratch_size(dims, threads)",
    [NM_WEIGHTS_MISSING] = "the model keeps its weights in a separate file and nm_env.weights is NULL",
    [NM_WEIGHTS_MISALIGNED] = "nm_env.weights is not aligned to NM_ALIGNMENT bytes",
    [NM_WEIGHTS_SHORT] = "the weights are truncated",
    [NM_WEIGHTS_WRONG] = "the weights are damaged or belong to another model",
    [NM_MISSING_CPU] = "this CPU lacks an instruction set that the kernels need",
    [NM_NO_SUCH_LEVEL] = "nm_env.level is larger than level_count",
    [NM_KERNEL_FAILED] = "a kernel failed",
    [NM_NOT_BUILT] = "this library was built without threads or without files",
    [NM_FILE_FAILED] = "the weights file cannot be opened or mapped",
    [NM_POOL_FAILED] = "the memory for the pool is short or misaligned, or the system starts no further thread",
    [NM_OUT_OF_BOUNDS] = "an index argument is too large",
};

const char *nm_rt_explain(nm_status status) {
  const uint32_t code = (uint32_t)NM_CODE(status);
  return code < sizeof sentences / sizeof *sentences ? sentences[code] : "unknown status";
}

typedef struct {
  char *next;
  size_t left; /* without the final zero byte */
} text_buffer;

static void append(text_buffer *text, const char *words) {
  for (; *words && text->left; text->left--) *text->next++ = *words++;
  *text->next = 0;
}

static void append_number(text_buffer *text, uint64_t number) {
  char digits[21] = {0};
  char *first = digits + 20;
  do {
    *--first = (char)('0' + number % 10);
    number /= 10;
  } while (number);
  append(text, first);
}

static void append_dim(text_buffer *text, const nm_dim *dim) {
  append(text, ": ");
  append(text, dim->name);
  append(text, " in [");
  append_number(text, (uint64_t)dim->min);
  append(text, ", ");
  append_number(text, (uint64_t)dim->max);
  append(text, "]");
}

static void append_port(text_buffer *text, const char *kind, const nm_port *port, uint32_t axis_plus_one) {
  append(text, kind);
  append(text, port->name);
  append(text, "'");
  if (axis_plus_one) {
    append(text, ", axis ");
    append_number(text, axis_plus_one - 1);
  }
  append(text, " of ");
  append(text, port->shape_text);
}

void nm_rt_describe(nm_status status, char *text, size_t text_size) {
  if (!text || !text_size) return;
  const nm_model *model = &nm_the_program.model;
  text_buffer buffer = {text, text_size - 1};
  const uint32_t bits = (uint32_t)status, index = bits >> 10 & 0xfff, axis_plus_one = bits >> 22 & 0x3f;
  append(&buffer, nm_rt_explain(status));
  switch (bits >> 8 & 3) {
    case NM_SUBJECT_INPUT:
      if (index < model->input_count) append_port(&buffer, ": input '", &model->inputs[index], axis_plus_one);
      break;
    case NM_SUBJECT_OUTPUT:
      if (index < model->output_count) append_port(&buffer, ": output '", &model->outputs[index], axis_plus_one);
      break;
    case NM_SUBJECT_DIM:
      if (index < model->dim_count) append_dim(&buffer, &model->dims[index]);
      break;
  }
  if (NM_CODE(status) == NM_MISSING_CPU && nm_rt_missing_cpu()) {
    append(&buffer, ": ");
    append(&buffer, nm_rt_missing_cpu());
  }
}
