/* Convolution, ReLU and 2x2 maximum pooling compiled for AVX2. */
#include <immintrin.h>

#include <stdint.h>

static inline void store_bytes(uint8_t *p, __m256i codes)
{
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}

#define FC_CONV_POOL_NAME fc_f32_conv_pool__avx2
#define FC_CONV_POOL_TYPE float
#define FC_CONV_POOL_INT int32_t
#define FC_CONV_POOL_LANES 8
#define FC_CONV_POOL_MAXIMUM(a, b) _mm256_max_ps(b, a)
#define FC_CONV_POOL_LOAD_CODES(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define FC_CONV_POOL_STORE_CODES(p, codes) store_bytes(p, (__m256i)(codes))
#define FC_CONV_POOL_PATCH(p, step) \
    _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps((p) + (step)), 1)
#include "../conv_pool_tile.h"

#define FC_CONV_POOL_NAME fc_f64_conv_pool__avx2
#define FC_CONV_POOL_TYPE double
#define FC_CONV_POOL_INT int64_t
#define FC_CONV_POOL_LANES 4
#define FC_CONV_POOL_MAXIMUM(a, b) _mm256_max_pd(b, a)
#include "../conv_pool_tile.h"

void fc_add_conv_pool__avx2(fc_kernels_table *table);

void fc_add_conv_pool__avx2(fc_kernels_table *table)
{
    table->conv_pool_f32 = &fc_f32_conv_pool__avx2;
    table->conv_pool_f64 = &fc_f64_conv_pool__avx2;
}
