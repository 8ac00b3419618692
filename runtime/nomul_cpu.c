/* nomul_cpu.c: which instruction sets this CPU has and the operating system lets us use. */
#if defined(__linux__)
#define _DEFAULT_SOURCE
#endif
#include "nomul_rt.h"

#include <stdatomic.h>

#if !defined(NM_CPU_FEATURES)

uint64_t nm_cpu_features(void) { return 0; }
const char *nm_cpu_missing(uint64_t needed) { return needed ? "a CPU feature" : NULL; }

#else

#define NAME_ROW(id, name, ...) name,
static const char *const names[] = {NM_CPU_FEATURES(NAME_ROW)};

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

typedef struct {
  uint32_t leaf, subleaf, reg, bit, xcr0;
} feature;
#define FEATURE_ROW(id, name, leaf, subleaf, reg, bit, xcr0) {leaf, subleaf, reg, bit, xcr0},
static const feature features[] = {NM_CPU_FEATURES(FEATURE_ROW)};

/* XCR0 says which registers the system saves at a context switch: AVX without that would lose data. */
static uint32_t saved_registers(void) {
  uint32_t eax, ebx, ecx, edx;
  const uint32_t osxsave = UINT32_C(1) << 27;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & osxsave)) return 0;
  __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return eax;
}

static int has(const feature *wanted) {
  uint32_t reg[4];
  if (!__get_cpuid_count(wanted->leaf, wanted->subleaf, &reg[0], &reg[1], &reg[2], &reg[3])) return 0;
  if (!(reg[wanted->reg] >> wanted->bit & 1)) return 0;
  return (saved_registers() & wanted->xcr0) == wanted->xcr0;
}

#elif (defined(__aarch64__) || defined(__arm__)) && defined(__linux__)
#include <sys/auxv.h>

typedef struct {
  uint32_t word, bit;
} feature;
#define FEATURE_ROW(id, name, word, bit, apple) {word, bit},
static const feature features[] = {NM_CPU_FEATURES(FEATURE_ROW)};

static int has(const feature *wanted) {
  return getauxval(wanted->word == 1 ? AT_HWCAP : AT_HWCAP2) >> wanted->bit & 1;
}

#elif defined(__APPLE__)
#include <sys/sysctl.h>

typedef const char *feature;
#define FEATURE_ROW(id, name, word, bit, apple) apple,
static const feature features[] = {NM_CPU_FEATURES(FEATURE_ROW)};

static int has(const feature *wanted) {
  int value = 0;
  size_t size = sizeof value;
  return *wanted == NULL || (sysctlbyname(*wanted, &value, &size, NULL, 0) == 0 && value != 0);
}

#else

typedef char feature;
#define FEATURE_ROW(...) 0,
static const feature features[] = {NM_CPU_FEATURES(FEATURE_ROW)};
static int has(const feature *wanted) { return *wanted; }

#endif

/* CPUID costs microseconds on a virtual machine, so its answer is kept; threads that race write the same value. */
#define FOUND (UINT64_C(1) << 63)
static _Atomic uint64_t found;

uint64_t nm_cpu_features(void) {
  uint64_t set = atomic_load_explicit(&found, memory_order_relaxed);
  if (set & FOUND) return set & ~FOUND;
  set = 0;
  for (uint32_t i = 0; i < NM_FEATURE_COUNT; i++) set |= (uint64_t)(has(&features[i]) != 0) << i;
  atomic_store_explicit(&found, set | FOUND, memory_order_relaxed);
  return set;
}

const char *nm_cpu_missing(uint64_t needed) {
  const uint64_t missing = needed & ~nm_cpu_features();
  for (uint32_t i = 0; i < NM_FEATURE_COUNT; i++) {
    if (missing >> i & 1) return names[i];
  }
  return NULL;
}

#endif
