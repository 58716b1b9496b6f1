/* GEMM microkernels compiled for NEON. */

#define FC_GEMM_NAME fc_f32_gemm_8x12__neon
#define FC_GEMM_PRODUCT fc_f32_product_8x12__neon
#define FC_GEMM_TYPE float
#define FC_GEMM_BYTES 16
#define FC_GEMM_MR 8
#define FC_GEMM_NV 3
#define FC_GEMM_UNROLL 2
#include "../gemm_tile.h"

#define FC_GEMM_NAME fc_f64_gemm_8x6__neon
#define FC_GEMM_PRODUCT fc_f64_product_8x6__neon
#define FC_GEMM_TYPE double
#define FC_GEMM_BYTES 16
#define FC_GEMM_MR 8
#define FC_GEMM_NV 3
#define FC_GEMM_UNROLL 2
#include "../gemm_tile.h"

void fc_add_gemm__neon(fc_kernels_table *table);

void fc_add_gemm__neon(fc_kernels_table *table)
{
    table->gemm_f32 = (fc_gemm_kernel){8, 12, fc_f32_gemm_8x12__neon, fc_f32_product_8x12__neon, "fc_f32_gemm_8x12__neon"};
    table->gemm_f64 = (fc_gemm_kernel){8, 6, fc_f64_gemm_8x6__neon, fc_f64_product_8x6__neon, "fc_f64_gemm_8x6__neon"};
}
