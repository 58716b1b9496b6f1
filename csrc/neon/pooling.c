/* Pooling kernels compiled for NEON. */

#define FC_POOL_NAME fc_f32_pool2d__neon
#define FC_POOL_TYPE float
#define FC_POOL_INT int32_t
#define FC_POOL_LANES 4
#define FC_POOL_IOTA 0, 1, 2, 3
#include "../pooling_tile.h"

#define FC_POOL_NAME fc_f64_pool2d__neon
#define FC_POOL_TYPE double
#define FC_POOL_INT int64_t
#define FC_POOL_LANES 2
#define FC_POOL_IOTA 0, 1
#include "../pooling_tile.h"

void fc_add_pooling__neon(fc_kernels_table *table);

void fc_add_pooling__neon(fc_kernels_table *table)
{
    table->pool2d_f32 = &fc_f32_pool2d__neon;
    table->pool2d_f64 = &fc_f64_pool2d__neon;
}
