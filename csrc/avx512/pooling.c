/* Pooling kernels compiled for AVX512. */
#include <immintrin.h>
#include <stdint.h>

/* n indices narrowed to 32 bits, those that do not fit to the nearest that do: no cell of a plane; past n: -1. */
static inline __m512i load_indices_32(const int64_t *p, int n)
{
    const unsigned mask = (1u << n) - 1;
    const __m512i none = _mm512_set1_epi64(-1);
    const __m512i low = _mm512_mask_loadu_epi64(none, (__mmask8)mask, p);
    const __m512i high = _mm512_mask_loadu_epi64(none, (__mmask8)(mask >> 8), p + 8);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtsepi64_epi32(low)), _mm512_cvtsepi64_epi32(high), 1);
}

static inline void store_indices_32(int64_t *p, __m512i where, int n)
{
    const unsigned mask = (1u << n) - 1;
    _mm512_mask_storeu_epi64(p, (__mmask8)mask, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(where)));
    _mm512_mask_storeu_epi64(p + 8, (__mmask8)(mask >> 8),
                             _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(where, 1)));
}

#define FC_POOL_NAME fc_f32_pool2d__avx512
#define FC_POOL_TYPE float
#define FC_POOL_INT int32_t
#define FC_POOL_LANES 16
#define FC_POOL_IOTA 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define FC_POOL_LOAD_PART(p, n, fill) _mm512_mask_loadu_ps((__m512)(fill), (__mmask16)((1u << (n)) - 1), p)
#define FC_POOL_STORE_PART(p, n, v) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), (__m512)(v))
#define FC_POOL_LOAD_INDICES(p, n) load_indices_32(p, n)
#define FC_POOL_STORE_INDICES(p, where, n) store_indices_32(p, (__m512i)(where), n)
#define FC_POOL_MAXIMUM(best, v) _mm512_max_ps((__m512)(v), (__m512)(best))
#define FC_POOL_MASK __mmask16
#define FC_POOL_GREATER(a, b) _mm512_cmp_ps_mask((__m512)(a), (__m512)(b), _CMP_GT_OQ)
#define FC_POOL_IS_NAN(v) _mm512_cmp_ps_mask((__m512)(v), (__m512)(v), _CMP_UNORD_Q)
#define FC_POOL_EQUAL(a, b) _mm512_cmpeq_epi32_mask((__m512i)(a), (__m512i)(b))
#define FC_POOL_PICK(mask, yes, no) _mm512_mask_mov_ps((__m512)(no), mask, (__m512)(yes))
#define FC_POOL_PICK_INDEX(mask, yes, no) _mm512_mask_mov_epi32((__m512i)(no), mask, (__m512i)(yes))
#define FC_POOL_LANES_BELOW(n) ((__mmask16)((1u << (n)) - 1))
#include "../pooling_tile.h"

#define FC_POOL_NAME fc_f64_pool2d__avx512
#define FC_POOL_TYPE double
#define FC_POOL_INT int64_t
#define FC_POOL_LANES 8
#define FC_POOL_IOTA 0, 1, 2, 3, 4, 5, 6, 7
#define FC_POOL_LOAD_PART(p, n, fill) _mm512_mask_loadu_pd((__m512d)(fill), (__mmask8)((1u << (n)) - 1), p)
#define FC_POOL_STORE_PART(p, n, v) _mm512_mask_storeu_pd(p, (__mmask8)((1u << (n)) - 1), (__m512d)(v))
#define FC_POOL_LOAD_INDICES(p, n) _mm512_mask_loadu_epi64(_mm512_set1_epi64(-1), (__mmask8)((1u << (n)) - 1), p)
#define FC_POOL_STORE_INDICES(p, where, n) \
    _mm512_mask_storeu_epi64(p, (__mmask8)((1u << (n)) - 1), (__m512i)(where))
#define FC_POOL_MAXIMUM(best, v) _mm512_max_pd((__m512d)(v), (__m512d)(best))
#define FC_POOL_MASK __mmask8
#define FC_POOL_GREATER(a, b) _mm512_cmp_pd_mask((__m512d)(a), (__m512d)(b), _CMP_GT_OQ)
#define FC_POOL_IS_NAN(v) _mm512_cmp_pd_mask((__m512d)(v), (__m512d)(v), _CMP_UNORD_Q)
#define FC_POOL_EQUAL(a, b) _mm512_cmpeq_epi64_mask((__m512i)(a), (__m512i)(b))
#define FC_POOL_PICK(mask, yes, no) _mm512_mask_mov_pd((__m512d)(no), mask, (__m512d)(yes))
#define FC_POOL_PICK_INDEX(mask, yes, no) _mm512_mask_mov_epi64((__m512i)(no), mask, (__m512i)(yes))
#define FC_POOL_LANES_BELOW(n) ((__mmask8)((1u << (n)) - 1))
#include "../pooling_tile.h"

void fc_add_pooling__avx512(fc_kernels_table *table);

void fc_add_pooling__avx512(fc_kernels_table *table)
{
    table->pool2d_f32 = &fc_f32_pool2d__avx512;
    table->pool2d_f64 = &fc_f64_pool2d__avx512;
}
