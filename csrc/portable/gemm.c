/* GEMM microkernels compiled for any CPU. */

#define FC_GEMM_NAME fc_f32_gemm_4x8__portable
#define FC_GEMM_PRODUCT fc_f32_product_4x8__portable
#define FC_GEMM_TYPE float
#define FC_GEMM_BYTES 16
#define FC_GEMM_MR 4
#define FC_GEMM_NV 2
#define FC_GEMM_UNROLL 2
#include "../gemm_tile.h"

#define FC_GEMM_NAME fc_f64_gemm_4x4__portable
#define FC_GEMM_PRODUCT fc_f64_product_4x4__portable
#define FC_GEMM_TYPE double
#define FC_GEMM_BYTES 16
#define FC_GEMM_MR 4
#define FC_GEMM_NV 2
#define FC_GEMM_UNROLL 2
#include "../gemm_tile.h"

void fc_add_gemm__portable(fc_kernels_table *table);

void fc_add_gemm__portable(fc_kernels_table *table)
{
    table->gemm_f32 = (fc_gemm_kernel){4, 8, fc_f32_gemm_4x8__portable, fc_f32_product_4x8__portable, "fc_f32_gemm_4x8__portable"};
    table->gemm_f64 = (fc_gemm_kernel){4, 4, fc_f64_gemm_4x4__portable, fc_f64_product_4x4__portable, "fc_f64_gemm_4x4__portable"};
}
