/* Pooling: splits the work into tasks, any split giving the same bits, and runs the kernels of the ISA in use. */
#include "numbers.h"

#include <stddef.h>

enum {
    TASK_BYTES = 32768,      /* moved by one task: some microseconds, far more than handing it out costs */
    SMALL_BYTES = 131072,    /* moved in about 10 microseconds: not worth a second thread */
    CHANNEL_BLOCK = 32,      /* two cache lines of floats, so that two threads never write one line for long */
    ENOUGH_TASKS = 16,
};

/* What the kernels are told: adaptive windows that all have one size are sliding ones, and one channel is the same bytes
 * in both layouts, and planes have the longer rows. */
static fc_pool2d_shape plain(const fc_pool2d_shape *shape)
{
    fc_pool2d_shape s = *shape;
    if (s.adaptive && s.ih % s.oh == 0 && s.iw % s.ow == 0) {
        s.adaptive = s.count_include_pad = 0;
        s.kh = s.sh = s.ih / s.oh;
        s.kw = s.sw = s.iw / s.ow;
        s.ph = s.pw = s.ph_r = s.pw_r = 0;
        s.dh = s.dw = 1;
    }
    if (s.c == 1)
        s.layout = FC_NCHW;
    return s;
}

typedef void (*run_units)(const fc_pool2d_args *args, int64_t begin, int64_t end);

typedef struct job {
    fc_pool2d_args args;
    run_units run;
    int64_t units, units_per_task;
} job;

static void run_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const int64_t begin = task * j->units_per_task;
    (void)worker;
    j->run(&j->args, begin, min64(begin + j->units_per_task, j->units));
}

static void run(job *j, int threads)
{
    const fc_pool2d_shape *s = j->args.shape;
    const int64_t element = element_size(s->dtype);
    const int64_t cells = s->mb * s->c * (s->ih * s->iw + s->oh * s->ow);
    if (j->units == 0 || s->c == 0)
        return;
    const int64_t bytes = cells * element + (j->args.indices ? s->mb * s->c * s->oh * s->ow * 8 : 0);
    if (threads <= 1 || bytes <= SMALL_BYTES) {
        j->run(&j->args, 0, j->units);
        return;
    }
    const int64_t unit_bytes = bytes / j->units + 1;
    j->units_per_task = 1 + TASK_BYTES / unit_bytes;
    fc_parallel_for(ceil_div(j->units, j->units_per_task), threads, run_task, j);
}

static const fc_pool2d_kernels *kernels_for(const fc_pool2d_shape *s)
{
    return s->dtype == FC_F32 ? fc_kernels()->pool2d_f32 : fc_kernels()->pool2d_f64;
}

void fc_max_pool2d_forward(const fc_pool2d_shape *shape, const void *x, void *y, int64_t *indices, int threads)
{
    const fc_pool2d_shape s = plain(shape);
    job j = {{&s, x, y, indices, 0, NULL}, kernels_for(&s)->max_forward[s.layout], 0, 0};
    j.units = s.mb * (s.layout == FC_NCHW ? s.c : s.oh);
    run(&j, threads);
}

int fc_max_pool2d_backward(const fc_pool2d_shape *shape, const void *dy, const int64_t *indices, void *dx, int threads)
{
    const fc_pool2d_shape s = plain(shape);
    int outside = 0;
    job j = {{&s, dy, dx, (int64_t *)indices, s.c, &outside}, kernels_for(&s)->max_backward[s.layout], s.mb * s.c, 0};
    if (s.layout == FC_NHWC) {
        /* Whole images while there are enough of them: their rows are contiguous. Any block gives the same bits. */
        const int whole = threads <= 1 || s.mb >= ENOUGH_TASKS || s.c < 2 * CHANNEL_BLOCK;
        j.args.block = whole ? s.c : CHANNEL_BLOCK;
        j.units = s.mb * ceil_div(s.c, j.args.block);
    }
    run(&j, threads);
    return outside ? -1 : 0;
}

void fc_avg_pool2d_forward(const fc_pool2d_shape *shape, const void *x, void *y, int threads)
{
    const fc_pool2d_shape s = plain(shape);
    job j = {{&s, x, y, NULL, 0, NULL}, kernels_for(&s)->avg_forward[s.layout], 0, 0};
    j.units = s.mb * (s.layout == FC_NCHW ? s.c : s.oh);
    run(&j, threads);
}

void fc_avg_pool2d_backward(const fc_pool2d_shape *shape, const void *dy, void *dx, int threads)
{
    const fc_pool2d_shape s = plain(shape);
    job j = {{&s, dy, dx, NULL, 0, NULL}, kernels_for(&s)->avg_backward[s.layout], 0, 0};
    j.units = s.mb * (s.layout == FC_NCHW ? s.c : s.ih);
    run(&j, threads);
}
