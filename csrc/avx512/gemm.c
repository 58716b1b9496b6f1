/* GEMM microkernels compiled for AVX512. */

#define FC_GEMM_NAME fc_f32_gemm_14x32__avx512
#define FC_GEMM_PRODUCT fc_f32_product_14x32__avx512
#define FC_GEMM_TYPE float
#define FC_GEMM_BYTES 64
#define FC_GEMM_MR 14
#define FC_GEMM_NV 2
#define FC_GEMM_UNROLL 1
#include "../gemm_tile.h"

#define FC_GEMM_NAME fc_f64_gemm_14x16__avx512
#define FC_GEMM_PRODUCT fc_f64_product_14x16__avx512
#define FC_GEMM_TYPE double
#define FC_GEMM_BYTES 64
#define FC_GEMM_MR 14
#define FC_GEMM_NV 2
#define FC_GEMM_UNROLL 1
#include "../gemm_tile.h"

void fc_add_gemm__avx512(fc_kernels_table *table);

void fc_add_gemm__avx512(fc_kernels_table *table)
{
    table->gemm_f32 = (fc_gemm_kernel){14, 32, fc_f32_gemm_14x32__avx512, fc_f32_product_14x32__avx512, "fc_f32_gemm_14x32__avx512"};
    table->gemm_f64 = (fc_gemm_kernel){14, 16, fc_f64_gemm_14x16__avx512, fc_f64_product_14x16__avx512, "fc_f64_gemm_14x16__avx512"};
}
