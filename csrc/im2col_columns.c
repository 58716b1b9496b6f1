/* Packs the panels of columns that im2col_nchw.c multiplies: rows [k][nr] of depth k = c*taps + t, a column for a pixel.
 *
 * Channel after channel, all taps of one before the next: they read one small part of its plane while the L1 has it, and
 * the panel is written from its first byte to its last (tap after tap took 16 % of a convolution on Zen 3). */
#include "im2col.h"
#include "template.h"

typedef uint32_t words16 __attribute__((vector_size(16), aligned(4), may_alias)); /* a panel's row is a multiple */
typedef uint32_t four32 __attribute__((vector_size(16)));
typedef uint64_t two64 __attribute__((vector_size(16)));

enum { MOVES = 256, MASKED_TAPS = 32 }; /* what is worked out at a time of the taps of a panel */

/* Cells of one output row for neighbouring columns of the panel: n of them, from and to counted in elements. */
typedef struct move {
    int64_t from, to, n;
} move;

static inline words16 load16(const char *s)
{
    return *(const words16 *)s;
}

/* n contiguous elements; the last vector ends where they end. */
FC_INLINE void move_adjoining(char *d, const char *s, int64_t n, const int size)
{
    const int64_t lanes = 16 / size;
    if (n < lanes) {
        copy_words(d, s, n, 1, 1, size);
        return;
    }
    for (int64_t j = 0; j < n - lanes; j += lanes)
        *(words16 *)(d + j * size) = load16(s + j * size);
    *(words16 *)(d + (n - lanes) * size) = load16(s + (n - lanes) * size);
}

/* The first element of `lanes`, the third and so on, nothing read past the last of them. */
FC_INLINE words16 load_every_second(const char *s, const int size)
{
    const words16 low = load16(s), high = load16(s + (16 / size - 1) * size);
    if (size == 4)
        return (words16)__builtin_shuffle((four32)low, (four32)high, (four32){0, 2, 5, 7});
    return (words16)__builtin_shuffle((two64)low, (two64)high, (two64){0, 3});
}

FC_INLINE void move_every_second(char *d, const char *s, int64_t n, const int size)
{
    const int64_t lanes = 16 / size;
    if (n < lanes) {
        copy_words(d, s, n, 1, 2, size);
        return;
    }
    for (int64_t j = 0; j < n - lanes; j += lanes)
        *(words16 *)(d + j * size) = load_every_second(s + 2 * j * size, size);
    *(words16 *)(d + (n - lanes) * size) = load_every_second(s + 2 * (n - lanes) * size, size);
}

FC_INLINE void make_moves(char *d, const char *plane, const move *m, const move *end, int64_t sw, const int size)
{
    for (; m < end; m++) {
        char *const to = d + m->to * size;
        const char *const from = plane + m->from * size;
        if (sw == 1)
            move_adjoining(to, from, m->n, size);
        else if (sw == 2)
            move_every_second(to, from, m->n, size);
        else
            copy_words(to, from, m->n, 1, sw, size);
    }
}

/* Columns q0 <= q < q0 + n of depth k0 <= k < k1, zero padded to nr, as runs: the parts of the panel in one output row. */
FC_INLINE void pack_runs(const gather *g, char *dst, int64_t q0, int64_t n, int64_t k0, int64_t k1, int64_t group,
                         const int size)
{
    const int64_t nr = g->kernel.nr, taps = g->taps;
    const int64_t rows = min64(n, (q0 + n - 1) / g->out_w - q0 / g->out_w + 1), most = max64(1, MOVES / rows);
    const char *const in = g->in + group * g->icg * g->x.c * size;
    for (int64_t t0 = 0, t1; t0 < taps; t0 = t1) {
        move moves[MOVES];
        int64_t first[MOVES + 1], count = 0;
        int holes[MOVES]; /* columns of the tap that no move fills */
        t1 = min64(taps, t0 + most);
        for (int64_t t = t0; t < t1; t++) {
            int64_t j = q0 % g->out_w, row = q0 / g->out_w, filled = 0;
            first[t - t0] = count;
            for (int64_t column = 0, run; column < n; column += run, row++, j = 0) {
                const int64_t i = row % g->out_h, image = row / g->out_h;
                const int64_t y = i * g->sh + g->th[t / g->taps_w], x0 = j * g->sw + g->tw[t % g->taps_w];
                run = min64(n - column, g->out_w - j);
                const int64_t lo = x0 < 0 ? ceil_div(-x0, g->sw) : 0;
                const int64_t hi = x0 < g->in_w ? min64(run, (g->in_w - 1 - x0) / g->sw + 1) : 0;
                if (y < 0 || y >= g->in_h || hi <= lo)
                    continue;
                moves[count++] = (move){image * g->x.n + y * g->x.h + x0 + lo * g->sw, column + lo, hi - lo};
                filled += hi - lo;
            }
            holes[t - t0] = filled < nr;
        }
        first[t1 - t0] = count;
        for (int64_t c = k0 / taps; c * taps < k1; c++) {
            const char *const plane = in + c * g->x.c * size;
            const int64_t end = min64(t1, k1 - c * taps);
            for (int64_t t = max64(t0, k0 - c * taps); t < end; t++) {
                char *const d = dst + (c * taps + t - k0) * nr * size;
                if (holes[t - t0])
                    for (int64_t at = 0; at < nr * size; at += 16)
                        *(words16 *)(d + at) = (words16){0};
                make_moves(d, plane, moves + first[t - t0], moves + first[t - t0 + 1], g->sw, size);
            }
        }
    }
}

