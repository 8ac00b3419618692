/* model_linked.c: the model is in this program. */
#include "runner.h"

const nm_model *find_model(const char *library) {
  if (library) fail("this nomul-run holds its model and takes no --library");
  return nm_query(NM_ABI);
}
