/* Depthwise kernels compiled for NEON. */

#define FC_DW_NAME fc_f32_depthwise__neon
#define FC_DW_TYPE float
#define FC_DW_INT int32_t
#define FC_DW_LANES 4
#define FC_DW_IOTA 0, 1, 2, 3
#define FC_DW_VECTORS 1
#define FC_DW_TILE_ROWS 2
#define FC_DW_COLUMNS 8
#define FC_DW_ROWS 8
#define FC_DW_ROWS_BY_2 4
#include "../depthwise_tile.h"

#define FC_DW_NAME fc_f64_depthwise__neon
#define FC_DW_TYPE double
#define FC_DW_INT int64_t
#define FC_DW_LANES 2
#define FC_DW_IOTA 0, 1
#define FC_DW_VECTORS 1
#define FC_DW_TILE_ROWS 2
#define FC_DW_COLUMNS 8
#define FC_DW_ROWS 8
#define FC_DW_ROWS_BY_2 4
#include "../depthwise_tile.h"

void fc_add_depthwise__neon(fc_kernels_table *table);

void fc_add_depthwise__neon(fc_kernels_table *table)
{
    table->depthwise_f32 = &fc_f32_depthwise__neon;
    table->depthwise_f64 = &fc_f64_depthwise__neon;
}
