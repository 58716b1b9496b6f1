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

#define FC_POOL_NAME fc_f32_pool2d__avx2
#define FC_POOL_TYPE float
#define FC_POOL_INT int32_t
#define FC_POOL_LANES 8
#define FC_POOL_IOTA 0, 1, 2, 3, 4, 5, 6, 7
#define FC_POOL_LOAD_PART(p, n, fill) load_part_ps(p, n, (__m256)(fill))
#define FC_POOL_STORE_PART(p, n, v) _mm256_maskstore_ps(p, first_lanes_32(n), (__m256)(v))
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
/* vmax gives its second operand where both are equal. */
#define FC_POOL_MAXIMUM(best, v) _mm256_max_pd((__m256d)(v), (__m256d)(best))
#include "../pooling_tile.h"

void fc_add_pooling__avx2(fc_kernels_table *table);

void fc_add_pooling__avx2(fc_kernels_table *table)
{
    table->pool2d_f32 = &fc_f32_pool2d__avx2;
    table->pool2d_f64 = &fc_f64_pool2d__avx2;
}
