/* command_selftest.c: the recorded run again, compared with its right results. */
#include "runner.h"

#include <math.h>
#include <string.h>

static double half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static double bfloat(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return (double)value;
}

static double element(const nm_tensor *tensor, size_t i) {
  switch (tensor->dtype) {
    case NM_F64: return ((const double *)tensor->data)[i];
    case NM_F32: return (double)((const float *)tensor->data)[i];
    case NM_F16: return half(((const uint16_t *)tensor->data)[i]);
    case NM_BF16: return bfloat(((const uint16_t *)tensor->data)[i]);
    case NM_I64: return (double)((const int64_t *)tensor->data)[i];
    case NM_I32: return ((const int32_t *)tensor->data)[i];
    case NM_I16: return ((const int16_t *)tensor->data)[i];
    case NM_I8: return ((const int8_t *)tensor->data)[i];
    default: return ((const uint8_t *)tensor->data)[i];
  }
}

/* The largest difference over the largest magnitude that is right; infinite where one is not finite and the other
 * differs from it. */
static double difference(const nm_tensor *right, const nm_tensor *given) {
  const size_t count = element_count(right);
  double apart = 0, largest = 0;
  for (size_t i = 0; i < count; i++) {
    const double a = element(right, i), b = element(given, i);
    if (a == b || (isnan(a) && isnan(b))) {
      if (isfinite(a) && fabs(a) > largest) largest = fabs(a);
      continue;
    }
    if (!isfinite(a) || !isfinite(b)) return INFINITY;
    if (fabs(a) > largest) largest = fabs(a);
    if (fabs(a - b) > apart) apart = fabs(a - b);
  }
  return largest > 0 ? apart / largest : apart;
}

static int same_shape(const nm_tensor *a, const nm_tensor *b) {
  for (int32_t axis = 0; axis < a->rank; axis++) {
    if (a->shape[axis] != b->shape[axis]) return 0;
  }
  return 1;
}

int command_selftest(session *s) {
  const nm_model *model = s->model;
  const double tolerance = s->options->tolerance >= 0 ? s->options->tolerance : recorded.tolerance;
  int wrong = 0;
  if (!recorded.outputs) fail("the compiler recorded no run in this program");
  for (uint32_t i = 0; i < model->input_count; i++) {
    const recorded_file *file = &recorded.inputs[i];
    s->inputs[i] = tensor_of_npy("recorded input", file->npy, file->size, &model->inputs[i]);
  }
  prepare(s);
  run_once(s);
  for (uint32_t i = 0; i < model->output_count; i++) {
    const recorded_file *file = &recorded.outputs[i];
    nm_tensor right = tensor_of_npy("recorded output", file->npy, file->size, &model->outputs[i]);
    const double apart = same_shape(&right, &s->outputs[i]) ? difference(&right, &s->outputs[i]) : INFINITY;
    const int accepted = apart <= tolerance;
    wrong += !accepted;
    free_tensor(&right);
    printf("%s: relative difference %.2e, %s\n", model->outputs[i].name, apart, accepted ? "right" : "WRONG");
  }
  printf("selftest %s: %" PRIu32 " outputs, tolerance %g\n", wrong ? "FAILED" : "passed", model->output_count, tolerance);
  return wrong ? EXIT_DIFFERS : 0;
}
