/* Pooling kernels compiled for AVX512. */
#include <immintrin.h>
#include <stdint.h>

/* vmaxps gives its second operand when either is a NaN: a NaN already in `best` stays, one in `v` is moved in. */
static inline __m512 larger_ps(__m512 best, __m512 v)
{
    return _mm512_mask_mov_ps(_mm512_max_ps(v, best), _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), v);
}

static inline __m512d larger_pd(__m512d best, __m512d v)
{
    return _mm512_mask_mov_pd(_mm512_max_pd(v, best), _mm512_cmp_pd_mask(v, v, _CMP_UNORD_Q), v);
}

static inline __mmask16 wins_ps(__m512 best, __m512 v)
{
    return _mm512_cmp_ps_mask(v, best, _CMP_GT_OQ) | _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
}

static inline __mmask8 wins_pd(__m512d best, __m512d v)
{
    return _mm512_cmp_pd_mask(v, best, _CMP_GT_OQ) | _mm512_cmp_pd_mask(v, v, _CMP_UNORD_Q);
}

#define FC_POOL_NAME fc_f32_pool2d__avx512
#define FC_POOL_TYPE float
#define FC_POOL_INT int32_t
#define FC_POOL_LANES 16
#define FC_POOL_IOTA 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define FC_POOL_LOAD_PART(p, n, fill) _mm512_mask_loadu_ps((__m512)(fill), (__mmask16)((1u << (n)) - 1), p)
#define FC_POOL_STORE_PART(p, n, v) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), (__m512)(v))
#define FC_POOL_LARGER(best, v) larger_ps((__m512)(best), (__m512)(v))
#define FC_POOL_TAKE_LARGER(best, where, v, index)                                                             \
    do {                                                                                                       \
        const __mmask16 wins = wins_ps((__m512)*(best), (__m512)(v));                                          \
        *(best) = (V)_mm512_mask_mov_ps((__m512)*(best), wins, (__m512)(v));                                   \
        *(where) = (I)_mm512_mask_mov_epi32((__m512i)*(where), wins, (__m512i)(index));                        \
    } while (0)
#include "../pooling_tile.h"

#define FC_POOL_NAME fc_f64_pool2d__avx512
#define FC_POOL_TYPE double
#define FC_POOL_INT int64_t
#define FC_POOL_LANES 8
#define FC_POOL_IOTA 0, 1, 2, 3, 4, 5, 6, 7
#define FC_POOL_LOAD_PART(p, n, fill) _mm512_mask_loadu_pd((__m512d)(fill), (__mmask8)((1u << (n)) - 1), p)
#define FC_POOL_STORE_PART(p, n, v) _mm512_mask_storeu_pd(p, (__mmask8)((1u << (n)) - 1), (__m512d)(v))
#define FC_POOL_LARGER(best, v) larger_pd((__m512d)(best), (__m512d)(v))
#define FC_POOL_TAKE_LARGER(best, where, v, index)                                                             \
    do {                                                                                                       \
        const __mmask8 wins = wins_pd((__m512d)*(best), (__m512d)(v));                                         \
        *(best) = (V)_mm512_mask_mov_pd((__m512d)*(best), wins, (__m512d)(v));                                 \
        *(where) = (I)_mm512_mask_mov_epi64((__m512i)*(where), wins, (__m512i)(index));                        \
    } while (0)
#include "../pooling_tile.h"

void fc_add_pooling__avx512(fc_kernels_table *table);

void fc_add_pooling__avx512(fc_kernels_table *table)
{
    table->pool2d_f32 = &fc_f32_pool2d__avx512;
    table->pool2d_f64 = &fc_f64_pool2d__avx512;
}
