/* macho_load.c: a small loader of Mach-O libraries for 64-bit ARM Linux, so that tests can run what is for macOS.
 *
 * It maps the segments, binds symbols of libSystem to those of libc, and gives nm_query. Only what nomul's libraries
 * have: rebase and bind opcodes of LC_DYLD_INFO_ONLY, no thread-local data, no initialisers. */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "nomul.h"

#define PAGE UINT64_C(0x4000)

static uint8_t *image, *start; /* the file, and where the library lies */
static uint64_t segments[8];   /* addresses */

static void fail(const char *why) {
  fprintf(stderr, "loader: %s\n", why);
  exit(3);
}

/* -- what libSystem has and Linux does not, or not with the same types ------------------------------------------ */
static void bzero_of(void *memory, size_t size) { memset(memory, 0, size); }

/* An M1: asked for i8mm and bf16 alone, it has neither. NM_APPLE=2 in the environment makes it an M2. */
static int sysctlbyname_of(const char *name, void *value, size_t *size, void *changed, size_t changed_size) {
  (void)changed, (void)changed_size;
  const char *machine = getenv("NM_APPLE");
  if (strncmp(name, "hw.optional.arm.FEAT_", 21) != 0 || *size != sizeof(int)) return -1;
  *(int *)value = machine && strcmp(machine, "2") == 0;
  return 0;
}

static int clock_gettime_of(int clock, struct timespec *time) {
  return clock_gettime(clock == 6 ? CLOCK_MONOTONIC : CLOCK_REALTIME, time);
}

static void unbound(void) { fail("a lazy symbol was called that is not bound"); }

/* Both systems' mutexes and conditions start as memory that the library gives; Linux's are the smaller ones. */
_Static_assert(sizeof(pthread_mutex_t) <= 64 && sizeof(pthread_cond_t) <= 48, "too large for Apple's");

static const struct {
  const char *name;
  void (*code)(void);
} symbols[] = {
#define SYMBOL(name) {"_" #name, (void (*)(void))name}
    SYMBOL(memcpy), SYMBOL(memset), SYMBOL(memmove), SYMBOL(memcmp), SYMBOL(strlen), SYMBOL(open), SYMBOL(close),
    SYMBOL(fstat), SYMBOL(mmap), SYMBOL(munmap), SYMBOL(pthread_create), SYMBOL(pthread_join),
    SYMBOL(pthread_mutex_init), SYMBOL(pthread_mutex_destroy), SYMBOL(pthread_mutex_lock),
    SYMBOL(pthread_mutex_unlock), SYMBOL(pthread_cond_init), SYMBOL(pthread_cond_destroy),
    SYMBOL(pthread_cond_wait), SYMBOL(pthread_cond_signal), SYMBOL(pthread_cond_broadcast),
    {"_bzero", (void (*)(void))bzero_of}, {"_sysctlbyname", (void (*)(void))sysctlbyname_of},
    {"_clock_gettime", (void (*)(void))clock_gettime_of}, {"dyld_stub_binder", unbound},
};

static uint64_t address_of(const char *name) {
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    if (strcmp(symbols[i].name, name) == 0) return (uint64_t)(uintptr_t)symbols[i].code;
  }
  fail(name);
  return 0;
}

/* -- rebasing and binding: opcodes of <mach-o/loader.h> ----------------------------------------------------------- */
static uint64_t uleb(const uint8_t **at) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const uint8_t byte = *(*at)++;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

static void add_base(uint64_t *place) { *place += (uint64_t)(uintptr_t)start; }

static void rebase(const uint8_t *at, const uint8_t *end) {
  uint8_t *place = NULL;
  while (at < end) {
    const uint8_t opcode = *at & 0xf0, immediate = *at++ & 0x0f;
    uint64_t count = immediate, skip = 0;
    switch (opcode) {
      case 0x00: return;
      case 0x10: continue; /* pointers */
      case 0x20: place = start + segments[immediate] + uleb(&at); continue;
      case 0x30: place += uleb(&at); continue;
      case 0x40: place += immediate * UINT64_C(8); continue;
      case 0x50: break;
      case 0x60: count = uleb(&at); break;
      case 0x70: count = 1, skip = uleb(&at); break;
      case 0x80: count = uleb(&at), skip = uleb(&at); break;
      default: fail("an unknown opcode of rebasing");
    }
    for (; count; count--, place += 8 + skip) add_base((uint64_t *)(void *)place);
  }
}

