/* Kernels of the toy model, by hand, with the kernel ABI of the compiler. LEVEL: suffix; LEVEL_ID: what `info` reports. */
#include <stdint.h>

#define JOIN(a, b) a##__##b
#define SUFFIXED(a, b) JOIN(a, b)
#define KERNEL(name) SUFFIXED(name, LEVEL)

/* t[b, s] = x[b, s] + y[b, 2*s + 1] + w[s % 4]; a tile is a row */
int32_t KERNEL(add_rows)(void *x_data, void *y_data, void *w_data, void *t_data, int64_t B, int64_t S, int64_t begin,
                         int64_t end, void *scratch) {
  const float *x = x_data, *y = y_data, *w = w_data;
  float *t = t_data;
  (void)B, (void)scratch;
  for (int64_t b = begin; b < end; b++) {
    for (int64_t s = 0; s < S; s++) t[b * S + s] = x[b * S + s] + y[b * (2 * S + 1) + 2 * s + 1] + w[s % 4];
  }
  return 0;
}

/* z[b, s] = t[b, S - 1 - s] * w[0], by way of a scratch row; fails where t[b, 0] is not a number */
int32_t KERNEL(flip_scale)(void *t_data, void *w_data, void *z_data, int64_t S, int64_t begin, int64_t end,
                           void *scratch) {
  const float *t = t_data, *w = w_data;
  float *z = z_data, *row = scratch;
  for (int64_t b = begin; b < end; b++) {
    for (int64_t s = 0; s < S; s++) row[s] = t[b * S + S - 1 - s];
    for (int64_t s = 0; s < S; s++) z[b * S + s] = row[s] * w[0];
    if (t[b * S] != t[b * S]) return 1;
  }
  return 0;
}

/* info = {B * S, level} */
int32_t KERNEL(describe)(void *info_data, int64_t B, int64_t S, int64_t begin, int64_t end, void *scratch) {
  int64_t *info = info_data;
  (void)begin, (void)end, (void)scratch;
  info[0] = B * S;
  info[1] = LEVEL_ID;
  return 0;
}
