/* nomul_rt.h: what a generated model.c and the runtime nomul.c know of each other; not for users of a model. */
#ifndef NOMUL_RT_H
#define NOMUL_RT_H

#include "nomul.h"

#if defined(__GNUC__)
#define NM_HIDDEN __attribute__((visibility("hidden")))
#else
#define NM_HIDDEN
#endif

/* ---- CPU features ------------------------------------------------------------------------------------------- */

/* One row per feature: its name in C, its name for users (LLVM's), and where the CPU or system says that it is there.
 * x86: CPUID leaf, subleaf, register (0 eax .. 3 edx), bit, and the XCR0 bits by which the system says that it saves
 * the registers. ARM: Linux HWCAP word (1 or 2) and bit, and the name for sysctlbyname on macOS, NULL for what every
 * Mac with an ARM processor has (macOS 11 had no names for most). */
#define NM_X86_FEATURES(FEATURE)                   \
  FEATURE(sse2, "sse2", 1, 0, 3, 26, 0)            \
  FEATURE(sse3, "sse3", 1, 0, 2, 0, 0)             \
  FEATURE(ssse3, "ssse3", 1, 0, 2, 9, 0)           \
  FEATURE(sse4_1, "sse4.1", 1, 0, 2, 19, 0)        \
  FEATURE(sse4_2, "sse4.2", 1, 0, 2, 20, 0)        \
  FEATURE(cx16, "cx16", 1, 0, 2, 13, 0)            \
  FEATURE(popcnt, "popcnt", 1, 0, 2, 23, 0)        \
  FEATURE(movbe, "movbe", 1, 0, 2, 22, 0)          \
  FEATURE(sahf, "sahf", 0x80000001, 0, 2, 0, 0)    \
  FEATURE(lzcnt, "lzcnt", 0x80000001, 0, 2, 5, 0)  \
  FEATURE(bmi, "bmi", 7, 0, 1, 3, 0)               \
  FEATURE(bmi2, "bmi2", 7, 0, 1, 8, 0)             \
  FEATURE(avx, "avx", 1, 0, 2, 28, 0x06)           \
  FEATURE(f16c, "f16c", 1, 0, 2, 29, 0x06)         \
  FEATURE(fma, "fma", 1, 0, 2, 12, 0x06)           \
  FEATURE(avx2, "avx2", 7, 0, 1, 5, 0x06)          \
  FEATURE(gfni, "gfni", 7, 0, 2, 8, 0)             \
  FEATURE(avxvnni, "avxvnni", 7, 1, 0, 4, 0x06)    \
  FEATURE(avxvnniint8, "avxvnniint8", 7, 1, 3, 4, 0x06) \
  FEATURE(avx512f, "avx512f", 7, 0, 1, 16, 0xe6)   \
  FEATURE(avx512bw, "avx512bw", 7, 0, 1, 30, 0xe6) \
  FEATURE(avx512cd, "avx512cd", 7, 0, 1, 28, 0xe6) \
  FEATURE(avx512dq, "avx512dq", 7, 0, 1, 17, 0xe6) \
  FEATURE(avx512vl, "avx512vl", 7, 0, 1, 31, 0xe6) \
  FEATURE(avx512ifma, "avx512ifma", 7, 0, 1, 21, 0xe6) \
  FEATURE(avx512vbmi, "avx512vbmi", 7, 0, 2, 1, 0xe6) \
  FEATURE(avx512vbmi2, "avx512vbmi2", 7, 0, 2, 6, 0xe6) \
  FEATURE(avx512vnni, "avx512vnni", 7, 0, 2, 11, 0xe6) \
  FEATURE(avx512bitalg, "avx512bitalg", 7, 0, 2, 12, 0xe6) \
  FEATURE(avx512vpopcntdq, "avx512vpopcntdq", 7, 0, 2, 14, 0xe6) \
  FEATURE(avx512bf16, "avx512bf16", 7, 1, 0, 5, 0xe6) \
  FEATURE(avx512fp16, "avx512fp16", 7, 0, 3, 23, 0xe6)

