/* Scratch memory of each thread for small calls: grown on demand, kept between calls, freed when the thread ends. */
#include "fastconv.h"

#include <pthread.h>
#include <stdlib.h>

enum { SCRATCH_ALIGNMENT = 64, SCRATCH_GRAIN = 4096 };

static _Thread_local void *scratch;
static _Thread_local int64_t scratch_size;
static pthread_key_t at_exit; /* holds the same pointer: its destructor frees what a thread leaves */

__attribute__((constructor)) static void make_key(void)
{
    pthread_key_create(&at_exit, free);
}

void fc_free_scratch(void)
{
    free(scratch);
    scratch = NULL;
    scratch_size = 0;
    pthread_setspecific(at_exit, NULL);
}

void *fc_scratch(int64_t nbytes)
{
    if (nbytes <= scratch_size)
        return scratch;
    fc_free_scratch();
    const int64_t size = (nbytes + SCRATCH_GRAIN - 1) / SCRATCH_GRAIN * SCRATCH_GRAIN;
    void *memory;
    if (posix_memalign(&memory, SCRATCH_ALIGNMENT, (size_t)size) != 0)
        return NULL;
    if (pthread_setspecific(at_exit, memory) != 0) {
        free(memory);
        return NULL;
    }
    scratch = memory;
    scratch_size = size;
    return memory;
}
