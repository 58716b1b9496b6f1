/* Template of convolution, ReLU and 2x2 maximum pooling in registers (contract: conv_pool.h). Before including, define
 *   FC_CONV_POOL_NAME     the fc_conv_pool_kernel to define, e.g. fc_f32_conv_pool__avx2
 *   FC_CONV_POOL_TYPE     float or double
 *   FC_CONV_POOL_INT      the signed integer of its size
 *   FC_CONV_POOL_LANES    elements of a vector
 *   FC_CONV_POOL_PATCH    (p, step), optional, for 8 or 16 lanes where one instruction moves lanes by the values of a vector:
 *                         rows of four elements from p, step elements apart, side by side
 * A vector holds output channels of one pooled cell. Forward, its four sums stay in registers until one is left. Of their
 * gradients three are zero: a lane takes the inputs under its winner by a permutation of the 4x4 patch, so that a
 * tap costs one multiply-add instead of four. */
#include "conv_pool.h"
#include "template.h"

#include <string.h>

#ifndef FC_CONV_POOL_ONCE
#define FC_CONV_POOL_ONCE
#if defined(__x86_64__)
#define FC_CONV_POOL_IN_REGISTER(v) __asm__("" : "+v"(v))
#else
#define FC_CONV_POOL_IN_REGISTER(v) ((void)0)
#endif
#endif

#define T FC_CONV_POOL_TYPE
#define L FC_CONV_POOL_LANES
#define P(suffix) FC_JOIN(FC_CONV_POOL_NAME, suffix)
#define V P(_winner_vector)
#define I P(_winner_integers)

#define FC_WINNER_NAME P(_winner)
#define FC_WINNER_TYPE T
#define FC_WINNER_INT FC_CONV_POOL_INT
#define FC_WINNER_LANES FC_CONV_POOL_LANES
#include "winner_tile.h"

/* One row of cells for the vector of outputs at o. */
FC_INLINE I P(_row)(const fc_conv_pool_args *args, const int one, const int careful, int64_t i, int64_t o)
{
    const int64_t channels = one ? 1 : args->channels;
    const T *x = (const T *)args->x + 2 * i * args->x_row;
    const T *const w = (const T *)args->w + o;
    const V bias = args->bias ? *(const V *)((const T *)args->bias + o) : (V){0};
    V weights[9]; /* of one channel they stay in registers */
    I odd = {0};
#pragma GCC unroll 9
    for (int tap = 0; one && tap < 9; tap++)
        weights[tap] = *(const V *)(w + tap * args->w_step);
    for (int64_t j = 0; j < args->columns; j++, x += 2) {
        V sums[4] = {bias, bias, bias, bias}, value;
        I code;
        for (int64_t c = 0; c < channels; c++)
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++)
#pragma GCC unroll 4
                for (int s = 0; s < 4; s++) {
                    V cell = x[c * args->x_plane + r * args->x_row + s] - (V){0};
                    FC_CONV_POOL_IN_REGISTER(cell);
#pragma GCC unroll 4
                    for (int q = 0; q < 4; q++) {
                        const int a = r - q / 2, b = s - q % 2;
                        if (a < 0 || a > 2 || b < 0 || b > 2)
                            continue;
                        const V tap = one ? weights[3 * a + b] :
                                            *(const V *)(w + ((3 * a + b) * channels + c) * args->w_step);
                        FC_MULTIPLY_ADD(sums[q], cell, tap);
                    }
                }
        odd |= P(_winner_of)(sums, careful, &value, &code);
        const int64_t at = (i * args->columns + j) * args->outputs + o;
        *(V *)((T *)args->y + at) = value;
        P(_winner_store)(args->codes + at, code);
    }
    return odd;
}

FC_INLINE int P(_any)(I mask)
{
    FC_CONV_POOL_INT some = 0;
    for (int l = 0; l < L; l++)
        some |= mask[l];
    return some != 0;
}