#define NM_AARCH64_FEATURES(FEATURE)                                \
  FEATURE(neon, "neon", 1, 1, NULL)                               \
  FEATURE(fp16, "fp16", 1, 10, NULL)                              \
  FEATURE(dotprod, "dotprod", 1, 20, NULL)                        \
  FEATURE(fp16fml, "fp16fml", 1, 23, NULL)                        \
  FEATURE(sve, "sve", 1, 22, "hw.optional.arm.FEAT_SVE")          \
  FEATURE(sve2, "sve2", 2, 1, "hw.optional.arm.FEAT_SVE2")        \
  FEATURE(i8mm, "i8mm", 2, 13, "hw.optional.arm.FEAT_I8MM")       \
  FEATURE(bf16, "bf16", 2, 14, "hw.optional.arm.FEAT_BF16")

#define NM_ARM_FEATURES(FEATURE)   \
  FEATURE(neon, "neon", 1, 12, NULL) \
  FEATURE(vfp4, "vfp4", 1, 16, NULL)

#if defined(__x86_64__) || defined(__i386__)
#define NM_CPU_FEATURES NM_X86_FEATURES
#elif defined(__aarch64__)
#define NM_CPU_FEATURES NM_AARCH64_FEATURES
#elif defined(__arm__)
#define NM_CPU_FEATURES NM_ARM_FEATURES
#endif

#if defined(NM_CPU_FEATURES)
/* NM_BIT_avx2 is the position of avx2 in a feature set, NM_CPU_avx2 the set that holds just avx2. */
#define NM_BIT_ROW(id, ...) NM_BIT_##id,
enum { NM_CPU_FEATURES(NM_BIT_ROW) NM_FEATURE_COUNT };
#define NM_CPU(id) (UINT64_C(1) << NM_BIT_##id)
#endif

/* The set of features of this CPU, found once. */
NM_HIDDEN uint64_t nm_cpu_features(void);
/* The name of the first feature that is in `needed` and not in the CPU; NULL if there is none. */
NM_HIDDEN const char *nm_cpu_missing(uint64_t needed);

/* ---- Status ------------------------------------------------------------------------------------------------- */

/* A status that names what is wrong: an input, output or dim by its index, and perhaps an axis (NM_NO_AXIS: none). */
enum { NM_SUBJECT_NONE, NM_SUBJECT_INPUT, NM_SUBJECT_OUTPUT, NM_SUBJECT_DIM };
#define NM_NO_AXIS UINT32_MAX
#define NM_MAX_PORTS 4096
static inline nm_status nm_fault(int32_t code, uint32_t subject, uint32_t index, uint32_t axis) {
  return (nm_status)((uint32_t)code | subject << 8 | index << 10 | (axis + 1) << 22);
}

/* ---- Weights ------------------------------------------------------------------------------------------------ */

/* The first 64 bytes of a weights image (embedded or a file); the weights follow. Numbers are little-endian. */
typedef struct {
  uint8_t magic[8]; /* "nomulwts" */
  uint32_t version, header_size;
  uint64_t payload_size;
  uint8_t sha256[32]; /* of the payload */
  uint8_t zero[8];
} nm_weights_header;

/* The weights that a run with this env uses, their header checked. */
NM_HIDDEN nm_status nm_find_weights(const nm_env *env, const uint8_t **payload);

/* ---- A run -------------------------------------------------------------------------------------------------- */

/* How many threads work for this pool (NULL: one). */
NM_HIDDEN uint32_t nm_pool_threads(const nm_pool *pool);
/* A run begins on this thread. */
NM_HIDDEN void nm_pool_enter(nm_pool *pool);

/* What the steps of one run see. Thread t uses scratch at thread_scratch + t * thread_scratch_size. */
typedef struct {
  const nm_tensor *inputs, *outputs;
  const int64_t *dims;
  const void *kernels; /* the kernel table of the level */
  const uint8_t *weights;
  uint8_t *arena;
  uint8_t *thread_scratch;
  int64_t thread_scratch_size;
  nm_pool *pool; /* NULL: no other threads */
  const nm_env *env;
} nm_run;

/* Calls one kernel on its tiles [begin, end). */
typedef int32_t (*nm_call)(const nm_run *run, void *const *args, int64_t begin, int64_t end, void *scratch);

