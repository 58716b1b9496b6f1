/* Windows of a pool along one axis: which input cells each holds, and which windows hold a cell. */
#ifndef FASTCONV_POOLING_WINDOWS_H
#define FASTCONV_POOLING_WINDOWS_H

#include "numbers.h"

enum { WINDOWS = 64 }; /* bounds of an axis' windows that are kept: computing an adaptive one takes divisions */

/* One axis of a pooling: input and output size, window, and where the divisor stops counting. */
typedef struct axis {
    int64_t in, out, k, s, low, d, count_end;
    int adaptive, include_pad;
} axis;

/* Cells first, first + step, ... below end: a window's cells inside the input; counted: how many the divisor counts. */
typedef struct window {
    int64_t first, end, step, counted;
} window;

typedef struct range {
    int64_t first, end;
} range;

FC_INLINE axis rows_of(const fc_pool2d_shape *s)
{
    return (axis){s->ih, s->oh, s->kh, s->sh, s->ph, s->dh, s->count_h, s->adaptive, s->count_include_pad};
}

FC_INLINE axis columns_of(const fc_pool2d_shape *s)
{
    return (axis){s->iw, s->ow, s->kw, s->sw, s->pw, s->dw, s->count_w, s->adaptive, s->count_include_pad};
}

FC_NOINLINE window window_at(const axis *a, int64_t o)
{
    window w;
    if (a->adaptive) {
        w.first = o * a->in / a->out;
        w.end = ((o + 1) * a->in + a->out - 1) / a->out;
        w.step = 1;
        w.counted = w.end - w.first;
        return w;
    }
    const int64_t start = o * a->s - a->low;
    w.first = start >= 0 ? start : a->d == 1 ? 0 : start + (a->d - 1 - start) / a->d * a->d;
    w.end = min64(start + (a->k - 1) * a->d + 1, a->in);
    w.step = a->d;
    w.counted = a->include_pad ? min64(start + a->k, a->count_end - a->low) - start : w.end - w.first;
    return w;
}

/* The windows of an axis, the first WINDOWS of them computed beforehand. */
typedef struct windows {
    axis a;
    window kept[WINDOWS];
} windows;

FC_NOINLINE void keep_windows(windows *w, axis a)
{
    w->a = a;
    for (int64_t o = 0; o < min64(a.out, WINDOWS); o++)
        w->kept[o] = window_at(&a, o);
}

FC_INLINE window kept_window(const windows *w, int64_t o) { return o < WINDOWS ? w->kept[o] : window_at(&w->a, o); }

/* The windows that hold input cell i (undilated ones). */
FC_NOINLINE range windows_over(const axis *a, int64_t i)
{
    if (a->adaptive)
        return (range){i * a->out / a->in, ((i + 1) * a->out + a->in - 1) / a->in};
    const int64_t reach = i + a->low - a->k;
    return (range){reach < 0 ? 0 : reach / a->s + 1, min64((i + a->low) / a->s + 1, a->out)};
}

FC_INLINE int overlap(const axis *a) { return a->adaptive ? a->in % a->out != 0 : a->s < a->k; }

/* Whether every input cell lies in exactly one window. */
FC_INLINE int tiled(const axis *a)
{
    return a->adaptive ? a->in % a->out == 0 : a->s == a->k && a->d == 1 && a->out * a->s - a->low >= a->in;
}

/* From the windows over cell i - 1 to those over cell i: no division. */
FC_INLINE range windows_over_next(const axis *a, range before, int64_t i)
{
    if (a->adaptive)
        return windows_over(a, i);
    while (before.first < a->out && before.first * a->s + a->k <= i + a->low)
        before.first++;
    while (before.end < a->out && before.end * a->s <= i + a->low)
        before.end++;
    return before;
}

/* Whether every window counts the same number of cells: those at the two ends decide. */
FC_NOINLINE int counts_alike(const axis *a)
{
    if (a->adaptive)
        return a->in % a->out == 0;
    return window_at(a, 0).counted == a->k && window_at(a, a->out - 1).counted == a->k;
}

FC_INLINE int all_inside(const axis *a) { return a->low == 0 && (a->out - 1) * a->s + (a->k - 1) * a->d < a->in; }

/* 2x2 windows side by side, none of them padded. */
FC_INLINE int is_2x2(const axis *rows, const axis *columns)
{
    return !rows->adaptive && rows->k == 2 && columns->k == 2 && rows->s == 2 && columns->s == 2 && rows->d == 1 &&
           columns->d == 1 && all_inside(rows) && all_inside(columns);
}

#endif
