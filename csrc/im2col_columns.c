/* Packs the panels of columns that im2col_nchw.c multiplies: rows [k][nr] of depth k = c*taps + t, a column for a pixel.
 *
 * Channel after channel: all taps of all panels read one small part of its plane while the L1 has it, and every panel is
 * written from its first byte to its last (tap after tap took 16 % of a convolution on Zen 3). */
#include "im2col.h"

typedef uint32_t four32 __attribute__((vector_size(16)));
typedef uint64_t two64 __attribute__((vector_size(16)));

enum {
    ROWS = 96,           /* of panels that are worked out at a time: some taps of some panels */
    ROW_BYTES = 128,     /* the longest row of a panel of any ISA */
    MOVES = 512,         /* of all those rows: at least FC_NR_MAX, which one has if output rows are one pixel wide */
};

/* Cells of one output row for neighbouring columns of the panel: n of them, from and to counted in elements. */
typedef struct move {
    int64_t from, to, n;
} move;

/* What fills the row of one tap in one panel, the same for every channel: vectors from one place, behind a mask where the
 * rim of the image is in between; or moves, among holes where some columns are padding. */
typedef struct source {
    enum { WHOLE, MASKED, MOVED, HOLES } how;
    int64_t from;       /* WHOLE, MASKED: elements after the channel's plane of image 0 */
    int64_t first, end; /* MOVED, HOLES: moves */
} source;

typedef struct sources {
    source rows[ROWS];
    move moves[MOVES];
    int64_t count; /* of moves */
    _Alignas(64) char masks[ROWS][ROW_BYTES];
} sources;

static inline words16 load16(const char *s)
{
    return *(const words16 *)s;
}

/* A vector of elements that are `step`, 1 or 2, apart, nothing read past the last of them. */
FC_INLINE words16 load_apart(const char *s, const int step, const int size)
{
    const words16 low = load16(s), high = load16(s + (16 / size - 1) * size);
    if (step == 1)
        return low;
    if (size == 4)
        return (words16)__builtin_shuffle((four32)low, (four32)high, (four32){0, 2, 5, 7});
    return (words16)__builtin_shuffle((two64)low, (two64)high, (two64){0, 3});
}

/* n of them; the last vector ends where they end. */
FC_INLINE void move_by_vectors(char *d, const char *s, int64_t n, const int step, const int size)
{
    const int64_t lanes = 16 / size;
    if (n < lanes) {
        copy_words(d, s, n, 1, step, size);
        return;
    }
    for (int64_t j = 0; j < n - lanes; j += lanes)
        *(words16 *)(d + j * size) = load_apart(s + step * j * size, step, size);
    *(words16 *)(d + (n - lanes) * size) = load_apart(s + step * (n - lanes) * size, step, size);
}

/* A full panel inside one image when in and out are equally wide and the stride is 1: in flat coordinates a tap is one
 * shift, and what falls over the rim is masked away. 0 if it would read outside the array. */
static int list_shifts(const gather *g, sources *all, int64_t row, int64_t q0, int64_t t0, int64_t t1, int64_t c0, int64_t c1)
{
    const int64_t nr = g->kernel.nr, plane = g->out_h * g->out_w, image = q0 / plane, p0 = q0 - image * plane;
    const int64_t first = image * g->x.n + p0, i0 = p0 / g->out_w, j0 = p0 - i0 * g->out_w;
    if (!g->flat || p0 + nr > plane)
        return 0;
    for (int64_t t = t0, a = t0 / g->taps_w, b = t0 % g->taps_w; t < t1; t++, row++) {
        const int64_t th = g->th[a], tw = g->tw[b], from = first + th * g->in_w + tw;
        if (++b == g->taps_w)
            b = 0, a++;
        if (from + c0 * g->x.c < 0 || from + (c1 - 1) * g->x.c + nr > g->in_elements)
            return 0;
        all->rows[row] = (source){WHOLE, from, 0, 0};
        if (g->pointwise)
            continue;
        for (int64_t column = 0, i = i0 + th, j = j0 + tw, run; column < nr; column += run, i++, j = tw) {
            run = min64(nr - column, g->out_w + tw - j); /* in one row of the image: cells j, j + 1, ... */
            const int64_t end = i < 0 || i >= g->in_h ? 0 : max64(0, min64(run, g->in_w - j));
            const int64_t begin = min64(end, max64(0, -j));
            if (begin == 0 && end == run && all->rows[row].how == WHOLE)
                continue;
            if (all->rows[row].how == WHOLE) /* until now */
                memset(all->masks[row], 0xff, (size_t)(column * g->size));
            all->rows[row].how = MASKED;
            memset(all->masks[row] + column * g->size, 0, (size_t)(run * g->size));
            memset(all->masks[row] + (column + begin) * g->size, 0xff, (size_t)((end - begin) * g->size));
        }
    }
    return 1;
}

