/* Direct convolution compiled for NEON. */

#define FC_DIRECT_NAME fc_f32_direct_8x12__neon
#define FC_DIRECT_TYPE float
#define FC_DIRECT_BYTES 16
#define FC_DIRECT_MR 8
#define FC_DIRECT_NV 3
#include "../direct_tile.h"

#define FC_DIRECT_NAME fc_f64_direct_8x6__neon
#define FC_DIRECT_TYPE double
#define FC_DIRECT_BYTES 16
#define FC_DIRECT_MR 8
#define FC_DIRECT_NV 3
#include "../direct_tile.h"

void fc_add_direct__neon(fc_kernels_table *table);

void fc_add_direct__neon(fc_kernels_table *table)
{
    table->direct_f32 = &fc_f32_direct_8x12__neon;
    table->direct_f64 = &fc_f64_direct_8x6__neon;
}
