/* nomul.h: the whole C interface of a compiled model; C11 and libc only.
 *
 * A model is one shared library that exports one function, nm_query, or a static archive with the same function.
 *
 *     const nm_model *model = nm_query(NM_ABI);                  NULL: the library speaks another version
 *     int64_t dims[NM_MAX_DIMS];
 *     nm_status status = model->bind(inputs, dims);              reads the named dims off the input shapes
 *     size_t bytes = model->scratch_size(dims, 1);               aligned_alloc(NM_ALIGNMENT, bytes) is yours to free
 *     model->output_shape(dims, 0, shape);                       so that you can allocate output 0
 *     nm_env env = {.size = sizeof env, .scratch = scratch, .scratch_size = bytes};
 *     status = model->run(&env, inputs, outputs);                allocates nothing, prints nothing
 *     model->describe(status, text, sizeof text);                what is wrong, with the port and axis
 *
 * The caller owns all memory and all state is in nm_env: any number of threads may run one model at once, each with
 * its own nm_env and scratch. Inputs, outputs and scratch must not overlap.
 */
#ifndef NOMUL_H
#define NOMUL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NM_ABI 1u          /* ask nm_query for this version */
#define NM_ALIGNMENT 64    /* bytes: scratch, external weights and pool memory start at a multiple of this */
#define NM_MAX_RANK 16     /* no port has more axes */
#define NM_MAX_DIMS 32     /* no model has more named dims */
#define NM_MAX_THREADS 256 /* no pool is larger */

/* ---- Status ------------------------------------------------------------------------------------------------- */

/* 0 is success. Otherwise NM_CODE(status) is one of the codes below; the higher bits name a port, axis or dim, which
 * `describe` spells out. */
typedef int32_t nm_status;
#define NM_CODE(status) ((status) & 0xff)

enum {
  NM_OK = 0,
  NM_NULL_POINTER = 1,       /* a required pointer is NULL */
  NM_WRONG_ENV = 2,          /* nm_env.size is not the size that this version has */
  NM_WRONG_RANK = 3,         /* a tensor has too many or too few axes */
  NM_WRONG_DTYPE = 4,        /* a tensor has another element type than the port */
  NM_WRONG_SHAPE = 5,        /* an axis has another size than the model has */
  NM_INCONSISTENT_DIM = 6,   /* an axis disagrees with the size that another axis gives its dim */
  NM_DIM_OUT_OF_RANGE = 7,   /* a named dim is outside the range that the model was compiled for */
  NM_MISALIGNED = 8,         /* tensor data is not aligned to its element type */
  NM_SCRATCH_MISALIGNED = 9, /* scratch does not start at a multiple of NM_ALIGNMENT */
  NM_SCRATCH_SHORT = 10,     /* scratch is smaller than scratch_size(dims, threads of the pool) */
  NM_WEIGHTS_MISSING = 11,   /* the model keeps its weights in a separate file, and nm_env.weights is NULL */
  NM_WEIGHTS_MISALIGNED = 12,
  NM_WEIGHTS_SHORT = 13, /* the weights are truncated */
  NM_WEIGHTS_WRONG = 14, /* the weights are damaged or belong to another model */
  NM_MISSING_CPU = 15,   /* this CPU lacks an instruction set that the kernels need */
  NM_NO_SUCH_LEVEL = 16, /* nm_env.level is larger than level_count */
  NM_KERNEL_FAILED = 17, /* a kernel reported an error */
  NM_NOT_BUILT = 18,     /* the library was built without threads (NM_NO_THREADS) or files (NM_NO_FILES) */
  NM_FILE_FAILED = 19,   /* the weights file cannot be opened or mapped */
  NM_POOL_FAILED = 20,   /* pool memory is short or misaligned, or the system starts no further thread */
  NM_OUT_OF_BOUNDS = 21, /* an index argument is too large */
};

/* ---- Data --------------------------------------------------------------------------------------------------- */

enum {
  NM_F64 = 1,
  NM_F32 = 2,
  NM_F16 = 3,
  NM_BF16 = 4,
  NM_I64 = 5,
  NM_I32 = 6,
  NM_I16 = 7,
  NM_I8 = 8,
  NM_U8 = 9,
  NM_BOOL = 10, /* one byte, 0 or 1 */
};

