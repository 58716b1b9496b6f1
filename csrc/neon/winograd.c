/* Winograd transforms compiled for NEON. */

#define FC_MOVE_NAME fc_f32_winograd_move__neon
#define FC_MOVE_TYPE float
#define FC_MOVE_INT int32_t
#define FC_MOVE_LANES 4
#include "../winograd_move.h"

#define FC_WINOGRAD_TYPE float
#define FC_WINOGRAD_INT int32_t
#define FC_WINOGRAD_LANES 4

#define FC_WINOGRAD_NAME fc_f32_winograd_f2x3__neon
#define FC_WINOGRAD_M 2
#define FC_WINOGRAD_R 3
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f32_winograd_f4x3__neon
#define FC_WINOGRAD_M 4
#define FC_WINOGRAD_R 3
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f32_winograd_f6x3__neon
#define FC_WINOGRAD_M 6
#define FC_WINOGRAD_R 3
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f32_winograd_f2x5__neon
#define FC_WINOGRAD_M 2
#define FC_WINOGRAD_R 5
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f32_winograd_f4x5__neon
#define FC_WINOGRAD_M 4
#define FC_WINOGRAD_R 5
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f32_winograd_f4x3_1d__neon
#define FC_WINOGRAD_M 4
#define FC_WINOGRAD_R 3
#define FC_WINOGRAD_LINE
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f32_winograd_f6x3_1d__neon
#define FC_WINOGRAD_M 6
#define FC_WINOGRAD_R 3
#define FC_WINOGRAD_LINE
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f32_winograd_f4x5_1d__neon
#define FC_WINOGRAD_M 4
#define FC_WINOGRAD_R 5
#define FC_WINOGRAD_LINE
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f32_winograd_f4x7_1d__neon
#define FC_WINOGRAD_M 4
#define FC_WINOGRAD_R 7
#define FC_WINOGRAD_LINE
#include "../winograd_tile.h"

#undef FC_WINOGRAD_TYPE
#undef FC_WINOGRAD_INT
#undef FC_WINOGRAD_LANES

#define FC_MOVE_NAME fc_f64_winograd_move__neon
#define FC_MOVE_TYPE double
#define FC_MOVE_INT int64_t
#define FC_MOVE_LANES 2
#include "../winograd_move.h"

#define FC_WINOGRAD_TYPE double
#define FC_WINOGRAD_INT int64_t
#define FC_WINOGRAD_LANES 2

#define FC_WINOGRAD_NAME fc_f64_winograd_f2x3__neon
#define FC_WINOGRAD_M 2
#define FC_WINOGRAD_R 3
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f64_winograd_f4x3__neon
#define FC_WINOGRAD_M 4
#define FC_WINOGRAD_R 3
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f64_winograd_f6x3__neon
#define FC_WINOGRAD_M 6
#define FC_WINOGRAD_R 3
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f64_winograd_f2x5__neon
#define FC_WINOGRAD_M 2
#define FC_WINOGRAD_R 5
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f64_winograd_f4x5__neon
#define FC_WINOGRAD_M 4
#define FC_WINOGRAD_R 5
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f64_winograd_f4x3_1d__neon
#define FC_WINOGRAD_M 4
#define FC_WINOGRAD_R 3
#define FC_WINOGRAD_LINE
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f64_winograd_f6x3_1d__neon
#define FC_WINOGRAD_M 6
#define FC_WINOGRAD_R 3
#define FC_WINOGRAD_LINE
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f64_winograd_f4x5_1d__neon
#define FC_WINOGRAD_M 4
#define FC_WINOGRAD_R 5
#define FC_WINOGRAD_LINE
#include "../winograd_tile.h"

#define FC_WINOGRAD_NAME fc_f64_winograd_f4x7_1d__neon
#define FC_WINOGRAD_M 4
#define FC_WINOGRAD_R 7
#define FC_WINOGRAD_LINE
#include "../winograd_tile.h"

void fc_add_winograd__neon(fc_kernels_table *table);

void fc_add_winograd__neon(fc_kernels_table *table)
{
    table->winograd_move_f32 = &fc_f32_winograd_move__neon;
    table->winograd_f32[FC_WINOGRAD_F2X3] = &fc_f32_winograd_f2x3__neon;
    table->winograd_f32[FC_WINOGRAD_F4X3] = &fc_f32_winograd_f4x3__neon;
    table->winograd_f32[FC_WINOGRAD_F6X3] = &fc_f32_winograd_f6x3__neon;
    table->winograd_f32[FC_WINOGRAD_F2X5] = &fc_f32_winograd_f2x5__neon;
    table->winograd_f32[FC_WINOGRAD_F4X5] = &fc_f32_winograd_f4x5__neon;
    table->winograd_f32[FC_WINOGRAD_F4X3_1D] = &fc_f32_winograd_f4x3_1d__neon;
    table->winograd_f32[FC_WINOGRAD_F6X3_1D] = &fc_f32_winograd_f6x3_1d__neon;
    table->winograd_f32[FC_WINOGRAD_F4X5_1D] = &fc_f32_winograd_f4x5_1d__neon;
    table->winograd_f32[FC_WINOGRAD_F4X7_1D] = &fc_f32_winograd_f4x7_1d__neon;
    table->winograd_move_f64 = &fc_f64_winograd_move__neon;
    table->winograd_f64[FC_WINOGRAD_F2X3] = &fc_f64_winograd_f2x3__neon;
    table->winograd_f64[FC_WINOGRAD_F4X3] = &fc_f64_winograd_f4x3__neon;
    table->winograd_f64[FC_WINOGRAD_F6X3] = &fc_f64_winograd_f6x3__neon;
    table->winograd_f64[FC_WINOGRAD_F2X5] = &fc_f64_winograd_f2x5__neon;
    table->winograd_f64[FC_WINOGRAD_F4X5] = &fc_f64_winograd_f4x5__neon;
    table->winograd_f64[FC_WINOGRAD_F4X3_1D] = &fc_f64_winograd_f4x3_1d__neon;
    table->winograd_f64[FC_WINOGRAD_F6X3_1D] = &fc_f64_winograd_f6x3_1d__neon;
    table->winograd_f64[FC_WINOGRAD_F4X5_1D] = &fc_f64_winograd_f4x5_1d__neon;
    table->winograd_f64[FC_WINOGRAD_F4X7_1D] = &fc_f64_winograd_f4x7_1d__neon;
}
