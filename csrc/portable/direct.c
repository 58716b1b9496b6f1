/* Direct convolution compiled for any CPU. */

#define FC_DIRECT_NAME fc_f32_direct_4x8__portable
#define FC_DIRECT_TYPE float
#define FC_DIRECT_BYTES 16
#define FC_DIRECT_MR 4
#define FC_DIRECT_NV 2
#include "../direct_tile.h"

#define FC_DIRECT_NAME fc_f64_direct_4x4__portable
#define FC_DIRECT_TYPE double
#define FC_DIRECT_BYTES 16
#define FC_DIRECT_MR 4
#define FC_DIRECT_NV 2
#include "../direct_tile.h"

void fc_add_direct__portable(fc_kernels_table *table);

void fc_add_direct__portable(fc_kernels_table *table)
{
    table->direct_f32 = &fc_f32_direct_4x8__portable;
    table->direct_f64 = &fc_f64_direct_4x4__portable;
}
