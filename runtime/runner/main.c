/* main.c: nomul-run, a program that runs, checks and times one compiled model; it needs nothing on its machine. */
#include "runner.h"

#include <stdlib.h>

int main(int count, char **words) {
  static int (*const commands[])(session *) = {command_run, command_info, command_selftest, command_bench};
  const options o = read_options(count, words);
  session s = open_session(&o);
  const int status = commands[o.command](&s);
  close_session(&s);
  free(o.words), free(o.dims), free(o.outputs);
  return status;
}
