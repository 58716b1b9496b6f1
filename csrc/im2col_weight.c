/* The weight gradient as GEMM, NCHW: dw[o][c][t] = sum over pixels of dy[pixel][o] * x[pixel under tap t][c].
 *
 * Rows of the microkernel are input channels (or, where they follow each other in x, the taps of a filter row and their
 * channels), read from x in place; columns are output channels, packed; its taps are output rows, clipped to where the tap
 * lies inside the image. */
#include "im2col.h"

enum { MAX_TAP_ROWS = 512 }; /* output rows in one depth block: their offsets are kept on the stack */

typedef struct weight_gradient {
    fc_gemm_kernel kernel;
    const fc_conv2d_shape *s;
    int size;
    strides4 x, y;
    const char *in, *dy;
    char *dw;
    int64_t ws[4];
    int64_t icg, ocg, panels, rows, splits; /* rows = kh*kw*icg of one panel's sums */
    int64_t row_block, column_block;        /* output rows, and cells of each, in one depth block */
    int merged;
    char *sums;                             /* [group][panel][row][nr] */
    char *scratch;
    int64_t scratch_bytes;
} weight_gradient;

/* Output cells o with 0 <= o*stride + offset < length, cut to [lo, hi). */
static void clip(int64_t *lo, int64_t *hi, int64_t offset, int64_t stride, int64_t length)
{
    if (offset < 0)
        *lo = max64(*lo, ceil_div(-offset, stride));
    *hi = offset < length ? min64(*hi, (length - 1 - offset) / stride + 1) : *lo;
    if (*hi < *lo)
        *hi = *lo;
}

/* The zeros of the padding times dy are NaN where dy is not finite: adds them to the m rows of a tile, for the pixels
 * that its tap meets outside of the image (the tap's rows th, and its columns outside of [lo, hi) ). */
static void add_padding(const weight_gradient *g, const char *b, char *sums, int64_t m, int64_t th, int64_t row0,
                        int64_t row1, int64_t lo, int64_t hi, int64_t width)
{
    const fc_conv2d_shape *s = g->s;
    const int64_t nr = g->kernel.nr;
    double zero[FC_NR_MAX] = {0}; /* 0, or NaN */
    for (int64_t row = row0; row < row1; row++) {
        const int64_t y = row % s->oh * s->sh + th;
        const int inside = y >= 0 && y < s->ih;
        for (int64_t column = 0; column < width; column++)
            for (int64_t j = 0; j < nr && !(inside && column >= lo && column < hi); j++)
                zero[j] += 0.0 * element(s->dtype, b, ((row - row0) * width + column) * nr + j);
    }
    for (int64_t i = 0; i < m * nr; i++)
        if (g->size == 4)
            ((float *)sums)[i] += (float)zero[i % nr];
        else
            ((double *)sums)[i] += zero[i % nr];
}

static void weight_gradient_task(void *ctx, int64_t task, int worker)
{
    const weight_gradient *g = ctx;
    const fc_conv2d_shape *s = g->s;
    const int64_t size = g->size, nr = g->kernel.nr, mr = g->kernel.mr;
    const int64_t part = task % g->splits, panel = task / g->splits % g->panels, group = task / g->splits / g->panels;
    const int64_t o0 = group * g->ocg + panel * nr, n = min64(nr, g->ocg - panel * nr);
    /* Row runs: one run of channels for each tap, or one of (tap, channel) for each filter row. */
    const int64_t inner = g->merged ? s->kw : 1, run = g->icg * inner, runs = s->kh * s->kw / inner;
    const int64_t tiles_a_run = ceil_div(run, mr);
    int64_t tile0;
    const int64_t tiles = split(runs * tiles_a_run, g->splits, part, &tile0);
    const int64_t rows_all = s->mb * s->oh;
    char *const sums = g->sums + (group * g->panels + panel) * g->rows * nr * size;
    char *const b = g->scratch + worker * g->scratch_bytes;
    int64_t a_offset[MAX_TAP_ROWS], b_offset[MAX_TAP_ROWS];
    fc_gemm_args args;
    int first = 1;

    memset(&args, 0, sizeof args);
    args.n = nr;
    args.b = b;
    args.rs_b = args.rs_c = nr;
    args.a_offset = a_offset;
    args.b_offset = b_offset;
    args.rs_a = g->icg > 1 ? g->x.c : s->dw * g->x.w;
    args.cs_a = s->sw * g->x.w;
    for (int64_t row0 = 0; row0 < rows_all; row0 += g->row_block) {
        const int64_t row1 = min64(row0 + g->row_block, rows_all);
        for (int64_t left = 0; left < s->ow; left += g->column_block, first = 0) {
            const int64_t right = min64(left + g->column_block, s->ow), width = right - left;
            for (int64_t row = row0; row < row1; row++) {
                const char *src = g->dy + (row / s->oh * g->y.n + row % s->oh * g->y.h + left * g->y.w + o0 * g->y.c) * size;
                pack_panel(b + (row - row0) * width * nr * size, nr, src, width, g->y.w, n, g->y.c, (int)size);
            }
            const int nonfinite = any_nonfinite(b, (row1 - row0) * width * nr, (int)size);
            for (int64_t tile = tile0; tile < tile0 + tiles; tile++) {
                int64_t r0, lo = left, hi = right, taps = 0;
                const int64_t at = tile / tiles_a_run;
                const int64_t kh = at * inner / s->kw, kw = at * inner % s->kw;
                const int64_t th = kh * s->dh - s->ph, tw = kw * s->dw - s->pw;
                args.m = split(run, tiles_a_run, tile % tiles_a_run, &r0);
                if (!g->merged)
                    clip(&lo, &hi, tw, s->sw, s->iw);
                for (int64_t row = row0; row < row1 && hi > lo; row++) {
                    const int64_t y = row % s->oh * s->sh + th;
                    if (y < 0 || y >= s->ih)
                        continue;
                    a_offset[taps] = row / s->oh * g->x.n + y * g->x.h + (lo * s->sw + tw) * g->x.w;
                    b_offset[taps++] = ((row - row0) * width + lo - left) * nr;
                }
                args.a = g->in + (group * g->icg * g->x.c + r0 * args.rs_a) * size;
                args.taps = taps;
                args.kc = hi - lo;
                args.c = sums + (at * run + r0) * nr * size;
                args.accumulate = !first;
                if (taps > 0 || first)
                    g->kernel.run(&args);
                if (nonfinite && taps * (hi - lo) < (row1 - row0) * width)
                    add_padding(g, b, args.c, args.m, th, row0, row1, lo - left, hi - left, width);
            }
        }
    }
    for (int64_t tile = tile0; tile < tile0 + tiles; tile++) {
        int64_t r0;
        const int64_t at = tile / tiles_a_run, m = split(run, tiles_a_run, tile % tiles_a_run, &r0);
        for (int64_t r = r0; r < r0 + m; r++) {
            const int64_t t = at * inner + r / g->icg, c = r % g->icg;
            char *row = sums + (at * run + r) * nr * size;
            if (first)
                zero_run(row, nr, (int)size);
            copy_words(g->dw + (o0 * g->ws[0] + c * g->ws[1] + t / s->kw * g->ws[2] + t % s->kw * g->ws[3]) * size, row, n,
                       g->ws[0], 1, (int)size);
        }
    }
}