/* Runs a kernel over [0, tiles), on several threads where each gets at least `grain` tiles. */
NM_HIDDEN nm_status nm_step(const nm_run *run, uint32_t index, nm_call call, void *const *args, int64_t tiles,
                            int64_t grain);

#define NM_STEP(index, call, tiles, grain, ...)                                        \
  do {                                                                                 \
    void *const step_args[] = {__VA_ARGS__};                                           \
    const nm_status step_status = nm_step(run, index, call, step_args, tiles, grain);  \
    if (step_status != NM_OK) return step_status;                                      \
  } while (0)

/* The model as model.c describes it to nomul.c. All sizes that the functions compute fit, once dims are in range. */
typedef struct {
  nm_model model;
  nm_weights_header weights_header; /* what the header of the weights must be */
  const void *const *kernels;       /* one kernel table per level */
  const uint64_t *features;         /* one feature set per level */

  nm_status (*bind)(const nm_tensor *inputs, int64_t *dims);
  void (*input_shape)(const int64_t *dims, uint32_t input, int64_t *shape);
  void (*output_shape)(const int64_t *dims, uint32_t output, int64_t *shape);
  int64_t (*arena_size)(const int64_t *dims);
  int64_t (*thread_scratch_size)(const int64_t *dims);
  nm_status (*steps)(const nm_run *run);
} nm_program;

extern NM_HIDDEN const nm_program nm_the_program; /* defined by model.c */

/* The functions of nm_model, as initialisers for model.c. */
NM_HIDDEN nm_status nm_rt_run(const nm_env *env, const nm_tensor *inputs, const nm_tensor *outputs);
NM_HIDDEN nm_status nm_rt_bind(const nm_tensor *inputs, int64_t *dims);
NM_HIDDEN nm_status nm_rt_input_shape(const int64_t *dims, uint32_t input, int64_t *shape);
NM_HIDDEN nm_status nm_rt_output_shape(const int64_t *dims, uint32_t output, int64_t *shape);
NM_HIDDEN size_t nm_rt_scratch_size(const int64_t *dims, uint32_t threads);
NM_HIDDEN const char *nm_rt_missing_cpu(void);
NM_HIDDEN const char *nm_rt_missing_feature(uint32_t level);
NM_HIDDEN uint32_t nm_rt_best_level(void);
NM_HIDDEN const char *nm_rt_explain(nm_status status);
NM_HIDDEN void nm_rt_describe(nm_status status, char *text, size_t text_size);
NM_HIDDEN size_t nm_rt_pool_size(uint32_t threads);
NM_HIDDEN nm_status nm_rt_pool_start(void *memory, size_t memory_size, uint32_t threads, nm_pool **pool);
NM_HIDDEN nm_status nm_rt_pool_stop(nm_pool *pool);
NM_HIDDEN nm_status nm_rt_map_weights(const char *path, const void **weights, size_t *weights_size);
NM_HIDDEN nm_status nm_rt_unmap_weights(const void *weights, size_t weights_size);
NM_HIDDEN nm_status nm_rt_check_weights(const nm_env *env);

#define NM_RUNTIME_FUNCTIONS                                                                         \
  .run = nm_rt_run, .bind = nm_rt_bind, .input_shape = nm_rt_input_shape,                            \
  .output_shape = nm_rt_output_shape, .scratch_size = nm_rt_scratch_size, .missing_cpu = nm_rt_missing_cpu,                              \
  .missing_feature = nm_rt_missing_feature, .best_level = nm_rt_best_level,                          \
  .explain = nm_rt_explain, .describe = nm_rt_describe, .pool_size = nm_rt_pool_size,                \
  .pool_start = nm_rt_pool_start, .pool_stop = nm_rt_pool_stop, .map_weights = nm_rt_map_weights,    \
  .unmap_weights = nm_rt_unmap_weights, .check_weights = nm_rt_check_weights

/* Gives a dim its value; the status tells whether it is in range. */
NM_HIDDEN nm_status nm_bind_dim(int64_t *dims, uint32_t dim, int64_t value);

/* Floor division where the dividend may be negative. */
static inline int64_t nm_floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
static inline int64_t nm_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t nm_round_up(int64_t bytes) { return (bytes + NM_ALIGNMENT - 1) / NM_ALIGNMENT * NM_ALIGNMENT; }

#endif