/* Lazy bindings end each entry with opcode 0, so that it ends nothing there. */
static void bind(const uint8_t *at, const uint8_t *end, int lazy) {
  uint8_t *place = NULL;
  uint64_t value = 0, count, skip;
  while (at < end) {
    const uint8_t opcode = *at & 0xf0, immediate = *at++ & 0x0f;
    switch (opcode) {
      case 0x00:
        if (!lazy) return;
        continue;
      case 0x10: case 0x30: case 0x50: continue; /* which library, type */
      case 0x20: uleb(&at); continue;
      case 0x40:
        value = address_of((const char *)at);
        at += strlen((const char *)at) + 1;
        continue;
      case 0x70: place = start + segments[immediate] + uleb(&at); continue;
      case 0x80: place += uleb(&at); continue;
      case 0x90: count = 1, skip = 0; break;
      case 0xa0: count = 1, skip = uleb(&at); break;
      case 0xb0: count = 1, skip = immediate * UINT64_C(8); break;
      case 0xc0: count = uleb(&at), skip = uleb(&at); break;
      default: fail("an unknown opcode of binding");
    }
    for (; count; count--, place += 8 + skip) memcpy(place, &value, sizeof value);
  }
}

/* -- loading ------------------------------------------------------------------------------------------------------ */
typedef struct {
  uint32_t command, size;
  char name[16];
  uint64_t address, memory, offset, length;
  uint32_t most, first, sections, flags;
} segment;

typedef struct {
  uint32_t command, size, rebase, rebase_size, bind, bind_size, weak, weak_size, lazy, lazy_size, exports, exports_size;
} dyld_info;

static void read_image(const char *path) {
  struct stat info;
  const int file = open(path, O_RDONLY);
  if (file < 0 || fstat(file, &info) != 0) fail("cannot open the library");
  image = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (image == MAP_FAILED) fail("cannot map the library");
  close(file);
}

static const void *command_at(uint32_t number) {
  const uint8_t *at = image + 32;
  for (; number; number--) at += ((const uint32_t *)(const void *)at)[1];
  return at;
}

static void map_segments(uint32_t count) {
  uint64_t end = 0;
  uint32_t found = 0;
  for (uint32_t i = 0; i < count; i++) {
    const segment *each = command_at(i);
    if (each->command == 0x19) end = each->address + each->memory;
  }
  start = mmap(NULL, end + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) fail("out of memory");
  start += -(uintptr_t)start % PAGE;
  for (uint32_t i = 0; i < count; i++) {
    const segment *each = command_at(i);
    if (each->command != 0x19) continue;
    segments[found++] = each->address;
    memcpy(start + each->address, image + each->offset, each->length);
  }
}

static void protect(uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    const segment *each = command_at(i);
    if (each->command != 0x19) continue;
    const int flags = (int)each->first; /* the bits are those of mprotect */
    if (mprotect(start + each->address, each->memory, flags) != 0) fail("cannot protect a segment");
  }
  __builtin___clear_cache((char *)start, (char *)start + PAGE);
}

/* The only exported symbol: the root of the trie has one edge, to a leaf with flags and address. */
static nm_query_function exported(const uint8_t *trie) {
  const uint8_t *at = trie;
  if (*at++ != 0 || *at++ != 1 || strcmp((const char *)at, "_nm_query") != 0) fail("exports are not _nm_query alone");
  at += sizeof "_nm_query";
  at = trie + uleb(&at);
  uleb(&at), uleb(&at); /* size, flags */
  return (nm_query_function)(uintptr_t)(start + uleb(&at));
}

nm_query_function macho_load(const char *path) {
  nm_query_function query = NULL;
  read_image(path);
  const uint32_t count = ((const uint32_t *)(const void *)image)[4];
  map_segments(count);
  for (uint32_t i = 0; i < count; i++) {
    const dyld_info *info = command_at(i);
    if (info->command != 0x80000022) continue;
    rebase(image + info->rebase, image + info->rebase + info->rebase_size);
    bind(image + info->bind, image + info->bind + info->bind_size, 0);
    bind(image + info->lazy, image + info->lazy + info->lazy_size, 1);
    query = exported(image + info->exports);
  }
  protect(count);
  if (!query) fail("the library has no LC_DYLD_INFO_ONLY");
  return query;
}
