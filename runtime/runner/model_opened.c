/* model_opened.c: the model is a shared library, which the system loads. */
#include "runner.h"

#include <dlfcn.h>

const nm_model *find_model(const char *library) {
  if (!library) fail("--library FILE names the model");
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!handle) fail("the system cannot load the library: %s", dlerror());
  nm_query_function query;
  *(void **)&query = dlsym(handle, "nm_query"); /* POSIX lets data pointers hold functions, ISO C does not */
  if (!query) fail("%s is no model: it has no nm_query", library);
  return query(NM_ABI);
}
