/* nomul_weights.c: finds and checks the weights, embedded or in a file of their own. */
#define _POSIX_C_SOURCE 200809L
#include "nomul_rt.h"

#include <string.h>

nm_status nm_find_weights(const nm_env *env, const uint8_t **payload) {
  const nm_program *program = &nm_the_program;
  const uint8_t *image = env->weights ? env->weights : program->model.weights;
  if (!image) return NM_WEIGHTS_MISSING;
  if (image != program->model.weights) {
    if ((uintptr_t)image % NM_ALIGNMENT) return NM_WEIGHTS_MISALIGNED;
    if (env->weights_size < program->model.weights_size) return NM_WEIGHTS_SHORT;
    if (memcmp(image, &program->weights_header, sizeof program->weights_header) != 0) return NM_WEIGHTS_WRONG;
  }
  *payload = image + sizeof(nm_weights_header);
  return NM_OK;
}

/* ---- SHA-256 (FIPS 180-4) ----------------------------------------------------------------------------------- */

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t word, uint32_t by) { return word >> by | word << (32 - by); }

static void sha256_block(uint32_t state[8], const uint8_t *bytes) {
  uint32_t w[64], s[8];
  for (int i = 0; i < 16; i++, bytes += 4) {
    w[i] = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
  }
  for (int i = 16; i < 64; i++) {
    const uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + w[i - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
  }
  memcpy(s, state, sizeof s);
  for (int i = 0; i < 64; i++) {
    const uint32_t a = s[0], e = s[4];
    const uint32_t t1 = s[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & s[5]) ^ (~e & s[6])) +
                        round_constants[i] + w[i];
    const uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
    memmove(s + 1, s, 7 * sizeof *s);
    s[4] += t1;
    s[0] = t1 + t2;
  }
  for (int i = 0; i < 8; i++) state[i] += s[i];
}

static void sha256(const uint8_t *bytes, uint64_t size, uint8_t digest[32]) {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t last[128] = {0};
  const uint64_t whole = size / 64 * 64, rest = size - whole;
  const uint32_t last_size = rest < 56 ? 64 : 128;
  for (uint64_t at = 0; at < whole; at += 64) sha256_block(state, bytes + at);
  if (rest) memcpy(last, bytes + whole, (size_t)rest);
  last[rest] = 0x80;
  for (uint32_t i = 0; i < 8; i++) last[last_size - 1 - i] = (uint8_t)(size * 8 >> 8 * i);
  for (uint32_t at = 0; at < last_size; at += 64) sha256_block(state, last + at);
  for (uint32_t i = 0; i < 32; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

nm_status nm_rt_check_weights(const nm_env *env) {
  const nm_weights_header *header = &nm_the_program.weights_header;
  const uint8_t *payload;
  uint8_t digest[32];
  if (!env) return NM_NULL_POINTER;
  if (env->size != sizeof(nm_env)) return NM_WRONG_ENV;
  const nm_status status = nm_find_weights(env, &payload);
  if (status != NM_OK) return status;
  sha256(payload, header->payload_size, digest);
  return memcmp(digest, header->sha256, sizeof digest) == 0 ? NM_OK : NM_WEIGHTS_WRONG;
}

/* ---- Files -------------------------------------------------------------------------------------------------- */

#if defined(NM_NO_FILES)

nm_status nm_rt_map_weights(const char *path, const void **weights, size_t *weights_size) {
  (void)path, (void)weights, (void)weights_size;
  return NM_NOT_BUILT;
}

nm_status nm_rt_unmap_weights(const void *weights, size_t weights_size) {
  (void)weights, (void)weights_size;
  return NM_NOT_BUILT;
}

#else

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

nm_status nm_rt_map_weights(const char *path, const void **weights, size_t *weights_size) {
  struct stat info;
  void *memory = MAP_FAILED;
  if (!path || !weights || !weights_size) return NM_NULL_POINTER;
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return NM_FILE_FAILED;
  if (fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 && (uint64_t)info.st_size <= SIZE_MAX) {
    memory = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, file, 0);
  }
  close(file);
  if (memory == MAP_FAILED) return NM_FILE_FAILED;
  *weights = memory;
  *weights_size = (size_t)info.st_size;
  return NM_OK;
}

nm_status nm_rt_unmap_weights(const void *weights, size_t weights_size) {
  if (!weights) return NM_NULL_POINTER;
  return munmap((void *)(uintptr_t)weights, weights_size) == 0 ? NM_OK : NM_FILE_FAILED;
}

#endif
