/* nomul_pool.c: splits the tiles of a step over threads.
 *
 * Thread t owns the t-th share of the tiles, so that it finds in its cache what it wrote in the step before; it takes
 * the share in chunks, and when that is done helps the others. A worker joins a step by counting itself into `active`
 * and then looking whether the step is still open. The caller works too, closes the step when no chunk is left, and
 * waits only for workers that are inside: one that the system has put to sleep never holds up a run.
 */
#if defined(__linux__)
#define _GNU_SOURCE /* where a thread runs */
#else
#define _POSIX_C_SOURCE 200809L
#endif
#include "nomul_rt.h"

/* Runs tiles [begin, end) as thread `self`. */
static nm_status run_tiles(const nm_run *run, nm_call call, void *const *args, int64_t begin, int64_t end,
                           uint32_t self) {
  return call(run, args, begin, end, run->thread_scratch + self * run->thread_scratch_size) ? NM_KERNEL_FAILED : NM_OK;
}

#if defined(NM_NO_THREADS)

void nm_pool_enter(nm_pool *pool) { (void)pool; }

uint32_t nm_pool_threads(const nm_pool *pool) {
  (void)pool;
  return 1;
}

static nm_status run_step(const nm_run *run, nm_call call, void *const *args, int64_t tiles, int64_t grain) {
  (void)grain;
  return run_tiles(run, call, args, 0, tiles, 0);
}

size_t nm_rt_pool_size(uint32_t threads) {
  (void)threads;
  return 0;
}

nm_status nm_rt_pool_start(void *memory, size_t memory_size, uint32_t threads, nm_pool **pool) {
  (void)memory, (void)memory_size, (void)threads, (void)pool;
  return NM_NOT_BUILT;
}

nm_status nm_rt_pool_stop(nm_pool *pool) {
  (void)pool;
  return NM_NOT_BUILT;
}

#else

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define SPIN_NANOSECONDS 40000 /* how long a thread looks for news before it sleeps */
#define CHUNKS_PER_THREAD 4    /* finer chunks balance better, coarser ones cost fewer calls */

/* The share of one thread; a cache line, so that threads do not disturb each other. */
typedef struct {
  _Alignas(NM_ALIGNMENT) _Atomic int64_t next;
  int64_t end;
  nm_pool *pool; /* for the start of the worker */
  pthread_t thread;
  uint32_t index;
#if defined(__linux__)
  _Atomic int32_t number; /* of the thread, for the system; 0: it has not started */
#endif
} share;

struct nm_pool {
  _Alignas(NM_ALIGNMENT) _Atomic uint32_t news; /* changes when a step opens and when the pool stops */
  _Atomic uint32_t open, stopping, sleepers;
  _Alignas(NM_ALIGNMENT) _Atomic uint32_t active, caller_sleeps;
  _Alignas(NM_ALIGNMENT) _Atomic uint32_t busy; /* a run has the pool */
  uint32_t threads;
#if defined(__linux__)
  cpu_set_t cpus; /* on which the workers may run */
  _Atomic int32_t callers_cpu; /* where the newest run began */
#endif
  pthread_mutex_t mutex;
  pthread_cond_t wake, idle;

  /* the step; written only while it is closed and no worker is inside */
  const nm_run *run;
  nm_call call;
  void *const *args;
  int64_t chunk;
  uint32_t shares_used;
  _Atomic nm_status status;

  share shares[];
};

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Looks at *word until it equals (equal = 1) or differs from (0) `value`. 0: not within the time to spin. */
static int spin(_Atomic uint32_t *word, int equal, uint32_t value) {
  for (const int64_t end = now() + SPIN_NANOSECONDS; now() < end;) {
    for (int i = 0; i < 32; i++) {
      if ((atomic_load(word) == value) == equal) return 1;
      pause_briefly();
    }
  }
  return 0;
}

/* ---- Places ------------------------------------------------------------------------------------------------- */

/* A system that likes to keep few cores busy wakes a worker on the core of the caller, which is not going to give it up:
 * the worker would sleep through the run. So workers are kept off the core that the caller is on. */
