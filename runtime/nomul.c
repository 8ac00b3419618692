/* nomul.c: checks what the caller hands in, picks the level, and runs the steps of the model. */
#include "nomul_rt.h"

static const nm_program *const program = &nm_the_program;
static const nm_model *const model = &nm_the_program.model;

/* Larger sizes are refused before any arithmetic, so that none overflows. */
#define LARGEST_SIZE (INT64_MAX / 4)

static const uint8_t element_sizes[] = {0, 8, 4, 2, 2, 8, 4, 2, 1, 1, 1}; /* by dtype: NM_F64 = 1 .. NM_BOOL = 10 */

const nm_model *nm_query(uint32_t abi) { return abi == NM_ABI ? model : NULL; }

/* ---- Shapes ------------------------------------------------------------------------------------------------- */

nm_status nm_bind_dim(int64_t *dims, uint32_t dim, int64_t value) {
  dims[dim] = value;
  const nm_dim *range = &model->dims[dim];
  if (value < range->min || value > range->max) return nm_fault(NM_DIM_OUT_OF_RANGE, NM_SUBJECT_DIM, dim, NM_NO_AXIS);
  return NM_OK;
}

/* Rank, dtype and plain sanity of the sizes: what can be said of a tensor before the dims are known. */
static nm_status check_port(const nm_tensor *tensor, const nm_port *port, uint32_t subject, uint32_t index) {
  if (tensor->rank != port->rank) return nm_fault(NM_WRONG_RANK, subject, index, NM_NO_AXIS);
  if (tensor->dtype != port->dtype) return nm_fault(NM_WRONG_DTYPE, subject, index, NM_NO_AXIS);
  if (tensor->rank == 0) return NM_OK;
  if (!tensor->shape) return nm_fault(NM_NULL_POINTER, subject, index, NM_NO_AXIS);
  for (int32_t axis = 0; axis < tensor->rank; axis++) {
    if (tensor->shape[axis] < 0 || tensor->shape[axis] > LARGEST_SIZE) {
      return nm_fault(NM_WRONG_SHAPE, subject, index, (uint32_t)axis);
    }
  }
  return NM_OK;
}

static nm_status check_shape(const nm_tensor *tensor, const nm_port *port, const int64_t *expected, uint32_t subject,
                             uint32_t index) {
  for (int32_t axis = 0; axis < port->rank; axis++) {
    if (tensor->shape[axis] == expected[axis]) continue;
    const int32_t code = port->shape[axis] < 0 ? NM_INCONSISTENT_DIM : NM_WRONG_SHAPE;
    return nm_fault(code, subject, index, (uint32_t)axis);
  }
  return NM_OK;
}

static nm_status check_data(const nm_tensor *tensor, uint32_t subject, uint32_t index) {
  for (int32_t axis = 0; axis < tensor->rank; axis++) {
    if (tensor->shape[axis] == 0) return NM_OK;
  }
  if (!tensor->data) return nm_fault(NM_NULL_POINTER, subject, index, NM_NO_AXIS);
  if ((uintptr_t)tensor->data % element_sizes[tensor->dtype]) {
    return nm_fault(NM_MISALIGNED, subject, index, NM_NO_AXIS);
  }
  return NM_OK;
}

static nm_status bind_inputs(const nm_tensor *inputs, int64_t *dims) {
  for (uint32_t i = 0; i < model->input_count; i++) {
    const nm_status status = check_port(&inputs[i], &model->inputs[i], NM_SUBJECT_INPUT, i);
    if (status != NM_OK) return status;
  }
  nm_status status = program->bind(inputs, dims);
  for (uint32_t i = 0; i < model->input_count && status == NM_OK; i++) {
    int64_t expected[NM_MAX_RANK];
    program->input_shape(dims, i, expected);
    status = check_shape(&inputs[i], &model->inputs[i], expected, NM_SUBJECT_INPUT, i);
  }
  return status;
}

static nm_status check_outputs(const nm_tensor *outputs, const int64_t *dims) {
  nm_status status = NM_OK;
  for (uint32_t i = 0; i < model->output_count && status == NM_OK; i++) {
    int64_t expected[NM_MAX_RANK];
    status = check_port(&outputs[i], &model->outputs[i], NM_SUBJECT_OUTPUT, i);
    if (status != NM_OK) break;
    program->output_shape(dims, i, expected);
    status = check_shape(&outputs[i], &model->outputs[i], expected, NM_SUBJECT_OUTPUT, i);
    if (status == NM_OK) status = check_data(&outputs[i], NM_SUBJECT_OUTPUT, i);
  }
  return status;
}

static nm_status check_ranges(const int64_t *dims) {
  for (uint32_t i = 0; i < model->dim_count; i++) {
    if (!dims) return NM_NULL_POINTER;
    if (dims[i] < model->dims[i].min || dims[i] > model->dims[i].max) {
      return nm_fault(NM_DIM_OUT_OF_RANGE, NM_SUBJECT_DIM, i, NM_NO_AXIS);
    }
  }
  return NM_OK;
}

