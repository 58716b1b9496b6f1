/* The weight gradient in NHWC as GEMM: dw[o][(t, c)] = sum over pixels of dy[pixel][o] * x[pixel under tap t][c].
 *
 * A task has a block of columns (output channels) and some rows (taps and channels). Block after block of pixels it packs dy
 * to panels of nr columns and x to tiles of mr rows, which lie apart by the channels otherwise and would share sets of the L1,
 * and adds their products to its sums: Goto's order with pixels as depth. Taps of a filter row whose channels follow each
 * other in x are one run of rows. Nobody adds to what another task adds to. */
#include "im2col.h"

enum {
    DEPTH_PIXELS = FC_SUM_TERMS, /* of a block: a panel of them takes half of a 32 KB L1 */
    BLOCK_ROWS = 96,             /* rows packed at a time: their tiles and BLOCK_COLUMNS stay in a 512 KB L2 */
    BLOCK_COLUMNS = 256,         /* most columns of a task */
    COPY_BYTES = 64,             /* may be copied past the end of a packed row */
};

typedef struct weight_nhwc {
    fc_gemm_kernel kernel;
    const fc_conv2d_shape *s;
    int size;
    const char *in, *dy;
    char *dw;
    int64_t ws[4];
    int64_t icg, ocg;
    int64_t run, runs, run_tiles;     /* rows that follow each other in x; tiles of one run */
    int64_t columns, column_blocks;   /* of a task */
    int64_t splits;                   /* of the tiles */
    int in_place;                     /* dw is HWIO, its rows `row` elements apart: they are summed there */
    int64_t row;
    char *sums;                       /* else [group][panel][row][nr] */
    char *scratch;
    int64_t scratch_bytes, pack_bytes; /* of a worker; of its rows */
} weight_nhwc;

/* Where the run of rows `at` starts for a pixel: bytes from the image, and which of its elements [lo, hi) are inside. */
typedef struct place {
    int64_t offset, lo, hi;
} place;

static place place_of(const weight_nhwc *g, int64_t at, int64_t group, int64_t i, int64_t j)
{
    const fc_conv2d_shape *const s = g->s;
    const int64_t taps = g->run / g->icg, kh = at * taps / s->kw, kw = at * taps % s->kw;
    const int64_t y = i * s->sh + kh * s->dh - s->ph, x = j * s->sw + kw * s->dw - s->pw;
    place p = {((y * s->iw + x) * s->ic + group * g->icg) * g->size, 0, g->run};
    if (y < 0 || y >= s->ih)
        p.hi = 0;
    else if (taps > 1) {
        p.lo = max64(0, -x) * s->ic;
        p.hi = max64(p.lo, min64(taps, s->iw - x) * s->ic);
    } else if (x < 0 || x >= s->iw)
        p.hi = 0;
    return p;
}

/* mr elements, or a few more, from a place with `readable` bytes. */
FC_INLINE void copy_row(char *to, const char *from, int64_t bytes, int64_t readable)
{
    if (readable >= COPY_BYTES) {
        memcpy(to, from, COPY_BYTES / 2);
        if (bytes > COPY_BYTES / 2)
            memcpy(to + COPY_BYTES / 2, from + COPY_BYTES / 2, COPY_BYTES / 2);
        if (bytes > COPY_BYTES)
            memcpy(to + COPY_BYTES, from + COPY_BYTES, (size_t)(min64(bytes, readable) - COPY_BYTES));
    } else {
        memcpy(to, from, (size_t)min64(bytes, readable));
    }
}

/* Tiles [tile0, tile1) of one run, for pixels [q0, q1): a[tile][pixel][mr], tiles `pitch` bytes apart. */
static void pack_rows(const weight_nhwc *g, int64_t at, int64_t group, int64_t tile0, int64_t tile1, int64_t q0, int64_t q1,
                      char *a, int64_t pitch)
{
    const fc_conv2d_shape *const s = g->s;
    const int64_t mr = g->kernel.mr, size = g->size, image = s->ih * s->iw * s->ic * size;
    const char *const end = g->in + s->mb * image;
    int64_t starts[BLOCK_ROWS + 1];
    for (int64_t tile = tile0; tile < tile1; tile++)
        split(g->run, g->run_tiles, tile, &starts[tile - tile0]);
    for (int64_t q = q0; q < q1; q++) {
        const int64_t j = q % s->ow, row = q / s->ow, i = row % s->oh, n = row / s->oh;
        const place p = place_of(g, at, group, i, j);
        const char *const from = g->in + n * image + p.offset;
        char *to = a + (q - q0) * mr * size;
        if (p.lo == 0 && p.hi == g->run) {
            for (int64_t tile = tile0; tile < tile1; tile++, to += pitch) {
                const char *const cells = from + starts[tile - tile0] * size;
                copy_row(to, cells, mr * size, end - cells);
            }
            continue;
        }
        for (int64_t tile = tile0; tile < tile1; tile++, to += pitch)
            for (int64_t r = 0; r < mr; r++) {
                const int64_t element = starts[tile - tile0] + r;
                const int inside = element >= p.lo && element < p.hi;
                if (size == 4)
                    ((word32 *)to)[r] = inside ? ((const word32 *)from)[element] : 0;
                else
                    ((word64 *)to)[r] = inside ? ((const word64 *)from)[element] : 0;
            }
    }
}