#if defined(__linux__)

static void keep_off(const nm_pool *pool, int32_t thread, int32_t cpu) {
  cpu_set_t others = pool->cpus;
  if (cpu < 0 || cpu >= CPU_SETSIZE) return;
  CPU_CLR((size_t)cpu, &others);
  if (CPU_COUNT(&others) > 0) sched_setaffinity(thread, sizeof others, &others); /* if it fails, all is as it was */
}

void nm_pool_enter(nm_pool *pool) {
  if (!pool) return;
  const int32_t cpu = sched_getcpu();
  if (cpu == atomic_load_explicit(&pool->callers_cpu, memory_order_relaxed)) return;
  atomic_store(&pool->callers_cpu, cpu);
  for (uint32_t i = 1; i < pool->threads; i++) {
    const int32_t thread = atomic_load(&pool->shares[i].number);
    if (thread != 0) keep_off(pool, thread, cpu);
  }
}

/* The number is there before the caller's place is read, and nm_pool_enter writes and reads in the other order. */
static void worker_is_here(share *mine) {
  atomic_store(&mine->number, (int32_t)syscall(SYS_gettid));
  keep_off(mine->pool, 0, atomic_load(&mine->pool->callers_cpu));
}

static void find_cpus(nm_pool *pool) {
  if (sched_getaffinity(0, sizeof pool->cpus, &pool->cpus) != 0) CPU_ZERO(&pool->cpus); /* more than it can name */
}

#else

void nm_pool_enter(nm_pool *pool) { (void)pool; }
static void worker_is_here(share *mine) { (void)mine; }
static void find_cpus(nm_pool *pool) { (void)pool; }

#endif

/* ---- Workers ------------------------------------------------------------------------------------------------ */

static void work(nm_pool *pool, uint32_t self) {
  for (uint32_t i = 0; i < pool->shares_used; i++) {
    share *from = &pool->shares[(self + i) % pool->shares_used];
    for (;;) {
      const int64_t begin = atomic_fetch_add_explicit(&from->next, pool->chunk, memory_order_relaxed);
      if (begin >= from->end) break;
      const int64_t end = begin + pool->chunk < from->end ? begin + pool->chunk : from->end;
      const nm_status status = run_tiles(pool->run, pool->call, pool->args, begin, end, self);
      if (status != NM_OK) atomic_store(&pool->status, status);
    }
  }
}

static uint32_t wait_for_news(nm_pool *pool, uint32_t seen) {
  if (spin(&pool->news, 0, seen)) return atomic_load(&pool->news);
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->sleepers, 1);
  while (atomic_load(&pool->news) == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
  atomic_fetch_sub(&pool->sleepers, 1);
  pthread_mutex_unlock(&pool->mutex);
  return atomic_load(&pool->news);
}

static void *worker(void *argument) {
  share *mine = argument;
  nm_pool *pool = mine->pool;
  uint32_t seen = 0;
  worker_is_here(mine);
  for (;;) {
    seen = wait_for_news(pool, seen);
    if (atomic_load(&pool->stopping)) return NULL;
    atomic_fetch_add(&pool->active, 1);
    if (atomic_load(&pool->open)) work(pool, mine->index);
    if (atomic_fetch_sub(&pool->active, 1) == 1 && atomic_load(&pool->caller_sleeps)) {
      pthread_mutex_lock(&pool->mutex);
      pthread_cond_signal(&pool->idle);
      pthread_mutex_unlock(&pool->mutex);
    }
  }
}

/* ---- The caller --------------------------------------------------------------------------------------------- */

static void tell_workers(nm_pool *pool) {
  atomic_fetch_add(&pool->news, 1);
  if (atomic_load(&pool->sleepers) == 0) return;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);
}

static void wait_until_idle(nm_pool *pool) {
  if (spin(&pool->active, 1, 0)) return;
  pthread_mutex_lock(&pool->mutex);
  atomic_store(&pool->caller_sleeps, 1);
  while (atomic_load(&pool->active) != 0) pthread_cond_wait(&pool->idle, &pool->mutex);
  atomic_store(&pool->caller_sleeps, 0);
  pthread_mutex_unlock(&pool->mutex);
}