static void P(_forward)(const fc_conv_pool_args *args)
{
    for (int64_t at = 0; at < args->outputs; at += L) {
        const int64_t o = at + L <= args->outputs ? at : args->outputs - L;
        for (int64_t i = 0; i < args->rows; i++) {
            const I odd = args->channels == 1 ? P(_row)(args, 1, 0, i, o) : P(_row)(args, 0, 0, i, o);
            if (__builtin_expect(P(_any)(odd), 0))
                P(_row)(args, 0, 1, i, o);
        }
    }
}

/* sums[tap] += the gradient of each lane's winner times the input under it, over `rows` x `columns` cells, which are a
 * partial sum. */
FC_INLINE void P(_gradient)(const fc_conv_pool_args *args, int64_t c, int64_t o, int64_t row, int64_t rows, int64_t column,
                            int64_t columns, V *sums, V *bias)
{
    V total[9], all = {0};
#pragma GCC unroll 9
    for (int tap = 0; tap < 9; tap++)
        total[tap] = (V){0};
    for (int64_t i = 0; i < rows; i++) {
        const T *x = (const T *)args->x + c * args->x_plane + 2 * ((row + i) * args->x_row + column);
        int64_t at = ((row + i) * args->columns + column) * args->outputs + o;
        for (int64_t j = 0; j < columns; j++, x += 2, at += args->outputs) {
            const I code = P(_winner_load)(args->codes + at);
            const V dy = (V)(*(const I *)((const T *)args->y + at) & (I)(code < (I){0} + FC_POOL_CODE_DEAD));
            all += dy;
#if defined(FC_CONV_POOL_PATCH)
            /* 16 lanes hold the whole patch, 8 two of its rows. */
            const I corner = code + (code & 2); /* 4 * row + column of the winner */
#pragma GCC unroll 3
            for (int a = 0; a < 3; a++) {
                const V cells = (V)FC_CONV_POOL_PATCH(x + (L == 8 ? a : 0) * args->x_row, args->x_row);
#pragma GCC unroll 3
                for (int b = 0; b < 3; b++)
                    total[3 * a + b] += dy * __builtin_shuffle(cells, corner + ((L == 8 ? 0 : 4 * a) + b));
            }
#else
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) {
                const V part = (V)((I)dy & (I)(code == (I){0} + q));
#pragma GCC unroll 9
                for (int tap = 0; tap < 9; tap++)
                    total[tap] += part * (x[(q / 2 + tap / 3) * args->x_row + q % 2 + tap % 3] - (V){0});
            }
#endif
        }
    }
#pragma GCC unroll 9
    for (int tap = 0; tap < 9; tap++)
        sums[tap * args->channels + c] += total[tap];
    if (c == 0)
        *bias += all;
}

static void P(_weight_gradient)(const fc_conv_pool_args *args)
{
    const int64_t rows = 9 * args->channels + 1;
    V *sums = args->sums;
    const int64_t wide = args->columns < FC_SUM_TERMS ? args->columns : FC_SUM_TERMS, high = FC_SUM_TERMS / wide;
    for (int64_t at = 0; at < args->outputs; at += L, sums += rows) {
        const int64_t o = at + L <= args->outputs ? at : args->outputs - L;
        for (int64_t c = 0; c < args->channels; c++)
            for (int64_t i = 0; i < args->rows; i += high)
                for (int64_t j = 0; j < args->columns; j += wide)
                    P(_gradient)(args, c, o, i, i + high < args->rows ? high : args->rows - i, j,
                                 j + wide < args->columns ? wide : args->columns - j, sums, sums + rows - 1);
    }
}

static const fc_conv_pool_kernel FC_CONV_POOL_NAME = {L, P(_forward), P(_weight_gradient)};

#undef T
#undef L
#undef P
#undef V
#undef I
#undef FC_CONV_POOL_NAME
#undef FC_CONV_POOL_TYPE
#undef FC_CONV_POOL_INT
#undef FC_CONV_POOL_LANES
#undef FC_CONV_POOL_PATCH
