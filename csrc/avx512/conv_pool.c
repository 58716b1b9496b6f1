/* Convolution, ReLU and 2x2 maximum pooling compiled for AVX-512. */
#include <immintrin.h>

#define FC_CONV_POOL_NAME fc_f32_conv_pool__avx512
#define FC_CONV_POOL_TYPE float
#define FC_CONV_POOL_INT int32_t
#define FC_CONV_POOL_LANES 16
#define FC_CONV_POOL_PATCH(p, step) \
    _mm512_insertf32x8( \
        _mm512_castps256_ps512(_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps((p) + (step)), 1)), \
        _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((p) + 2 * (step))), _mm_loadu_ps((p) + 3 * (step)), 1), 1)
#include "../conv_pool_tile.h"

#define FC_CONV_POOL_NAME fc_f64_conv_pool__avx512
#define FC_CONV_POOL_TYPE double
#define FC_CONV_POOL_INT int64_t
#define FC_CONV_POOL_LANES 8
#define FC_CONV_POOL_PATCH(p, step) \
    _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(p)), _mm256_loadu_pd((p) + (step)), 1)
#include "../conv_pool_tile.h"

void fc_add_conv_pool__avx512(fc_kernels_table *table);

void fc_add_conv_pool__avx512(fc_kernels_table *table)
{
    table->conv_pool_f32 = &fc_f32_conv_pool__avx512;
    table->conv_pool_f64 = &fc_f64_conv_pool__avx512;
}