/* Columns q0 <= q < q0 + n as runs, the parts of the panel in one output row. */
static void list_runs(const gather *g, sources *all, int64_t row, int64_t q0, int64_t n, int64_t t0, int64_t t1)
{
    const int64_t line = q0 / g->out_w, j0 = q0 - line * g->out_w, image0 = line / g->out_h, i0 = line - image0 * g->out_h;
    for (int64_t t = t0, a = t0 / g->taps_w, b = t0 % g->taps_w; t < t1; t++, row++) {
        int64_t filled = 0;
        const int64_t first = all->count;
        for (int64_t column = 0, i = i0, j = j0, image = image0, run; column < n; column += run, j = 0) {
            const int64_t y = i * g->sh + g->th[a], x0 = j * g->sw + g->tw[b];
            run = min64(n - column, g->out_w - j);
            int64_t lo = 0, hi = run; /* of the run, those inside of the image */
            if (x0 < 0)
                lo = min64(run, ceil_div(-x0, g->sw));
            if (x0 + (run - 1) * g->sw >= g->in_w)
                hi = x0 < g->in_w ? (g->in_w - 1 - x0) / g->sw + 1 : 0;
            if (y >= 0 && y < g->in_h && hi > lo) {
                all->moves[all->count++] = (move){image * g->x.n + y * g->x.h + x0 + lo * g->sw, column + lo, hi - lo};
                filled += hi - lo;
            }
            if (++i == g->out_h) {
                i = 0;
                image++;
            }
        }
        all->rows[row] = (source){filled < g->kernel.nr ? HOLES : MOVED, 0, first, all->count};
        if (++b == g->taps_w)
            b = 0, a++;
    }
}

FC_INLINE void fill_row(const sources *all, int64_t row, char *d, const char *plane, int64_t sw, const int64_t vectors,
                        const int size, const int whole)
{
    const source *const s = &all->rows[row];
    const words16 *const mask = (const words16 *)all->masks[row];
    const char *const from = plane + s->from * size;
    words16 *const to = (words16 *)d;
    if (whole || s->how == WHOLE) {
#pragma GCC unroll 8
        for (int64_t v = 0; v < vectors; v++)
            to[v] = load16(from + v * 16);
        return;
    }
    if (s->how == MASKED) {
#pragma GCC unroll 8
        for (int64_t v = 0; v < vectors; v++)
            to[v] = load16(from + v * 16) & mask[v];
        return;
    }
    if (s->how == HOLES)
#pragma GCC unroll 8
        for (int64_t v = 0; v < vectors; v++)
            to[v] = (words16){0};
    for (const move *m = all->moves + s->first; m < all->moves + s->end; m++) {
        char *const to_cells = d + m->to * size;
        const char *const cell = plane + m->from * size;
        if (sw == 1)
            move_by_vectors(to_cells, cell, m->n, 1, size);
        else if (sw == 2)
            move_by_vectors(to_cells, cell, m->n, 2, size);
        else
            copy_words(to_cells, cell, m->n, 1, sw, size);
    }
}

FC_INLINE void fill_rows(const gather *g, const sources *all, char *dst, int64_t panels, int64_t t0, int64_t t1, int64_t k0,
                         int64_t k1, int64_t group, const int64_t vectors, const int size)
{
    const int64_t taps = g->taps, row = vectors * 16, panel_bytes = (k1 - k0) * row;
    int whole = 1;
    for (int64_t r = 0; r < panels * (t1 - t0); r++)
        whole &= all->rows[r].how == WHOLE;
    for (int64_t c = k0 / taps; c * taps < k1; c++) {
        const char *const plane = g->in + (group * g->icg + c) * g->x.c * size;
        const int64_t first = max64(t0, k0 - c * taps), end = min64(t1, k1 - c * taps);
        for (int64_t panel = 0; panel < panels; panel++) {
            const int64_t r = panel * (t1 - t0) - t0;
            char *d = dst + panel * panel_bytes + (c * taps + first - k0) * row;
            if (whole)
                for (int64_t t = first; t < end; t++, d += row)
                    fill_row(all, r + t, d, plane, g->sw, vectors, size, 1);
            else
                for (int64_t t = first; t < end; t++, d += row)
                    fill_row(all, r + t, d, plane, g->sw, vectors, size, 0);
        }
    }
}

void fc_im2col_pack_columns(const gather *g, char *dst, int64_t q0, int64_t panels, int64_t k0, int64_t k1, int64_t group)
{
    if (k1 == k0) /* no tap reaches the class */
        return;
    const int64_t nr = g->kernel.nr, row = nr * g->size, taps = g->taps, c0 = group * g->icg + k0 / taps;
    const int64_t most = min64(ROWS, MOVES / min64(nr, nr / g->out_w + 2)); /* of rows, by their runs */
    const int64_t most_taps = min64(taps, most), most_panels = max64(1, most / taps);
    const int64_t c1 = group * g->icg + ceil_div(k1, taps);
    sources all;
    for (int64_t panel = 0, some; panel < panels; panel += some) {
        some = min64(most_panels, panels - panel);
        char *const to = dst + panel * (k1 - k0) * row;
        for (int64_t t0 = 0, t1; t0 < taps; t0 = t1) {
            t1 = min64(taps, t0 + most_taps);
            all.count = 0;
            for (int64_t p = 0; p < some; p++) {
                const int64_t q = q0 + (panel + p) * nr, n = min64(nr, g->pixels - q);
                if (n < nr || !list_shifts(g, &all, p * (t1 - t0), q, t0, t1, c0, c1))
                    list_runs(g, &all, p * (t1 - t0), q, n, t0, t1);
            }
            if (g->size == 8)
                fill_rows(g, &all, to, some, t0, t1, k0, k1, group, row / 16, 8);
            else if (nr == 32) /* AVX-512 */
                fill_rows(g, &all, to, some, t0, t1, k0, k1, group, 8, 4);
            else if (nr == 16) /* AVX2 */
                fill_rows(g, &all, to, some, t0, t1, k0, k1, group, 4, 4);
            else
                fill_rows(g, &all, to, some, t0, t1, k0, k1, group, row / 16, 4);
        }
    }
}
