/* Direct convolution compiled for AVX2. */

#define FC_DIRECT_NAME fc_f32_direct_6x16__avx2
#define FC_DIRECT_TYPE float
#define FC_DIRECT_BYTES 32
#define FC_DIRECT_MR 6
#define FC_DIRECT_NV 2
#include "../direct_tile.h"

#define FC_DIRECT_NAME fc_f64_direct_6x8__avx2
#define FC_DIRECT_TYPE double
#define FC_DIRECT_BYTES 32
#define FC_DIRECT_MR 6
#define FC_DIRECT_NV 2
#include "../direct_tile.h"

void fc_add_direct__avx2(fc_kernels_table *table);

void fc_add_direct__avx2(fc_kernels_table *table)
{
    table->direct_f32 = &fc_f32_direct_6x16__avx2;
    table->direct_f64 = &fc_f64_direct_6x8__avx2;
}
