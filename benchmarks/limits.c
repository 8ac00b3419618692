/* The walls of a machine: fused multiply-adds, products of bytes, and bytes looked up in registers per second, and bytes
   read from memory per second. */
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 16
#else
#define WIDTH 8
#endif
#define CHAINS 12 /* latency 4-5 times two units needs 10; 12 accumulators and 2 operands fit 16 registers */

typedef float lanes __attribute__((vector_size(4 * WIDTH)));
typedef uint64_t words __attribute__((vector_size(64)));

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Floating-point operations per second (two per multiply-add) of this thread over `rounds` rounds. */
double fma_rate(int64_t rounds, float seed, float *sink) {
  lanes sum[CHAINS], factor = seed + (lanes){0}, term = 1.0f - factor;
  for (int i = 0; i < CHAINS; i++) sum[i] = (float)i + (lanes){0};
  double start = seconds();
  for (int64_t r = 0; r < rounds; r++) {
#pragma clang loop unroll(full)
    for (int i = 0; i < CHAINS; i++) sum[i] = sum[i] * factor + term;
  }
  double spent = seconds() - start;
  for (int i = 0; i < CHAINS; i++) *sink += sum[i][0] + sum[i][WIDTH - 1];
  return 2.0 * WIDTH * CHAINS * (double)rounds / spent;
}

/* Dot products of four bytes each, added to 32-bit sums; AVX2 has no such instruction and needs three. */
#if defined(__AVX512VNNI__)
typedef __m512i whole;
#define DOT(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#elif defined(__AVXVNNI__)
typedef __m256i whole;
#define DOT(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#elif defined(__AVX2__)
typedef __m256i whole;
#define DOT(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
#elif defined(__ARM_FEATURE_DOTPROD)
typedef int32x4_t whole;
#define DOT(sum, a, b) vdotq_s32(sum, (int8x16_t)(a), (int8x16_t)(b))
#endif

/* Keeps the compiler from computing once what depends on `value` alone. */
#if defined(__x86_64__)
#define UNKNOWN(value) __asm__ volatile("" : "+v"(value))
#else
#define UNKNOWN(value) __asm__ volatile("" : "+w"(value))
#endif

/* Operations per second of independent chains of STEP, an expression of state[i], a and b that counts `each`. */
#define RATE(STEP, each)                                             \
  whole state[CHAINS], a, b;                                         \
  for (int i = 0; i < CHAINS; i++) state[i] = ((whole *)memory)[i];  \
  a = ((whole *)memory)[CHAINS], b = ((whole *)memory)[CHAINS + 1];  \
  double start = seconds();                                          \
  for (int64_t r = 0; r < rounds; r++) {                             \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < CHAINS; i++) { \
      UNKNOWN(a);                                                    \
      state[i] = STEP;                                               \
    }                                                                \
  }                                                                  \
  double spent = seconds() - start;                                  \
  for (int i = 0; i < CHAINS; i++) ((whole *)memory)[i] = state[i];  \
  return (double)(each) * CHAINS * (double)rounds / spent

/* Products and additions of bytes per second; 0 where this machine has nothing but scalars for it.
   memory: 1,024 bytes, aligned to 64, that are read and written, here and below. */
double dot_rate(int64_t rounds, void *memory) {
#if defined(DOT)
  RATE(DOT(state[i], a, b), 2 * sizeof(whole));
#else
  return (void)rounds, (void)memory, 0.0;
#endif
}

/* Bytes per second that are looked up in a table of 64 bytes (vpermb); 0 where there is no such instruction. */
double lookup_rate(int64_t rounds, void *memory) {
#if defined(__AVX512VBMI__) && defined(__AVX512VNNI__)
  RATE(_mm512_permutexvar_epi8(state[i], a), sizeof(whole));
#else
  return (void)rounds, (void)memory, 0.0;
#endif
}

/* The same in a table of 128 bytes in two registers (vpermi2b). */
double lookup2_rate(int64_t rounds, void *memory) {
#if defined(__AVX512VBMI__) && defined(__AVX512VNNI__)
  RATE(_mm512_permutex2var_epi8(a, state[i], b), sizeof(whole));
#else
  return (void)rounds, (void)memory, 0.0;
#endif
}

/* Bytes per second that this thread reads once through from `size` bytes, a multiple of 2,048, aligned to 64: as one
   stream, or as four with a prefetch. Cores differ in which is faster. */
double read_rate(const void *memory, size_t size, int streams, uint64_t *sink) {
  const size_t part = size / sizeof(words) / (size_t)streams;
  const words *at = memory;
  words sum[8] = {0};
  double start = seconds();
  if (streams == 1) {
    for (size_t w = 0; w < part; w += 8) {
#pragma clang loop unroll(full)
      for (int i = 0; i < 8; i++) sum[i] ^= at[w + i];
    }
  } else {
    for (size_t w = 0; w < part; w += 2) {
#pragma clang loop unroll(full)
      for (int i = 0; i < 4; i++) {
        __builtin_prefetch(&at[(size_t)i * part + w + 8]);
        __builtin_prefetch(&at[(size_t)i * part + w + 9]);
        sum[2 * i] ^= at[(size_t)i * part + w];
        sum[2 * i + 1] ^= at[(size_t)i * part + w + 1];
      }
    }
  }
  double spent = seconds() - start;
  for (int i = 0; i < 8; i++) *sink ^= sum[i][0] ^ sum[i][7];
  return (double)size / spent;
}
