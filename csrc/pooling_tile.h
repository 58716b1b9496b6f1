/* Template of the pooling kernels (contract: fc_pool2d_kernels in fastconv.h). Before including, define
 *   FC_POOL_NAME    the table's full symbol, e.g. fc_f32_pool2d__avx512
 *   FC_POOL_TYPE    float or double
 *   FC_POOL_INT     the signed integer of the same size: flat indices inside a plane are tracked in it
 *   FC_POOL_LANES   elements of a vector, and FC_POOL_IOTA, the list 0, 1, ... of that many
 * and, where the ISA does better than plain C, FC_POOL_LOAD_PART, FC_POOL_STORE_PART, FC_POOL_LOAD_INDICES,
 * FC_POOL_STORE_INDICES, FC_POOL_MAXIMUM, and FC_POOL_MASK, the type of a comparison's result, with FC_POOL_GREATER,
 * FC_POOL_EQUAL, FC_POOL_IS_NAN, FC_POOL_PICK, FC_POOL_PICK_INDEX and FC_POOL_LANES_BELOW.
 *
 * NHWC: vectors along the channels. NCHW: vectors along the width. A maximum is first taken as if all cells were
 * numbers, while a sum of the cells shows whether one was a NaN (inf - inf does too); then it is taken again with the
 * comparisons that let a NaN win. */
#include "pooling_windows.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#ifndef FC_POOL_ONCE
#define FC_POOL_ONCE
enum {
    SPAN = 1024,        /* input columns of a row buffer: 4 or 8 KB of stack, inside L1 beside the rows it reads */
    SPAN_SLACK = 64,    /* vectors that start inside a row buffer may end past it */
    ROWS_BYTES = 16384, /* row buffers filled before they are read: a load of what was just stored elsewhere stalls */
    TAPS = 16,          /* window cells of a row that are picked by shuffles */
    SELECT_CELLS = 16,  /* in larger windows scattering beats comparing every cell with the index (NHWC) */
    CLEAR_BYTES = 16384, /* of gradients, cleared at once and then added to while in L1 */
};
#endif

#define T FC_POOL_TYPE
#define INT FC_POOL_INT
#define L FC_POOL_LANES
#define P(name) FC_JOIN(FC_POOL_NAME, _##name)
#define V P(vector)
#define I P(integers)
#define M P(mask)

#include "pooling_vectors.h"
#include "pooling_nhwc_tile.h"
#include "pooling_window_tile.h"
#include "pooling_2x2_tile.h"
#include "pooling_rows_tile.h"
#include "pooling_narrow_tile.h"
#include "pooling_max_backward_tile.h"
#include "pooling_avg_backward_tile.h"

/* Planes begin..end of the mb * c. */
FC_INLINE void P(forward_nchw)(const int op, const int indexed, const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s), along = columns_of(s);
    const int64_t taps = s->adaptive ? s->iw / s->ow + 2 : s->kw;
    if (is_2x2(&down, &along))
        P(planes_2x2)(op, indexed, args, begin, end);
    else if (L >= 8 && s->iw <= L && s->ow > 1 && s->ow <= 2 * L && taps <= TAPS)
        P(narrow)(op, indexed, args, begin, end, 1);
    else if (L >= 8 && s->iw <= 2 * L && s->ow > 1 && s->ow <= 2 * L && taps <= TAPS)
        P(narrow)(op, indexed, args, begin, end, 2);
    else if (s->ow == 1 || (s->adaptive ? indexed || s->iw / s->ow + 2 > SPAN / 2 : (s->kw - 1) * s->dw >= SPAN / 2))
        P(by_window)(op, indexed, args, begin, end);
    else if (indexed)
        P(rows_buffered_indexed)(args, begin, end);
    else
        P(rows_buffered)(op, args, begin, end);
}

/* ---- The table ----------------------------------------------------------------------------------------------- */

FC_NOINLINE void P(max_indexed_nchw)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    P(forward_nchw)(FC_MAX_POOL, 1, args, begin, end);
}

FC_NOINLINE void P(max_only_nchw)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    P(forward_nchw)(FC_MAX_POOL, 0, args, begin, end);
}

static void P(max_forward_nchw)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    (args->indices ? P(max_indexed_nchw) : P(max_only_nchw))(args, begin, end);
}

FC_NOINLINE void P(max_indexed_nhwc)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    P(forward_nhwc)(FC_MAX_POOL, 1, args, begin, end);
}

FC_NOINLINE void P(max_only_nhwc)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    P(forward_nhwc)(FC_MAX_POOL, 0, args, begin, end);
}

static void P(max_forward_nhwc)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    (args->indices ? P(max_indexed_nhwc) : P(max_only_nhwc))(args, begin, end);
}

static void P(avg_forward_nchw)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    P(forward_nchw)(FC_AVG_POOL, 0, args, begin, end);
}

static void P(avg_forward_nhwc)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    P(forward_nhwc)(FC_AVG_POOL, 0, args, begin, end);
}

static const fc_pool2d_kernels FC_POOL_NAME = {
    .max_forward = {P(max_forward_nchw), P(max_forward_nhwc)},
    .max_backward = {P(max_backward_nchw), P(max_backward_nhwc)},
    .avg_forward = {P(avg_forward_nchw), P(avg_forward_nhwc)},
    .avg_backward = {P(avg_backward_nchw), P(avg_backward_nhwc)},
};

#undef T
#undef INT
#undef L
#undef P
#undef V
#undef I
#undef M
#undef IOTA
#undef SPLAT
#undef SPLAT_INT
#undef LOWEST
#undef FC_POOL_NAME
#undef FC_POOL_TYPE
#undef FC_POOL_INT
#undef FC_POOL_LANES
#undef FC_POOL_IOTA
#undef FC_POOL_LOAD_PART
#undef FC_POOL_STORE_PART
#undef FC_POOL_LOAD_INDICES
#undef FC_POOL_STORE_INDICES
#undef FC_POOL_MAXIMUM
#undef FC_POOL_MASK
#undef FC_POOL_GREATER
#undef FC_POOL_IS_NAN
#undef FC_POOL_EQUAL
#undef FC_POOL_PICK
#undef FC_POOL_PICK_INDEX
#undef FC_POOL_LANES_BELOW
