/* GEMM microkernels compiled for AVX2. */

#define FC_GEMM_NAME fc_f32_gemm_6x16__avx2
#define FC_GEMM_PRODUCT fc_f32_product_6x16__avx2
#define FC_GEMM_TYPE float
#define FC_GEMM_BYTES 32
#define FC_GEMM_MR 6
#define FC_GEMM_NV 2
#define FC_GEMM_UNROLL 4
#include "../gemm_tile.h"

#define FC_GEMM_NAME fc_f64_gemm_6x8__avx2
#define FC_GEMM_PRODUCT fc_f64_product_6x8__avx2
#define FC_GEMM_TYPE double
#define FC_GEMM_BYTES 32
#define FC_GEMM_MR 6
#define FC_GEMM_NV 2
#define FC_GEMM_UNROLL 4
#include "../gemm_tile.h"

void fc_add_gemm__avx2(fc_kernels_table *table);

void fc_add_gemm__avx2(fc_kernels_table *table)
{
    table->gemm_f32 = (fc_gemm_kernel){6, 16, fc_f32_gemm_6x16__avx2, fc_f32_product_6x16__avx2, "fc_f32_gemm_6x16__avx2"};
    table->gemm_f64 = (fc_gemm_kernel){6, 8, fc_f64_gemm_6x8__avx2, fc_f64_product_6x8__avx2, "fc_f64_gemm_6x8__avx2"};
}
