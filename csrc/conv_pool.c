/* Convolution, ReLU and 2x2 maximum pooling of few input channels: 3x3, stride 1, NHWC. The convolution's output is never
 * stored: each cell keeps its maximum and a code that names the winner, from which the weight gradient is summed.
 *
 * Where there is padding, or more than one channel, a task first copies the rows that it needs into a strip with a
 * plane for each channel and zeros around. */
#include "conv_pool.h"
#include "numbers.h"

#include <string.h>

enum {
    TASK_CELLS = 512,                /* pooled cells of one task at least: a row or more of an image, */
    SUM_CELLS = FC_SUM_TERMS,        /* and at most of a partial sum of the weight gradient */
    IMAGE_CHUNKS = 16,               /* whose sums are kept apart, and added in order: the same for any number of threads */
    TAPS = 9,
};

typedef struct conv_pool {
    const fc_conv2d_shape *s;
    const fc_conv_pool_kernel *kernel;
    fc_conv_pool_operands arrays;
    int64_t size, rows, columns;     /* of pooled outputs */
    int64_t block, blocks;           /* rows of a task; tasks of an image */
    int64_t chunks;                  /* of images */
    int in_place;
    char *packed, *sums, *strips;
    int64_t strip_bytes, sum_bytes;
} conv_pool;

static void lay_out(conv_pool *p, const fc_conv2d_shape *s)
{
    memset(p, 0, sizeof *p);
    p->s = s;
    p->size = element_size(s->dtype);
    p->rows = s->oh / 2;
    p->columns = s->ow / 2;
    const int64_t cells = s->pass == FC_FORWARD ? TASK_CELLS : SUM_CELLS;
    p->block = max64(1, min64(p->rows, cells / max64(1, p->columns)));
    p->blocks = ceil_div(p->rows, p->block);
    p->chunks = min64(s->mb, IMAGE_CHUNKS);
    p->in_place = s->ic == 1 && s->ph == 0 && s->pw == 0 && s->ph_r == 0 && s->pw_r == 0;
    p->strip_bytes = p->in_place ? 0 : align_up(s->ic * (2 * p->block + 2) * (2 * p->columns + 2) * p->size);
    p->sum_bytes = align_up((TAPS * s->ic + 1) * (s->oc + FC_LANES_MAX - 1) * p->size);
}

static int64_t workspace_bytes(const fc_conv2d_shape *s, int threads)
{
    conv_pool p;
    lay_out(&p, s);
    const int64_t weights = align_up(TAPS * s->ic * s->oc * p.size);
    return (s->pass == FC_FORWARD ? weights : p.chunks * p.sum_bytes) + threads * p.strip_bytes;
}

/* What `rows` rows of cells of image n from `row` on read: in place, or copied to a strip. */
static void set_input(const conv_pool *p, fc_conv_pool_args *args, int64_t n, int64_t row, int64_t rows, char *strip)
{
    const fc_conv2d_shape *const s = p->s;
    const char *const image = (const char *)p->arrays.x + n * s->ih * s->iw * s->ic * p->size;
    if (p->in_place) {
        args->x = image + 2 * row * s->iw * p->size;
        args->x_row = s->iw;
        return;
    }
    const int64_t height = 2 * rows + 2, width = 2 * p->columns + 2, top = 2 * row - s->ph;
    const int64_t left = max64(0, s->pw), right = min64(width, s->iw + s->pw);
    args->x = strip;
    args->x_row = width;
    args->x_plane = height * width;
    for (int64_t c = 0; c < s->ic; c++)
        for (int64_t r = 0; r < height; r++) {
            char *const to = strip + (c * height + r) * width * p->size;
            const int inside = top + r >= 0 && top + r < s->ih && left < right;
            const char *const from = image + (((top + r) * s->iw + left - s->pw) * s->ic + c) * p->size;
            const int64_t first = inside ? left : width, last = inside ? right : width;
            memset(to, 0, (size_t)(first * p->size));
            if (p->size == 4)
                for (int64_t j = first; j < last; j++)
                    ((float *)to)[j] = ((const float *)from)[(j - first) * s->ic];
            else
                for (int64_t j = first; j < last; j++)
                    ((double *)to)[j] = ((const double *)from)[(j - first) * s->ic];
            memset(to + last * p->size, 0, (size_t)((width - last) * p->size));
        }
}