/* Output rows and cells of each in one depth block. */
static void weight_gradient_blocks(const fc_conv2d_shape *s, int64_t *rows, int64_t *columns)
{
    const int64_t target = DEPTH_BYTES / element_size(s->dtype);
    *columns = max64(1, min64(s->ow, target));
    *rows = max64(1, min64(min64(target / *columns, MAX_TAP_ROWS), s->mb * s->oh));
}

static void run(const fc_conv2d_shape *s, const fc_view *x, const fc_view *dy, const fc_view *dw, void *workspace, int threads)
{
    weight_gradient g;
    const fc_kernels_table *table = fc_kernels();
    if (s->layout == FC_NHWC) {
        fc_im2col_weight_nhwc(s, x, dy, dw, workspace, threads);
        return;
    }
    memset(&g, 0, sizeof g);
    g.kernel = s->dtype == FC_F32 ? table->gemm_f32 : table->gemm_f64;
    g.s = s;
    g.size = (int)element_size(s->dtype);
    g.x = dense_strides(s->layout, s->ic, s->ih, s->iw);
    g.y = dense_strides(s->layout, s->oc, s->oh, s->ow);
    g.in = x->data;
    g.dy = dy->data;
    g.dw = dw->data;
    memcpy(g.ws, dw->strides, sizeof g.ws);
    g.icg = s->ic / s->g;
    g.ocg = s->oc / s->g;
    g.panels = ceil_div(g.ocg, g.kernel.nr);
    g.rows = s->kh * s->kw * g.icg;
    weight_gradient_blocks(s, &g.row_block, &g.column_block);
    /* Every tap of every cell inside the image's width, and taps that follow each other in x. */
    g.merged = s->kw > 1 && s->pw == 0 && (s->ow - 1) * s->sw + (s->kw - 1) * s->dw < s->iw &&
               (g.icg == 1 || s->dw * g.x.w == g.icg * g.x.c);
    const int64_t row_tiles = ceil_div(g.rows, g.kernel.mr), tasks = s->g * g.panels;
    g.splits = threads > 1 ? max64(1, min64(row_tiles, ceil_div(2 * (int64_t)threads, tasks))) : 1;
    g.sums = workspace;
    g.scratch = g.sums + align_up(tasks * g.rows * g.kernel.nr * g.size);
    g.scratch_bytes = align_up(g.row_block * g.column_block * FC_NR_MAX * g.size);
    fc_parallel_for(tasks * g.splits, threads, weight_gradient_task, &g);
}

static int64_t workspace_bytes(const fc_conv2d_shape *s, int threads)
{
    const int64_t size = element_size(s->dtype);
    int64_t rows, columns;
    if (s->layout == FC_NHWC)
        return fc_im2col_weight_nhwc_workspace(s, threads);
    weight_gradient_blocks(s, &rows, &columns);
    return align_up(s->g * (s->oc / s->g + FC_NR_MAX - 1) * (s->ic / s->g) * s->kh * s->kw * size) +
           threads * align_up(rows * columns * FC_NR_MAX * size);
}

const fc_conv2d_weight_kernel fc_conv2d_backward_weight_im2col = {"conv2d_backward_weight_im2col", workspace_bytes, run};
