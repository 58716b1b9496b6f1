/* Depthwise kernels compiled for AVX512. */
#include <immintrin.h>
#include <stdint.h>

/* first <= end <= 16 */
#define LANES_FROM_TO(first, end) ((1u << (end)) - (1u << (first)))

#define FC_DW_IS_NARROW
#define FC_DW_NAME fc_f32_depthwise_narrow__avx512
#define FC_DW_TYPE float
#define FC_DW_INT int32_t
#define FC_DW_LANES 8
#define FC_DW_IOTA 0, 1, 2, 3, 4, 5, 6, 7
#define FC_DW_VECTORS 1
#define FC_DW_TILE_ROWS 2
#define FC_DW_COLUMNS 8
#define FC_DW_ROWS 14
#define FC_DW_ROWS_BY_2 8
#define FC_DW_FREE_MASKS
#define FC_DW_MASK __mmask8
#define FC_DW_LANES_FROM_TO(first, end) ((__mmask8)LANES_FROM_TO(first, end))
#define FC_DW_LOAD(p, lanes) _mm256_maskz_loadu_ps(lanes, p)
#define FC_DW_STORE(p, v, lanes) _mm256_mask_storeu_ps(p, lanes, (__m256)(v))
#include "../depthwise_tile.h"

#define FC_DW_NARROW fc_f32_depthwise_narrow__avx512
#define FC_DW_NAME fc_f32_depthwise__avx512
#define FC_DW_TYPE float
#define FC_DW_INT int32_t
#define FC_DW_LANES 16
#define FC_DW_IOTA 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define FC_DW_VECTORS 1
#define FC_DW_TILE_ROWS 2
#define FC_DW_COLUMNS 8
#define FC_DW_ROWS 14
#define FC_DW_ROWS_BY_2 8
#define FC_DW_FREE_MASKS
#define FC_DW_MASK __mmask16
#define FC_DW_LANES_FROM_TO(first, end) ((__mmask16)LANES_FROM_TO(first, end))
#define FC_DW_LOAD(p, lanes) _mm512_maskz_loadu_ps(lanes, p)
#define FC_DW_STORE(p, v, lanes) _mm512_mask_storeu_ps(p, lanes, (__m512)(v))
#include "../depthwise_tile.h"

#define FC_DW_NAME fc_f64_depthwise__avx512
#define FC_DW_TYPE double
#define FC_DW_INT int64_t
#define FC_DW_LANES 8
#define FC_DW_IOTA 0, 1, 2, 3, 4, 5, 6, 7
#define FC_DW_VECTORS 1
#define FC_DW_TILE_ROWS 2
#define FC_DW_COLUMNS 8
#define FC_DW_ROWS 14
#define FC_DW_ROWS_BY_2 8
#define FC_DW_FREE_MASKS
#define FC_DW_MASK __mmask8
#define FC_DW_LANES_FROM_TO(first, end) ((__mmask8)LANES_FROM_TO(first, end))
#define FC_DW_LOAD(p, lanes) _mm512_maskz_loadu_pd(lanes, p)
#define FC_DW_STORE(p, v, lanes) _mm512_mask_storeu_pd(p, lanes, (__m512d)(v))
#include "../depthwise_tile.h"

void fc_add_depthwise__avx512(fc_kernels_table *table);

void fc_add_depthwise__avx512(fc_kernels_table *table)
{
    table->depthwise_f32 = &fc_f32_depthwise__avx512;
    table->depthwise_f64 = &fc_f64_depthwise__avx512;
}
