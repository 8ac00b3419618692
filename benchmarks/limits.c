/* The two walls of a machine: fused multiply-adds per second, and bytes read from memory per second. */
#include <stdint.h>
#include <stddef.h>
#include <time.h>

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

/* Bytes per second that this thread reads from `size` bytes (a multiple of 512, aligned to 64), once through. */
double read_rate(const void *memory, size_t size, uint64_t *sink) {
  const words *at = memory, *end = at + size / sizeof *at;
  words sum[8] = {0};
  double start = seconds();
  for (; at < end; at += 8) {
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++) sum[i] ^= at[i];
  }
  double spent = seconds() - start;
  for (int i = 0; i < 8; i++) *sink ^= sum[i][0] ^ sum[i][7];
  return (double)size / spent;
}
