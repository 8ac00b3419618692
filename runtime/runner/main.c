/* main.c: nomul-run, a program that runs, checks and times one compiled model; it needs nothing on its machine. */
#include "runner.h"

int main(int count, char **words) {
  const options options = read_options(count, words);
  session session = open_session(&options);
  static int (*const commands[])(struct session *) = {command_run, command_info, command_selftest, command_bench};
  const int status = commands[options.command](&session);
  close_session(&session);
  return status;
}
