/* Convolution, ReLU and 2x2 maximum pooling compiled for AVX2. */
#include <immintrin.h>

#define FC_CONV_POOL_NAME fc_f32_conv_pool__avx2
#define FC_CONV_POOL_TYPE float
#define FC_CONV_POOL_INT int32_t
#define FC_CONV_POOL_LANES 8
#define FC_CONV_POOL_PATCH(p, step) \
    _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps((p) + (step)), 1)
#include "../conv_pool_tile.h"

#define FC_CONV_POOL_NAME fc_f64_conv_pool__avx2
#define FC_CONV_POOL_TYPE double
#define FC_CONV_POOL_INT int64_t
#define FC_CONV_POOL_LANES 4
#include "../conv_pool_tile.h"

void fc_add_conv_pool__avx2(fc_kernels_table *table);

void fc_add_conv_pool__avx2(fc_kernels_table *table)
{
    table->conv_pool_f32 = &fc_f32_conv_pool__avx2;
    table->conv_pool_f64 = &fc_f64_conv_pool__avx2;
}