static fc_conv_pool_args args_of(const conv_pool *p, int64_t n, int64_t block, char *strip)
{
    const fc_conv2d_shape *const s = p->s;
    const int64_t row = block * p->block, rows = min64(p->block, p->rows - row);
    const int64_t at = (n * p->rows + row) * p->columns * s->oc;
    fc_conv_pool_args args = {.rows = rows, .columns = p->columns, .channels = s->ic, .outputs = s->oc,
                              .w = p->packed, .w_step = s->oc, .bias = p->arrays.bias,
                              .y = (char *)p->arrays.y + at * p->size, .codes = p->arrays.codes + at};
    set_input(p, &args, n, row, rows, strip);
    return args;
}

static void forward_task(void *ctx, int64_t task, int worker)
{
    const conv_pool *p = ctx;
    const fc_conv_pool_args args =
        args_of(p, task / p->blocks, task % p->blocks, p->strips + worker * p->strip_bytes);
    p->kernel->forward(&args);
}

static void gradient_task(void *ctx, int64_t chunk, int worker)
{
    const conv_pool *p = ctx;
    char *const sums = p->sums + chunk * p->sum_bytes;
    memset(sums, 0, (size_t)p->sum_bytes);
    for (int64_t n = p->s->mb * chunk / p->chunks; n < p->s->mb * (chunk + 1) / p->chunks; n++)
        for (int64_t block = 0; block < p->blocks; block++) {
            fc_conv_pool_args args = args_of(p, n, block, p->strips + worker * p->strip_bytes);
            args.sums = sums;
            args.bias = NULL;
            p->kernel->weight_gradient(&args);
        }
}

/* w[tap][c][o] in rows, whatever its strides. */
static void pack(const conv_pool *p, char *to)
{
    const int64_t *const stride = p->arrays.w.strides;
    for (int64_t row = 0; row < TAPS * p->s->ic; row++) {
        const int64_t tap = row / p->s->ic, c = row % p->s->ic;
        const char *const from =
            (const char *)p->arrays.w.data + (c * stride[1] + tap / 3 * stride[2] + tap % 3 * stride[3]) * p->size;
        for (int64_t o = 0; o < p->s->oc; o++)
            memcpy(to + (row * p->s->oc + o) * p->size, from + o * stride[0] * p->size, (size_t)p->size);
    }
}

/* The sums of one tap of one channel (row = 9 * ic: the bias) over all chunks. */
static void add_chunks(const conv_pool *p, int64_t row, char *to, int64_t step)
{
    const int64_t lanes = p->kernel->lanes, oc = p->s->oc, rows = TAPS * p->s->ic + 1;
    const int dtype = p->s->dtype;
    for (int64_t o = 0; o < oc; o++) {
        const int64_t vector = o < oc / lanes * lanes ? o / lanes : ceil_div(oc, lanes) - 1;
        const int64_t lane = o - min64(vector * lanes, oc - lanes), at = (vector * rows + row) * lanes + lane;
        set_element(dtype, to, o * step, sum_of_tasks(dtype, p->sums, at, p->chunks, p->sum_bytes / p->size));
    }
}

static void run(const fc_conv2d_shape *s, const fc_conv_pool_operands *arrays, void *workspace, int threads)
{
    conv_pool p;
    const fc_kernels_table *const table = fc_kernels();
    lay_out(&p, s);
    p.kernel = s->dtype == FC_F32 ? table->conv_pool_f32 : table->conv_pool_f64;
    p.arrays = *arrays;
    if (s->pass == FC_FORWARD) {
        p.packed = workspace;
        p.strips = p.packed + align_up(TAPS * s->ic * s->oc * p.size);
        pack(&p, p.packed);
        fc_parallel_for(s->mb * p.blocks, threads, forward_task, &p);
        return;
    }
    p.sums = workspace;
    p.strips = p.sums + p.chunks * p.sum_bytes;
    fc_parallel_for(p.chunks, threads, gradient_task, &p);
    const int64_t *const stride = arrays->w.strides;
    for (int64_t row = 0; row < TAPS * s->ic; row++) {
        const int64_t tap = row / s->ic, c = row % s->ic;
        add_chunks(&p, row,
                   (char *)arrays->w.data + (c * stride[1] + tap / 3 * stride[2] + tap % 3 * stride[3]) * p.size, stride[0]);
    }
    if (arrays->bias)
        add_chunks(&p, TAPS * s->ic, arrays->bias, 1);
}

const fc_conv_pool_row fc_conv2d_relu_max_pool2d_forward_direct = {
    "conv2d_relu_max_pool2d_forward_direct", workspace_bytes, run};
const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_weight_direct = {
    "conv2d_relu_max_pool2d_backward_weight_direct", workspace_bytes, run};