/* A dense row-major tensor in the caller's memory, aligned to its element type. data may be NULL for zero elements. */
typedef struct {
  void *data;
  const int64_t *shape; /* rank sizes; may be NULL for rank 0 */
  int32_t rank, dtype;
} nm_tensor;

typedef struct {
  const char *name;
  int64_t min, max; /* both inclusive */
} nm_dim;

typedef struct {
  const char *name;
  const char *shape_text; /* for example "[B, S, 384]" */
  const int64_t *shape;   /* rank sizes; -1 where the size depends on dims */
  int32_t rank, dtype;
} nm_port;

/* One instruction set that the kernels were compiled for; the levels of a model stand best first. */
typedef struct {
  const char *name;
  const char *features; /* what the CPU must have, separated by blanks */
} nm_level;

typedef struct nm_pool nm_pool; /* worker threads; lives in memory of the caller */

/* Everything that a run uses. Zero what you do not need: `nm_env env = {.size = sizeof env, ...}`. */
typedef struct {
  uint32_t size;  /* sizeof(nm_env) */
  uint32_t level; /* 0: the best level of this CPU; n: levels[n - 1] */
  void *scratch;
  size_t scratch_size;
  const void *weights; /* contents of the weights file in any memory; embedded ones need it not, but a copy of
                          nm_model.weights may be read faster (in huge pages, say) */
  size_t weights_size;
  nm_pool *pool;                                 /* NULL: run on the calling thread only */
  void (*after_step)(void *user, uint32_t step); /* NULL, or called by the calling thread after each step */
  void *user;
} nm_env;

/* ---- Model -------------------------------------------------------------------------------------------------- */

typedef struct {
  uint32_t abi, size; /* NM_ABI and sizeof(nm_model) */
  const char *name, *target;
  const nm_port *inputs, *outputs;
  const nm_dim *dims;
  const nm_level *levels;
  uint32_t input_count, output_count, dim_count, level_count, step_count;
  uint32_t weights_external; /* 1: nm_env.weights is needed */
  uint64_t weights_size;     /* bytes that nm_env.weights needs, or that are embedded */
  const void *weights;       /* the embedded ones, or NULL */

  /* Checks everything, then computes the outputs. */
  nm_status (*run)(const nm_env *env, const nm_tensor *inputs, const nm_tensor *outputs);

  /* Reads the value of each named dim off the shapes of the inputs (data pointers are not looked at). */
  nm_status (*bind)(const nm_tensor *inputs, int64_t *dims);
  /* The sizes of a port for these dims. */
  nm_status (*input_shape)(const int64_t *dims, uint32_t input, int64_t *shape);
  nm_status (*output_shape)(const int64_t *dims, uint32_t output, int64_t *shape);
  /* Bytes of scratch for these dims and a pool of so many threads (1 without a pool). 0: dims are out of range. */
  size_t (*scratch_size)(const int64_t *dims, uint32_t threads);

  /* NULL if some level runs on this CPU, otherwise a feature that it lacks. */
  const char *(*missing_cpu)(void);
  /* The same for levels[level - 1]; level 0 is the one that nm_env.level = 0 would use. */
  const char *(*missing_feature)(uint32_t level);
  /* The value for nm_env.level that nm_env.level = 0 stands for on this CPU; 0 if none. */
  uint32_t (*best_level)(void);

  /* A sentence for the code of a status; never NULL. */
  const char *(*explain)(nm_status status);
  /* The sentence with the port, axis or dim that the status names; always ends with a zero byte. */
  void (*describe)(nm_status status, char *text, size_t text_size);

  /* A pool of `threads` threads, the caller of run among them, in pool_size(threads) bytes of your memory. Runs on
   * several threads may share a pool: one that finds it busy runs on its own thread. Stop it before you free it. */
  size_t (*pool_size)(uint32_t threads);
  nm_status (*pool_start)(void *memory, size_t memory_size, uint32_t threads, nm_pool **pool);
  nm_status (*pool_stop)(nm_pool *pool);

  /* Maps a weights file read-only. Every run checks its header; check_weights reads all of it. */
  nm_status (*map_weights)(const char *path, const void **weights, size_t *weights_size);
  nm_status (*unmap_weights)(const void *weights, size_t weights_size);
  nm_status (*check_weights)(const nm_env *env);
} nm_model;

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const nm_model *nm_query(uint32_t abi);
typedef const nm_model *(*nm_query_function)(uint32_t abi); /* for dlsym */

#ifdef __cplusplus
}
#endif
#endif
