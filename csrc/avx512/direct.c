/* Direct convolution compiled for AVX512. */

#define FC_DIRECT_NAME fc_f32_direct_14x32__avx512
#define FC_DIRECT_TYPE float
#define FC_DIRECT_BYTES 64
#define FC_DIRECT_MR 14
#define FC_DIRECT_NV 2
#include "../direct_tile.h"

#define FC_DIRECT_NAME fc_f64_direct_14x16__avx512
#define FC_DIRECT_TYPE double
#define FC_DIRECT_BYTES 64
#define FC_DIRECT_MR 14
#define FC_DIRECT_NV 2
#include "../direct_tile.h"

void fc_add_direct__avx512(fc_kernels_table *table);

void fc_add_direct__avx512(fc_kernels_table *table)
{
    table->direct_f32 = &fc_f32_direct_14x32__avx512;
    table->direct_f64 = &fc_f64_direct_14x16__avx512;
}
