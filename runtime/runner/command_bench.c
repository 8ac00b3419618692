/* command_bench.c: the time of a run, and the memory of the process. */
#define _DEFAULT_SOURCE
#include "runner.h"

#include <stdlib.h>
#include <time.h>
#if defined(__APPLE__)
#include <sys/resource.h>
#endif

#define MOST_RUNS 100000
#define LEAST_RUNS 10

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* The most memory that this process had at a time, in bytes; -1 where the system does not tell. */
#if defined(__APPLE__)

static int64_t peak_memory(void) {
  struct rusage usage;
  return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss : -1;
}

#else

/* Not from getrusage, which on Linux also counts the program that started this one. */
static int64_t peak_memory(void) {
  char line[128];
  long kilobytes = -1;
  FILE *file = fopen("/proc/self/status", "r");
  if (!file) return -1;
  while (kilobytes < 0 && fgets(line, sizeof line, file)) {
    if (sscanf(line, "VmHWM: %ld", &kilobytes) != 1) kilobytes = -1;
  }
  fclose(file);
  return kilobytes < 0 ? -1 : (int64_t)kilobytes * 1024;
}

#endif

static int by_time(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Runs for about so many seconds after one run that is not counted; returns the sorted times. */
static double *measure(session *s, size_t *count) {
  double *times = allocate(MOST_RUNS * sizeof *times);
  run_once(s);
  const double end = seconds() + s->options->seconds;
  for (*count = 0; *count < LEAST_RUNS || (*count < MOST_RUNS && seconds() < end); ++*count) {
    const double start = seconds();
    run_once(s);
    times[*count] = seconds() - start;
  }
  qsort(times, *count, sizeof *times, by_time);
  return times;
}

typedef struct {
  const char *level;
  double low, p50, p90; /* milliseconds */
  size_t runs;
} timing;

static void print_text(const session *s, const timing *t) {
  const nm_model *model = s->model;
  printf("%s for %s, level %s, threads %" PRIu32, model->name, model->target, t->level, s->options->threads);
  for (uint32_t i = 0; i < model->dim_count; i++) printf(", %s = %" PRId64, model->dims[i].name, s->dims[i]);
  printf("\np50 %.3f ms   p90 %.3f ms   low %.3f ms   %zu runs\n", t->p50, t->p90, t->low, t->runs);
  const int64_t peak = peak_memory();
  printf("scratch %.1f kB", (double)s->env.scratch_size / 1e3);
  if (peak >= 0) printf("   peak memory of the process %.1f kB", (double)peak / 1e3);
  printf("\n");
}

static void print_json(const session *s, const timing *t) {
  const nm_model *model = s->model;
  printf("{\"level\": \"%s\", \"threads\": %" PRIu32 ", \"dims\": [", t->level, s->options->threads);
  for (uint32_t i = 0; i < model->dim_count; i++) printf("%s%" PRId64, i ? ", " : "", s->dims[i]);
  printf("], \"p50_ms\": %.4f, \"p90_ms\": %.4f, \"low_ms\": %.4f, \"runs\": %zu", t->p50, t->p90, t->low, t->runs);
  printf(", \"scratch_bytes\": %zu, \"peak_bytes\": %" PRId64 "}\n", s->env.scratch_size, peak_memory());
}

int command_bench(session *s) {
  load_inputs(s);
  choose_dims(s);
  fill_inputs(s);
  prepare(s);
  size_t count;
  double *times = measure(s, &count);
  const uint32_t level = s->env.level ? s->env.level : s->model->best_level();
  const char *name = level ? s->model->levels[level - 1].name : "none";
  const timing t = {name, times[0] * 1e3, times[count / 2] * 1e3, times[count * 9 / 10] * 1e3, count};
  free(times);
  s->options->json ? print_json(s, &t) : print_text(s, &t);
  return 0;
}