static int64_t divide_up(int64_t a, int64_t b) { return a / b + (a % b != 0); }

static nm_status run_on_pool(nm_pool *pool, int64_t tiles, int64_t grain, uint32_t shares_used) {
  int64_t begin = 0;
  pool->shares_used = shares_used;
  pool->chunk = nm_max(grain, divide_up(tiles, (int64_t)shares_used * CHUNKS_PER_THREAD));
  for (uint32_t i = 0; i < shares_used; i++) {
    const int64_t size = tiles / shares_used + (i < tiles % shares_used);
    atomic_store_explicit(&pool->shares[i].next, begin, memory_order_relaxed);
    pool->shares[i].end = begin += size;
  }
  atomic_store(&pool->status, NM_OK);
  atomic_store(&pool->open, 1);
  tell_workers(pool);
  work(pool, 0);
  atomic_store(&pool->open, 0);
  wait_until_idle(pool);
  return atomic_load(&pool->status);
}

static nm_status run_step(const nm_run *run, nm_call call, void *const *args, int64_t tiles, int64_t grain) {
  nm_pool *pool = run->pool;
  const int64_t shares_wanted = pool ? tiles / nm_max(grain, 1) : 1;
  if (shares_wanted < 2 || pool->threads < 2 || atomic_exchange(&pool->busy, 1)) {
    return run_tiles(run, call, args, 0, tiles, 0);
  }
  pool->run = run;
  pool->call = call;
  pool->args = args;
  const uint32_t shares_used = shares_wanted < pool->threads ? (uint32_t)shares_wanted : pool->threads;
  const nm_status status = run_on_pool(pool, tiles, nm_max(grain, 1), shares_used);
  atomic_store(&pool->busy, 0);
  return status;
}

/* ---- Start and stop ----------------------------------------------------------------------------------------- */

uint32_t nm_pool_threads(const nm_pool *pool) { return pool ? pool->threads : 1; }

size_t nm_rt_pool_size(uint32_t threads) {
  return threads >= 1 && threads <= NM_MAX_THREADS ? sizeof(nm_pool) + threads * sizeof(share) : 0;
}

nm_status nm_rt_pool_stop(nm_pool *pool) {
  if (!pool) return NM_NULL_POINTER;
  atomic_store(&pool->stopping, 1);
  tell_workers(pool);
  for (uint32_t i = 1; i < pool->threads; i++) pthread_join(pool->shares[i].thread, NULL);
  pthread_cond_destroy(&pool->idle);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->mutex);
  return NM_OK;
}

nm_status nm_rt_pool_start(void *memory, size_t memory_size, uint32_t threads, nm_pool **pool) {
  const size_t size = nm_rt_pool_size(threads);
  if (!memory || !pool) return NM_NULL_POINTER;
  if (size == 0 || memory_size < size || (uintptr_t)memory % NM_ALIGNMENT) return NM_POOL_FAILED;
  nm_pool *made = memset(memory, 0, size);
  find_cpus(made);
  nm_pool_enter(made);
  pthread_mutex_init(&made->mutex, NULL);
  pthread_cond_init(&made->wake, NULL);
  pthread_cond_init(&made->idle, NULL);
  for (made->threads = 1; made->threads < threads; made->threads++) {
    share *next = &made->shares[made->threads];
    next->pool = made;
    next->index = made->threads;
    if (pthread_create(&next->thread, NULL, worker, next) != 0) {
      nm_rt_pool_stop(made);
      return NM_POOL_FAILED;
    }
  }
  *pool = made;
  return NM_OK;
}

#endif

nm_status nm_step(const nm_run *run, uint32_t index, nm_call call, void *const *args, int64_t tiles, int64_t grain) {
  const nm_status status = tiles > 0 ? run_step(run, call, args, tiles, grain) : NM_OK;
  if (run->env->after_step) run->env->after_step(run->env->user, index);
  return status;
}
