/* Pooling kernels compiled for AVX2. */
#include <immintrin.h>
#include <stdint.h>

/* The first n lanes set, as vmaskmov wants them. */
static inline __m256i first_lanes_32(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline __m256i first_lanes_64(int n)
{
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}

static inline __m256 load_part_ps(const float *p, int n, __m256 fill)
{
    const __m256i mask = first_lanes_32(n);
    return _mm256_blendv_ps(fill, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}

static inline __m256d load_part_pd(const double *p, int n, __m256d fill)
{
    const __m256i mask = first_lanes_64(n);
    return _mm256_blendv_pd(fill, _mm256_maskload_pd(p, mask), _mm256_castsi256_pd(mask));
}

static inline __m256i load_indices_64(const int64_t *p, int n)
{
    const __m256i mask = first_lanes_64(n);
    return _mm256_or_si256(_mm256_maskload_epi64((const long long *)p, mask),
                           _mm256_xor_si256(mask, _mm256_set1_epi64x(-1)));
}

/* n indices narrowed to 32 bits, those that do not fit made negative: no cell of a plane; past n: -1. */
static inline __m256i load_indices_32(const int64_t *p, int n)
{
    const __m256i a = n >= 4 ? _mm256_loadu_si256((const __m256i *)p) : load_indices_64(p, n);
    const __m256i b = n == 8 ? _mm256_loadu_si256((const __m256i *)(p + 4)) : load_indices_64(p + 4, n - 4);
    const __m256 low = _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88);
    const __m256i high = _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd));
    const __m256i wrong = _mm256_or_si256(high, _mm256_cmpgt_epi32(high, _mm256_setzero_si256()));
    return _mm256_permute4x64_epi64(_mm256_or_si256(_mm256_castps_si256(low), wrong), 0xd8);
}

static inline void store_indices_64(int64_t *p, __m256i where, int n)
{
    if (n >= 4)
        _mm256_storeu_si256((__m256i *)p, where);
    else
        _mm256_maskstore_epi64((long long *)p, first_lanes_64(n), where);
}

static inline void store_indices_32(int64_t *p, __m256i where, int n)
{
    store_indices_64(p, _mm256_cvtepi32_epi64(_mm256_castsi256_si128(where)), n);
    if (n > 4)
        store_indices_64(p + 4, _mm256_cvtepi32_epi64(_mm256_extracti128_si256(where, 1)), n - 4);
}

#define FC_POOL_NAME fc_f32_pool2d__avx2
#define FC_POOL_TYPE float
#define FC_POOL_INT int32_t
#define FC_POOL_LANES 8
#define FC_POOL_IOTA 0, 1, 2, 3, 4, 5, 6, 7
#define FC_POOL_LOAD_PART(p, n, fill) load_part_ps(p, n, (__m256)(fill))
#define FC_POOL_STORE_PART(p, n, v) _mm256_maskstore_ps(p, first_lanes_32(n), (__m256)(v))
#define FC_POOL_LOAD_INDICES(p, n) load_indices_32(p, n)
#define FC_POOL_STORE_INDICES(p, where, n) store_indices_32(p, (__m256i)(where), n)
/* vmax gives its second operand where both are equal. */
#define FC_POOL_MAXIMUM(best, v) _mm256_max_ps((__m256)(v), (__m256)(best))
#include "../pooling_tile.h"

#define FC_POOL_NAME fc_f64_pool2d__avx2
#define FC_POOL_TYPE double
#define FC_POOL_INT int64_t
#define FC_POOL_LANES 4
#define FC_POOL_IOTA 0, 1, 2, 3
#define FC_POOL_LOAD_PART(p, n, fill) load_part_pd(p, n, (__m256d)(fill))
#define FC_POOL_STORE_PART(p, n, v) _mm256_maskstore_pd(p, first_lanes_64(n), (__m256d)(v))
#define FC_POOL_LOAD_INDICES(p, n) load_indices_64(p, n)
#define FC_POOL_STORE_INDICES(p, where, n) store_indices_64(p, (__m256i)(where), n)
/* vmax gives its second operand where both are equal. */
#define FC_POOL_MAXIMUM(best, v) _mm256_max_pd((__m256d)(v), (__m256d)(best))
#include "../pooling_tile.h"

void fc_add_pooling__avx2(fc_kernels_table *table);

void fc_add_pooling__avx2(fc_kernels_table *table)
{
    table->pool2d_f32 = &fc_f32_pool2d__avx2;
    table->pool2d_f64 = &fc_f64_pool2d__avx2;
}
