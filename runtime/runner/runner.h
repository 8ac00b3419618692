/* runner.h: what the files of nomul-run share. nomul-run runs, checks and times one model on the machine it is for. */
#ifndef NOMUL_RUNNER_H
#define NOMUL_RUNNER_H

#include "nomul.h"

#include <inttypes.h>
#include <stdio.h>

enum { EXIT_ERROR = 1, EXIT_USAGE = 2, EXIT_DIFFERS = 3 };

/* ---- basics.c ------------------------------------------------------------------------------------------------- */

/* Prints the message behind "nomul-run: " and ends the program with EXIT_ERROR. */
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
_Noreturn void fail(const char *format, ...);
void *allocate(size_t bytes); /* zeros, aligned to NM_ALIGNMENT, never NULL */
uint8_t *read_file(const char *path, size_t *size);
size_t dtype_size(int32_t dtype);
const char *dtype_name(int32_t dtype);
size_t element_count(const nm_tensor *tensor);
size_t byte_count(const nm_tensor *tensor);

/* ---- npy.c: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html ---------------------------- */

typedef struct {
  int64_t shape[NM_MAX_RANK];
  int32_t rank;
  int32_t dtype;       /* an NM_ type */
  const uint8_t *data; /* inside the bytes that were read, not aligned */
  size_t size;         /* of data */
} npy_array;

/* Reads a whole .npy file in memory. Returns NULL, or what is wrong with it. */
const char *npy_read(const uint8_t *bytes, size_t size, npy_array *array);
/* Writes a .npy file; returns 0 where that fails. */
int npy_write(FILE *file, const nm_tensor *tensor);

/* ---- recorded.c, which the compiler writes -------------------------------------------------------------------- */

typedef struct {
  const uint8_t *npy; /* a .npy file */
  size_t size;
} recorded_file;

/* What the compiler knows of the model beside what nomul.h tells. */
typedef struct {
  const recorded_file *inputs, *outputs; /* one for each port: a run and its right results; NULL: none was recorded */
  const int64_t (*bounds)[2];            /* for each input: the least and the largest integer that makes sense */
  const int64_t *usual_dims;             /* for each dim: a usual size */
  double tolerance;                      /* largest right difference, relative to the largest magnitude */
  const char *weights_file;              /* beside the program, where the weights are in a file of their own */
} recorded_facts;

extern const recorded_facts recorded;

/* ---- model_linked.c or model_opened.c ------------------------------------------------------------------------- */

/* The model, in this program or in the file `library` (NULL: where it is by default). */
const nm_model *find_model(const char *library);

/* ---- options.c ------------------------------------------------------------------------------------------------ */

typedef struct {
  enum { RUN, INFO, SELFTEST, BENCH } command;
  const char *program; /* the path of this program */
  const char *library, *weights, *level, *folder; /* NULL: not given */
  double seconds, tolerance;                      /* tolerance < 0: not given */
  uint32_t threads;
  int json;
  int word_count; /* INPUT=FILE.npy */
  char **words;
  int dim_count; /* --dim NAME=SIZE */
  char **dims;
  int output_count; /* --output NAME=FILE.npy */
  char **outputs;
} options;

options read_options(int count, char **words);
/* What stands behind `name=` in a word; NULL where the word does not start so. */
const char *value_of(const char *word, const char *name);

/* ---- session.c ------------------------------------------------------------------------------------------------ */

/* A model with all that a run needs; an input without data was not given. */
typedef struct session {
  const nm_model *model;
  const options *options;
  int64_t dims[NM_MAX_DIMS];
  nm_tensor *inputs, *outputs;
  nm_env env;
  void *pool_memory;
} session;

/* Ends the program with the words of the model where a call of its interface failed. */
void check(const nm_model *model, const char *what, nm_status status);
/* Fails where this CPU does not have what the model needs. */
session open_session(const options *o);
/* Sizes from --dim, and usual ones for the rest. */
void choose_dims(session *s);
/* Inputs from the words INPUT=FILE.npy. */
void load_inputs(session *s);
/* Inputs that were not given as files get made-up values; the sizes are s->dims. */
void fill_inputs(session *s);
/* A tensor for a port from a .npy file in memory, which must have its element type and rank. */
nm_tensor tensor_of_npy(const char *what, const uint8_t *bytes, size_t size, const nm_port *port);
void free_tensor(nm_tensor *tensor);
/* Reads the dims off the inputs, and gets outputs, scratch, threads and weights ready. */
void prepare(session *s);
void run_once(session *s);
void close_session(session *s);

/* ---- One command each ----------------------------------------------------------------------------------------- */

int command_run(session *s);
int command_info(session *s);
int command_selftest(session *s);
int command_bench(session *s);

#endif