/* Panels of `bytes` bytes a pixel, those of a pixel after each other in dy: they are read in order. */
FC_INLINE void pack_whole_columns(const char *from, int64_t step, int64_t pixels, int64_t panels, char *to, int64_t pitch,
                                  const int bytes)
{
    for (int64_t q = 0; q < pixels; q++, from += step, to += bytes)
        for (int64_t panel = 0; panel < panels; panel++)
            memcpy(to + panel * pitch, from + panel * bytes, (size_t)bytes);
}

/* From one packed panel to the next: not a multiple of 4096, or those of a pixel would share a set of the L1. */
static int64_t panel_pitch(int64_t bytes)
{
    return DEPTH_PIXELS * bytes + COPY_BYTES;
}

/* b[panel][pixel][nr] of `columns` columns of dy, zero padded to nr. */
static void pack_columns(const weight_nhwc *g, const char *from, int64_t columns, int64_t pixels, char *b)
{
    const int64_t nr = g->kernel.nr, bytes = nr * g->size, pitch = panel_pitch(bytes), step = g->s->oc * g->size;
    const int64_t whole = columns / nr;
    if (bytes == 64)
        pack_whole_columns(from, step, pixels, whole, b, pitch, 64);
    else if (bytes == 128)
        pack_whole_columns(from, step, pixels, whole, b, pitch, 128);
    else
        for (int64_t panel = 0; panel < whole; panel++)
            pack_panel(b + panel * pitch, nr, from + panel * bytes, pixels, g->s->oc, nr, 1, g->size);
    if (columns > whole * nr)
        pack_panel(b + whole * pitch, nr, from + whole * bytes, pixels, g->s->oc, columns - whole * nr, 1, g->size);
}

static void task(void *ctx, int64_t number, int worker)
{
    const weight_nhwc *g = ctx;
    const fc_conv2d_shape *const s = g->s;
    const int64_t size = g->size, nr = g->kernel.nr, mr = g->kernel.mr, all_panels = ceil_div(g->ocg, nr);
    const int64_t part = number % g->splits, block = number / g->splits % g->column_blocks;
    const int64_t group = number / g->splits / g->column_blocks;
    const int64_t o0 = block * g->columns, columns = min64(g->columns, g->ocg - o0), panels = ceil_div(columns, nr);
    const int64_t rows = g->runs * g->run, pixels = s->mb * s->oh * s->ow;
    int64_t tile0;
    const int64_t tiles = split(g->runs * g->run_tiles, g->splits, part, &tile0);
    char *const a = g->scratch + worker * g->scratch_bytes, *const b = a + g->pack_bytes;
    /* Of a row and a panel: `rows_apart` and `panels_apart` elements from the next. */
    const int64_t rows_apart = g->in_place ? g->row : nr, panels_apart = g->in_place ? nr : rows * nr;
    char *const sums = g->in_place ? g->dw + (group * g->ocg + o0) * size :
                                     g->sums + (group * all_panels + o0 / nr) * rows * nr * size;
    const int64_t pitch = DEPTH_PIXELS * mr * size + COPY_BYTES, step = max64(1, BLOCK_ROWS / mr);
    fc_gemm_args args;
    memset(&args, 0, sizeof args);
    args.taps = 1;
    args.rs_a = 1;
    args.cs_a = mr;
    args.rs_b = nr;
    args.rs_c = rows_apart;
    for (int64_t q0 = 0; q0 < pixels; q0 += DEPTH_PIXELS) {
        const int64_t q1 = min64(pixels, q0 + DEPTH_PIXELS);
        pack_columns(g, g->dy + (q0 * s->oc + group * g->ocg + o0) * size, columns, q1 - q0, b);
        args.kc = q1 - q0;
        args.accumulate = q0 > 0;
        for (int64_t tile = tile0, next; tile < tile0 + tiles; tile = next) {
            const int64_t at = tile / g->run_tiles, first = tile % g->run_tiles;
            next = min64(min64(tile + step, tile0 + tiles), (at + 1) * g->run_tiles);
            pack_rows(g, at, group, first, first + next - tile, q0, q1, a, pitch);
            for (int64_t panel = 0; panel < panels; panel++) {
                args.b = b + panel * panel_pitch(nr * size);
                args.n = g->in_place ? min64(nr, columns - panel * nr) : nr;
                for (int64_t t = tile; t < next; t++) {
                    int64_t r0;
                    args.m = split(g->run, g->run_tiles, t % g->run_tiles, &r0);
                    args.a = a + (t - tile) * pitch;
                    args.c = sums + (panel * panels_apart + (at * g->run + r0) * rows_apart) * size;
                    g->kernel.run(&args);
                }
            }
        }
    }
    if (g->in_place && pixels > 0)
        return;
    for (int64_t tile = tile0; tile < tile0 + tiles; tile++) {
        int64_t r0;
        const int64_t at = tile / g->run_tiles, m = split(g->run, g->run_tiles, tile % g->run_tiles, &r0);
        for (int64_t panel = 0; panel < panels; panel++)
            for (int64_t r = at * g->run + r0; r < at * g->run + r0 + m; r++) {
                const int64_t t = r / g->icg, c = r % g->icg, o = group * g->ocg + o0 + panel * nr;
                char *const row = g->sums + ((group * all_panels + o0 / nr + panel) * rows + r) * nr * size;
                if (pixels == 0)
                    zero_run(row, nr, (int)size);
                copy_words(g->dw + (o * g->ws[0] + c * g->ws[1] + t / s->kw * g->ws[2] + t % s->kw * g->ws[3]) * size, row,
                           min64(nr, columns - panel * nr), g->ws[0], 1, (int)size);
            }
    }
}

