/* Depthwise kernels compiled for AVX2. */
#include <immintrin.h>
#include <stdint.h>

/* Sets of lanes as vmaskmov wants them. */
static inline __m256i lanes_32(int first, int end)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane),
                               _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
}

static inline __m256i lanes_64(int first, int end)
{
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return _mm256_andnot_si256(_mm256_cmpgt_epi64(_mm256_set1_epi64x(first), lane),
                               _mm256_cmpgt_epi64(_mm256_set1_epi64x(end), lane));
}

#define FC_DW_NAME fc_f32_depthwise__avx2
#define FC_DW_TYPE float
#define FC_DW_INT int32_t
#define FC_DW_LANES 8
#define FC_DW_IOTA 0, 1, 2, 3, 4, 5, 6, 7
#define FC_DW_VECTORS 2
#define FC_DW_TILE_ROWS 1
#define FC_DW_COLUMNS 4
#define FC_DW_ROWS 4
#define FC_DW_ROWS_BY_2 4
#define FC_DW_MASK __m256i
#define FC_DW_LANES_FROM_TO(first, end) lanes_32(first, end)
#define FC_DW_LOAD(p, lanes) _mm256_maskload_ps(p, lanes)
#define FC_DW_STORE(p, v, lanes) _mm256_maskstore_ps(p, lanes, (__m256)(v))
#include "../depthwise_tile.h"

#define FC_DW_NAME fc_f64_depthwise__avx2
#define FC_DW_TYPE double
#define FC_DW_INT int64_t
#define FC_DW_LANES 4
#define FC_DW_IOTA 0, 1, 2, 3
#define FC_DW_VECTORS 2
#define FC_DW_TILE_ROWS 1
#define FC_DW_COLUMNS 4
#define FC_DW_ROWS 4
#define FC_DW_ROWS_BY_2 4
#define FC_DW_MASK __m256i
#define FC_DW_LANES_FROM_TO(first, end) lanes_64(first, end)
#define FC_DW_LOAD(p, lanes) _mm256_maskload_pd(p, lanes)
#define FC_DW_STORE(p, v, lanes) _mm256_maskstore_pd(p, lanes, (__m256d)(v))
#include "../depthwise_tile.h"

void fc_add_depthwise__avx2(fc_kernels_table *table);

void fc_add_depthwise__avx2(fc_kernels_table *table)
{
    table->depthwise_f32 = &fc_f32_depthwise__avx2;
    table->depthwise_f64 = &fc_f64_depthwise__avx2;
}
