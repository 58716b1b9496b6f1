/* The thread pool: idle workers spin for a moment, then sleep; a busy pool means that the caller works alone. */
#include "fastconv.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

enum {
    MAX_WORKERS = 255,
    SPIN_NANOSECONDS = 50000, /* longer would slow a torch or BLAS pool beside ours */
    SPINS_PER_CLOCK = 64,     /* pauses between two looks at the clock */
    CACHE_LINE = 128,         /* two lines: adjacent ones are prefetched together */
};

/* Life of a slot: the caller posts; its worker takes the post and is active, then idle again. A post that nobody has
 * taken when the tasks have run out is withdrawn, so a sleeping worker never delays a short loop. */
enum { IDLE, POSTED, ACTIVE };

typedef struct worker_slot {
    _Alignas(CACHE_LINE) atomic_int state;
    atomic_int asleep;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
} worker_slot;

static worker_slot slots[MAX_WORKERS];
static atomic_flag busy = ATOMIC_FLAG_INIT; /* held by the caller whose loop is running */
static int created;                         /* workers alive; touched by the holder of busy */

/* Written by the holder of busy while every slot is IDLE. */
static struct {
    void (*fn)(void *ctx, int64_t task, int worker);
    void *ctx;
    int64_t tasks;
} job;
_Alignas(CACHE_LINE) static _Atomic int64_t next_task;

static atomic_int caller_asleep;
static pthread_mutex_t caller_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t caller_wake = PTHREAD_COND_INITIALIZER;

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Spins until state is `wanted`, for a bounded time; returns whether it came true. */
static int spin(atomic_int *state, int wanted)
{
    const int64_t end = nanoseconds() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < SPINS_PER_CLOCK; i++) {
            if (atomic_load_explicit(state, memory_order_acquire) == wanted)
                return 1;
            relax();
        }
    } while (nanoseconds() < end);
    return 0;
}

static void run_tasks(int worker)
{
    for (;;) {
        const int64_t task = atomic_fetch_add_explicit(&next_task, 1, memory_order_relaxed);
        if (task >= job.tasks)
            return;
        job.fn(job.ctx, task, worker);
    }
}

static void *worker_main(void *argument)
{
    const int worker = (int)(ptrdiff_t)argument; /* 1, 2, ...: the caller is 0 */
    worker_slot *slot = &slots[worker - 1];
    for (;;) {
        if (!spin(&slot->state, POSTED)) {
            pthread_mutex_lock(&slot->mutex);
            atomic_store(&slot->asleep, 1);
            while (atomic_load(&slot->state) != POSTED)
                pthread_cond_wait(&slot->wake, &slot->mutex);
            atomic_store(&slot->asleep, 0);
            pthread_mutex_unlock(&slot->mutex);
        }
        int posted = POSTED;
        if (!atomic_compare_exchange_strong(&slot->state, &posted, ACTIVE))
            continue; /* withdrawn */
        run_tasks(worker);
        atomic_store(&slot->state, IDLE);
        if (atomic_load(&caller_asleep)) {
            pthread_mutex_lock(&caller_mutex);
            pthread_cond_signal(&caller_wake);
            pthread_mutex_unlock(&caller_mutex);
        }
    }
    return NULL;
}

/* Makes workers until `wanted` exist; returns how many there are. Signals stay with the threads of the program. */
static int create_workers(int wanted)
{
    sigset_t all, before;
    if (created >= wanted)
        return wanted;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (created < wanted) {
        pthread_t thread;
        worker_slot *slot = &slots[created];
        pthread_mutex_init(&slot->mutex, NULL);
        pthread_cond_init(&slot->wake, NULL);
        atomic_store(&slot->state, IDLE);
        atomic_store(&slot->asleep, 0);
        if (pthread_create(&thread, NULL, worker_main, (void *)(ptrdiff_t)(created + 1)) != 0)
            break;
        pthread_detach(thread);
        created++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return created;
}

static void post(worker_slot *slot)
{
    atomic_store(&slot->state, POSTED);
    if (atomic_load(&slot->asleep)) {
        pthread_mutex_lock(&slot->mutex);
        pthread_cond_signal(&slot->wake);
        pthread_mutex_unlock(&slot->mutex);
    }
}

static void withdraw_or_wait(worker_slot *slot)
{
    int posted = POSTED;
    if (atomic_compare_exchange_strong(&slot->state, &posted, IDLE) || spin(&slot->state, IDLE))
        return;
    pthread_mutex_lock(&caller_mutex);
    atomic_store(&caller_asleep, 1);
    while (atomic_load(&slot->state) != IDLE)
        pthread_cond_wait(&caller_wake, &caller_mutex);
    atomic_store(&caller_asleep, 0);
    pthread_mutex_unlock(&caller_mutex);
}

void fc_parallel_for(int64_t tasks, int threads, void (*fn)(void *ctx, int64_t task, int worker), void *ctx)
{
    int helpers = threads - 1;
    if (helpers > tasks - 1)
        helpers = (int)(tasks - 1);
    if (helpers > MAX_WORKERS)
        helpers = MAX_WORKERS;
    if (helpers < 1 || atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
        for (int64_t task = 0; task < tasks; task++)
            fn(ctx, task, 0);
        return;
    }
    helpers = create_workers(helpers) < helpers ? created : helpers;
    job.fn = fn;
    job.ctx = ctx;
    job.tasks = tasks;
    atomic_store(&next_task, 0);
    for (int i = 0; i < helpers; i++)
        post(&slots[i]);
    run_tasks(0);
    for (int i = 0; i < helpers; i++)
        withdraw_or_wait(&slots[i]);
    atomic_flag_clear_explicit(&busy, memory_order_release);
}

/* The child of a fork has no workers, whatever its parent's were doing: it starts with an empty pool. */
static void forget_workers(void)
{
    created = 0;
    atomic_flag_clear(&busy);
    atomic_store(&caller_asleep, 0);
    caller_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    caller_wake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

__attribute__((constructor)) static void register_fork_handler(void)
{
    pthread_atfork(NULL, NULL, forget_workers);
}
