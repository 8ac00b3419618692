/* options.c: the command line. */
#include "runner.h"

#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: nomul-run [OPTION]... INPUT=FILE.npy...   run the model on files\n"
    "       nomul-run --info                          show what it takes and gives, and the memory it needs\n"
    "       nomul-run --selftest                      compare with the results that the compiler recorded\n"
    "       nomul-run --bench [INPUT=FILE.npy]...     measure the time of a run\n"
    "  -o, --out DIR            write each output to DIR/NAME.npy\n"
    "  --output NAME=FILE.npy   write one output\n"
    "  --dim NAME=SIZE          size of a dim, for --info and --bench\n"
    "  --threads N              (default 1)\n"
    "  --level NAME             instruction-set level (default: the best that this CPU has)\n"
    "  --seconds N              how long --bench measures (default 2)\n"
    "  --json                   --bench prints JSON\n"
    "  --tolerance N            largest relative difference that --selftest accepts\n"
    "  --weights FILE           the weights, where they are in a file of their own\n"
    "  --library FILE           the model, where it is not part of this program\n"
    "exit status: 0, 1 for an error, 2 for wrong usage, 3 where --selftest finds wrong results\n";

static _Noreturn void refuse(const char *what, const char *word) {
  fprintf(stderr, "nomul-run: %s%s\n%s", what, word, usage);
  exit(EXIT_USAGE);
}

const char *value_of(const char *word, const char *name) {
  const size_t length = strlen(name);
  return strncmp(word, name, length) == 0 && word[length] == '=' ? word + length + 1 : NULL;
}

typedef struct {
  char **at, **end;
} arguments;

/* Whether the next words are this option, `--name VALUE` or `--name=VALUE`; then its value. */
static const char *option(arguments *words, const char *name) {
  const char *value = value_of(*words->at, name);
  if (value) return words->at++, value;
  if (strcmp(*words->at, name) != 0) return NULL;
  if (words->at + 1 == words->end) refuse("there is no value behind ", name);
  words->at += 2;
  return words->at[-1];
}

static int flag(arguments *words, const char *name) {
  if (strcmp(*words->at, name) != 0) return 0;
  words->at++;
  return 1;
}

static double number(const char *value, double least) {
  char *end;
  const double read = strtod(value, &end);
  if (end == value || *end || !(read >= least && read < 1e9)) refuse("this is no proper number: ", value);
  return read;
}

static void read_word(arguments *words, options *o) {
  const char *value;
  if (flag(words, "--info")) o->command = INFO;
  else if (flag(words, "--selftest")) o->command = SELFTEST;
  else if (flag(words, "--bench")) o->command = BENCH;
  else if (flag(words, "--json")) o->json = 1;
  else if ((value = option(words, "--out")) || (value = option(words, "-o"))) o->folder = value;
  else if ((value = option(words, "--output"))) o->outputs[o->output_count++] = (char *)(uintptr_t)value;
  else if ((value = option(words, "--dim"))) o->dims[o->dim_count++] = (char *)(uintptr_t)value;
  else if ((value = option(words, "--threads"))) o->threads = (uint32_t)number(value, 1);
  else if ((value = option(words, "--level"))) o->level = value;
  else if ((value = option(words, "--seconds"))) o->seconds = number(value, 0);
  else if ((value = option(words, "--tolerance"))) o->tolerance = number(value, 0);
  else if ((value = option(words, "--weights"))) o->weights = value;
  else if ((value = option(words, "--library"))) o->library = value;
  else if ((*words->at)[0] == '-' || !strchr(*words->at, '=')) refuse("this is no option and no INPUT=FILE.npy: ", *words->at);
  else o->words[o->word_count++] = *words->at++;
}

options read_options(int count, char **words) {
  const size_t room = (size_t)count * sizeof *words;
  options o = {.program = words[0], .threads = 1, .seconds = 2, .tolerance = -1};
  o.words = allocate(room), o.dims = allocate(room), o.outputs = allocate(room);
  arguments rest = {words + 1, words + count};
  while (rest.at < rest.end) {
    if (flag(&rest, "--help") || flag(&rest, "-h")) {
      fputs(usage, stdout);
      exit(0);
    }
    read_word(&rest, &o);
  }
  if (o.threads > NM_MAX_THREADS) refuse("too many threads", "");
  return o;
}
