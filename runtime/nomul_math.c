/* nomul_math.c: rounding for 32-bit ARM before Armv8, which has no instruction for it: LLVM calls these by libm's names.
 *
 * With them a library needs no libm, and none of them leaves it; elsewhere this file is empty. */
#if defined(__arm__) && defined(__linux__) && !defined(__ARM_FEATURE_DIRECTED_ROUNDING)

#define OURS __attribute__((weak, visibility("hidden")))

/* At 2^23 (2^52) the distance of neighbouring numbers is 1: adding that much rounds to nearest, ties to even. The sign
 * is given back last, as zeros keep theirs; infinities, NaNs and larger numbers are returned as they are. */
#define ROUNDING(type, suffix, one_apart)                                                             \
  OURS type rint##suffix(type x) {                                                                    \
    if (!(__builtin_fabs##suffix(x) < one_apart)) return x;                                           \
    return __builtin_copysign##suffix((__builtin_fabs##suffix(x) + one_apart) - one_apart, x);        \
  }                                                                                                   \
  OURS type floor##suffix(type x) {                                                                   \
    const type nearest = rint##suffix(x);                                                             \
    return __builtin_copysign##suffix(nearest > x ? nearest - 1 : nearest, x);                        \
  }                                                                                                   \
  OURS type ceil##suffix(type x) {                                                                    \
    const type nearest = rint##suffix(x);                                                             \
    return __builtin_copysign##suffix(nearest < x ? nearest + 1 : nearest, x);                        \
  }                                                                                                   \
  OURS type trunc##suffix(type x) { return x < 0 ? ceil##suffix(x) : floor##suffix(x); }

float rintf(float x), floorf(float x), ceilf(float x), truncf(float x);
double rint(double x), floor(double x), ceil(double x), trunc(double x);

ROUNDING(float, f, 0x1p23f)
ROUNDING(double, , 0x1p52)

#else
typedef int nm_no_rounding; /* a file of C has something in it */
#endif
