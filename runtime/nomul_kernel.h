/* nomul_kernel.h: what kernels in portable C are made of, besides math.h; not for users of a model. */
#ifndef NOMUL_KERNEL_H
#define NOMUL_KERNEL_H

#include "nomul_rt.h"

#include <math.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "kernels round as IEEE 754 says: compile them without -ffast-math"
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights are stored little-endian"
#endif
_Static_assert(sizeof(int) >= 4, "kernels compute 8- and 16-bit integers in int");

/* x * y + z; in one instruction where the machine has it, since fma of math.h is slow elsewhere. */
static inline float nm_fma_f32(float x, float y, float z) {
#if defined(__FP_FAST_FMAF) || defined(__ARM_FEATURE_FMA) || defined(__FMA__)
  return fmaf(x, y, z);
#else
  return x * y + z;
#endif
}

static inline double nm_fma_f64(double x, double y, double z) {
#if defined(__FP_FAST_FMA) || defined(__aarch64__) || defined(__FMA__)
  return fma(x, y, z);
#else
  return x * y + z;
#endif
}

#define NM_SMALL_FUNCTIONS(suffix, type)                                               \
  static inline type nm_min_##suffix(type x, type y) { return x < y ? x : y; }         \
  static inline type nm_max_##suffix(type x, type y) { return x > y ? x : y; }
NM_SMALL_FUNCTIONS(i32, int32_t)
NM_SMALL_FUNCTIONS(i64, int64_t)
NM_SMALL_FUNCTIONS(u32, uint32_t)
NM_SMALL_FUNCTIONS(f32, float)
NM_SMALL_FUNCTIONS(f64, double)

/* Division that rounds down, and its remainder, which has the sign of the divisor. */
#define NM_FLOOR_FUNCTIONS(suffix, type)                                               \
  static inline type nm_floor_div_##suffix(type x, type y) {                           \
    return x / y - (x % y != 0 && (x < 0) != (y < 0));                                 \
  }                                                                                    \
  static inline type nm_floor_mod_##suffix(type x, type y) {                           \
    const type rest = x % y;                                                           \
    return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;                       \
  }
NM_FLOOR_FUNCTIONS(i32, int32_t)
NM_FLOOR_FUNCTIONS(i64, int64_t)

/* The bits of a number as another type of the same size. */
#define NM_BITS_FUNCTION(to, to_type, from, from_type)                                 \
  static inline to_type nm_##to##_of_##from(from_type x) {                             \
    to_type bits;                                                                      \
    memcpy(&bits, &x, sizeof bits);                                                    \
    return bits;                                                                       \
  }
NM_BITS_FUNCTION(i32, int32_t, f32, float)
NM_BITS_FUNCTION(u32, uint32_t, f32, float)
NM_BITS_FUNCTION(f32, float, i32, int32_t)
NM_BITS_FUNCTION(f32, float, u32, uint32_t)
NM_BITS_FUNCTION(i64, int64_t, f64, double)
NM_BITS_FUNCTION(f64, double, i64, int64_t)

#endif