nm_status nm_rt_bind(const nm_tensor *inputs, int64_t *dims) {
  int64_t found[NM_MAX_DIMS];
  if ((!inputs && model->input_count) || (!dims && model->dim_count)) return NM_NULL_POINTER;
  const nm_status status = bind_inputs(inputs, found);
  for (uint32_t i = 0; i < model->dim_count && status == NM_OK; i++) dims[i] = found[i];
  return status;
}

nm_status nm_rt_input_shape(const int64_t *dims, uint32_t input, int64_t *shape) {
  if (input >= model->input_count) return NM_OUT_OF_BOUNDS;
  if (!shape && model->inputs[input].rank) return NM_NULL_POINTER;
  const nm_status status = check_ranges(dims);
  if (status == NM_OK) program->input_shape(dims, input, shape);
  return status;
}

nm_status nm_rt_output_shape(const int64_t *dims, uint32_t output, int64_t *shape) {
  if (output >= model->output_count) return NM_OUT_OF_BOUNDS;
  if (!shape && model->outputs[output].rank) return NM_NULL_POINTER;
  const nm_status status = check_ranges(dims);
  if (status == NM_OK) program->output_shape(dims, output, shape);
  return status;
}

/* ---- Scratch ------------------------------------------------------------------------------------------------ */

/* Arena and scratch of all threads in bytes; 0 where that is more than the address space. */
static size_t scratch_bytes(int64_t arena, int64_t per_thread, uint32_t threads) {
  const uint64_t all_threads = (uint64_t)per_thread * threads; /* < 2^61: per_thread < 2^53, threads <= 256 */
  const uint64_t total = (uint64_t)arena + all_threads;
  return total <= SIZE_MAX / 2 ? (size_t)nm_max((int64_t)total, NM_ALIGNMENT) : 0;
}

size_t nm_rt_scratch_size(const int64_t *dims, uint32_t threads) {
  if (check_ranges(dims) != NM_OK || threads < 1 || threads > NM_MAX_THREADS) return 0;
  return scratch_bytes(program->arena_size(dims), program->thread_scratch_size(dims), threads);
}

static nm_status use_scratch(const nm_env *env, nm_run *run) {
  const int64_t arena = program->arena_size(run->dims);
  run->thread_scratch_size = program->thread_scratch_size(run->dims);
  const size_t needed = scratch_bytes(arena, run->thread_scratch_size, nm_pool_threads(env->pool));
  if (!env->scratch) return NM_NULL_POINTER;
  if ((uintptr_t)env->scratch % NM_ALIGNMENT) return NM_SCRATCH_MISALIGNED;
  if (needed == 0 || env->scratch_size < needed) return NM_SCRATCH_SHORT;
  run->arena = env->scratch;
  run->thread_scratch = run->arena + arena;
  return NM_OK;
}

/* ---- Levels ------------------------------------------------------------------------------------------------- */

uint32_t nm_rt_best_level(void) {
  for (uint32_t i = 0; i < model->level_count; i++) {
    if (!nm_cpu_missing(program->features[i])) return i + 1;
  }
  return 0;
}

const char *nm_rt_missing_cpu(void) {
  if (nm_rt_best_level() != 0 || model->level_count == 0) return NULL;
  return nm_cpu_missing(program->features[model->level_count - 1]);
}

const char *nm_rt_missing_feature(uint32_t level) {
  if (level == 0) return nm_rt_missing_cpu();
  return level <= model->level_count ? nm_cpu_missing(program->features[level - 1]) : NULL;
}

static nm_status use_level(const nm_env *env, nm_run *run) {
  if (env->level > model->level_count) return NM_NO_SUCH_LEVEL;
  const uint32_t level = env->level ? env->level : nm_rt_best_level();
  if (level == 0 || nm_rt_missing_feature(level)) return NM_MISSING_CPU;
  run->kernels = program->kernels[level - 1];
  return NM_OK;
}

/* ---- Run ---------------------------------------------------------------------------------------------------- */

static nm_status check_tensors(const nm_run *run, int64_t *dims) {
  nm_status status = bind_inputs(run->inputs, dims);
  for (uint32_t i = 0; i < model->input_count && status == NM_OK; i++) {
    status = check_data(&run->inputs[i], NM_SUBJECT_INPUT, i);
  }
  return status == NM_OK ? check_outputs(run->outputs, dims) : status;
}

nm_status nm_rt_run(const nm_env *env, const nm_tensor *inputs, const nm_tensor *outputs) {
  if (!env || (!inputs && model->input_count) || (!outputs && model->output_count)) return NM_NULL_POINTER;
  if (env->size != sizeof(nm_env)) return NM_WRONG_ENV;
  int64_t dims[NM_MAX_DIMS];
  nm_run run = {.inputs = inputs, .outputs = outputs, .dims = dims, .pool = env->pool, .env = env};
  nm_status status = check_tensors(&run, dims);
  if (status == NM_OK) status = use_level(env, &run);
  if (status == NM_OK) status = nm_find_weights(env, &run.weights);
  if (status == NM_OK) status = use_scratch(env, &run);
  if (status != NM_OK) return status;
  nm_pool_enter(env->pool);
  return program->steps(&run);
}