static int64_t rows_bytes(int64_t size)
{
    return align_up((BLOCK_ROWS / 4 + 1) * (DEPTH_PIXELS * 4 * size + COPY_BYTES) + DEPTH_PIXELS * FC_MR_MAX * size);
}

static int64_t worker_bytes(const fc_conv2d_shape *s)
{
    const int64_t size = element_size(s->dtype), columns = min64(s->oc / s->g, BLOCK_COLUMNS);
    return rows_bytes(size) + align_up(DEPTH_PIXELS * (columns + FC_NR_MAX - 1) * size + (columns / 4 + 1) * COPY_BYTES);
}

void fc_im2col_weight_nhwc(const fc_conv2d_shape *s, const fc_view *x, const fc_view *dy, const fc_view *dw, void *workspace,
                           int threads)
{
    weight_nhwc g;
    const fc_kernels_table *const table = fc_kernels();
    memset(&g, 0, sizeof g);
    g.kernel = s->dtype == FC_F32 ? table->gemm_f32 : table->gemm_f64;
    g.s = s;
    g.size = (int)element_size(s->dtype);
    g.in = x->data;
    g.dy = dy->data;
    g.dw = dw->data;
    memcpy(g.ws, dw->strides, sizeof g.ws);
    g.icg = s->ic / s->g;
    g.ocg = s->oc / s->g;
    const int64_t inner = s->g == 1 && s->dw == 1 ? s->kw : 1;
    g.run = g.icg * inner;
    g.runs = s->kh * s->kw / inner;
    g.run_tiles = ceil_div(g.run, g.kernel.mr);
    g.columns = min64(g.ocg, BLOCK_COLUMNS / g.kernel.nr * g.kernel.nr); /* whole panels */
    g.column_blocks = ceil_div(g.ocg, g.columns);
    const int64_t tiles = g.runs * g.run_tiles, tasks = s->g * g.column_blocks;
    g.splits = threads > 1 ? max64(1, min64(tiles, ceil_div(2 * (int64_t)threads, tasks))) : 1;
    /* NumPy leaves the strides of axes of length 1 undefined. */
    g.row = g.icg > 1 ? g.ws[1] : s->kw > 1 ? g.ws[3] : s->kh > 1 ? g.ws[2] : s->oc;
    g.in_place = (g.ws[0] == 1 || s->oc == 1) && g.row >= s->oc && (s->kw == 1 || g.ws[3] == g.icg * g.row) &&
                 (s->kh == 1 || g.ws[2] == s->kw * g.icg * g.row);
    g.sums = workspace;
    g.scratch = g.sums + align_up(s->g * ceil_div(g.ocg, g.kernel.nr) * g.kernel.nr * g.runs * g.run * g.size);
    g.scratch_bytes = worker_bytes(s);
    g.pack_bytes = rows_bytes(g.size);
    fc_parallel_for(tasks * g.splits, threads, task, &g);
}

int64_t fc_im2col_weight_nhwc_workspace(const fc_conv2d_shape *s, int threads)
{
    const int64_t rows = s->ic / s->g * s->kh * s->kw;
    return align_up(s->g * (s->oc / s->g + FC_NR_MAX - 1) * rows * element_size(s->dtype)) + threads * worker_bytes(s);
}
