/* nomul_cpu_none.c: stands for nomul_cpu.c where no kernel needs a CPU feature, as in portable C. */
#include "nomul_rt.h"

uint64_t nm_cpu_features(void) { return 0; }
const char *nm_cpu_missing(uint64_t needed) { return needed ? "a CPU feature" : NULL; }