/* The same for a full panel inside one image when in and out are equally wide and the stride is 1: in flat coordinates
 * a tap is one shift, and what falls over the rim is masked away. 0 if it would read outside the array. */
FC_INLINE int pack_shifted(const gather *g, char *dst, int64_t q0, int64_t k0, int64_t k1, int64_t group, const int64_t nr,
                           const int size)
{
    const int64_t taps = g->taps, plane = g->out_h * g->out_w, vectors = nr * size / 16;
    const int64_t image = q0 / plane, p0 = q0 % plane, i0 = p0 / g->out_w, j0 = p0 % g->out_w;
    const int64_t first = image * g->x.n + group * g->icg * g->x.c + p0;
    if (p0 + nr > plane)
        return 0;
    for (int64_t t = 0; t < taps; t++) {
        const int64_t shift = first + g->th[t / g->taps_w] * g->in_w + g->tw[t % g->taps_w];
        const int64_t c_first = k0 > t ? ceil_div(k0 - t, taps) : 0, c_end = k1 > t ? ceil_div(k1 - t, taps) : 0;
        if (c_end > c_first && (shift + c_first * g->x.c < 0 || shift + (c_end - 1) * g->x.c + nr > g->in_elements))
            return 0;
    }
    for (int64_t t0 = 0, t1; t0 < taps; t0 = t1) {
        word64 masks[MASKED_TAPS][FC_NR_MAX];
        int64_t shifts[MASKED_TAPS];
        int whole[MASKED_TAPS];
        t1 = min64(taps, t0 + MASKED_TAPS);
        for (int64_t t = t0; t < t1; t++) {
            const int64_t th = g->th[t / g->taps_w], tw = g->tw[t % g->taps_w];
            word64 *const mask = masks[t - t0];
            shifts[t - t0] = first + th * g->in_w + tw;
            whole[t - t0] = 1;
            for (int64_t column = 0, i = i0 + th, j = j0; column < nr; column++) {
                const int inside = i >= 0 && i < g->in_h && j + tw >= 0 && j + tw < g->in_w;
                whole[t - t0] &= inside;
                if (size == 4)
                    ((word32 *)mask)[column] = inside ? ~(word32)0 : 0;
                else
                    mask[column] = inside ? ~(word64)0 : 0;
                if (++j == g->out_w) {
                    j = 0;
                    i++;
                }
            }
        }
        for (int64_t c = k0 / taps; c * taps < k1; c++) {
            const char *const in = g->in + c * g->x.c * size;
            const int64_t end = min64(t1, k1 - c * taps);
            char *d = dst + (c * taps - k0) * nr * size;
            for (int64_t t = max64(t0, k0 - c * taps); t < end; t++) {
                const char *const s = in + shifts[t - t0] * size;
                words16 *const row = (words16 *)(d + t * nr * size);
                const words16 *const mask = (const words16 *)masks[t - t0];
                if (whole[t - t0])
#pragma GCC unroll 8
                    for (int64_t v = 0; v < vectors; v++)
                        row[v] = load16(s + v * 16);
                else
#pragma GCC unroll 8
                    for (int64_t v = 0; v < vectors; v++)
                        row[v] = load16(s + v * 16) & mask[v];
            }
        }
    }
    return 1;
}

void fc_im2col_pack_columns(const gather *g, char *dst, int64_t q0, int64_t n, int64_t k0, int64_t k1, int64_t group)
{
    const int64_t nr = g->kernel.nr;
    if (g->size == 4) { /* nr of AVX-512, AVX2 and the others */
        const int done = g->flat && n == nr &&
                         (nr == 32 ? pack_shifted(g, dst, q0, k0, k1, group, 32, 4) :
                          nr == 16 ? pack_shifted(g, dst, q0, k0, k1, group, 16, 4) :
                                     pack_shifted(g, dst, q0, k0, k1, group, nr, 4));
        if (!done)
            pack_runs(g, dst, q0, n, k0, k1, group, 4);
    } else if (!g->flat || n < nr || !pack_shifted(g, dst, q0, k0, k1, group, nr, 8))
        pack_runs(g, dst, q0, n, k0, k1, group, 8);
}

void fc_im2col_pack_planes(const gather *g, char *dst, int64_t q0, int64_t panels, int64_t k0, int64_t k1, int64_t group)
{
    const int64_t size = g->size, row = g->kernel.nr * size, depth = k1 - k0, plane = g->out_h * g->out_w;
    const char *s = g->in + (q0 / plane * g->x.n + (group * g->icg + k0) * g->x.c + q0 % plane) * size;
    for (int64_t k = 0; k < depth; k++, s += g->x.c * size)
        for (int64_t panel = 0; panel < panels; panel++)
            for (int64_t at = 0; at < row; at += 16)
                *(words16 *)(dst + (panel * depth + k) * row + at) = load16(s + panel * row + at);
}
