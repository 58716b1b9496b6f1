/* Winograd transforms compiled for NEON. */

#define FC_MOVE_GATHER fc_f32_winograd_gather__neon
#define FC_MOVE_SCATTER fc_f32_winograd_scatter__neon
#define FC_MOVE_FINISH fc_f32_winograd_finish__neon
#define FC_MOVE_TAPS fc_f32_winograd_taps__neon
#define FC_MOVE_PLAIN fc_f32_winograd_plain__neon
#define FC_MOVE_TYPE float
#define FC_MOVE_LANES 4
#include "../winograd_move.h"

#define FC_WINOGRAD_WEIGHTS fc_f32_winograd_f2x3_weights__neon
#define FC_WINOGRAD_INPUT fc_f32_winograd_f2x3_input__neon
#define FC_WINOGRAD_OUTPUT fc_f32_winograd_f2x3_output__neon
#define FC_WINOGRAD_TYPE float
#define FC_WINOGRAD_LANES 4
#define FC_WINOGRAD_TILE 2
#include "../winograd_tile.h"

#define FC_WINOGRAD_WEIGHTS fc_f32_winograd_f4x3_weights__neon
#define FC_WINOGRAD_INPUT fc_f32_winograd_f4x3_input__neon
#define FC_WINOGRAD_OUTPUT fc_f32_winograd_f4x3_output__neon
#define FC_WINOGRAD_TYPE float
#define FC_WINOGRAD_LANES 4
#define FC_WINOGRAD_TILE 4
#include "../winograd_tile.h"

#define FC_MOVE_GATHER fc_f64_winograd_gather__neon
#define FC_MOVE_SCATTER fc_f64_winograd_scatter__neon
#define FC_MOVE_FINISH fc_f64_winograd_finish__neon
#define FC_MOVE_TAPS fc_f64_winograd_taps__neon
#define FC_MOVE_PLAIN fc_f64_winograd_plain__neon
#define FC_MOVE_TYPE double
#define FC_MOVE_LANES 2
#include "../winograd_move.h"

#define FC_WINOGRAD_WEIGHTS fc_f64_winograd_f2x3_weights__neon
#define FC_WINOGRAD_INPUT fc_f64_winograd_f2x3_input__neon
#define FC_WINOGRAD_OUTPUT fc_f64_winograd_f2x3_output__neon
#define FC_WINOGRAD_TYPE double
#define FC_WINOGRAD_LANES 2
#define FC_WINOGRAD_TILE 2
#include "../winograd_tile.h"

#define FC_WINOGRAD_WEIGHTS fc_f64_winograd_f4x3_weights__neon
#define FC_WINOGRAD_INPUT fc_f64_winograd_f4x3_input__neon
#define FC_WINOGRAD_OUTPUT fc_f64_winograd_f4x3_output__neon
#define FC_WINOGRAD_TYPE double
#define FC_WINOGRAD_LANES 2
#define FC_WINOGRAD_TILE 4
#include "../winograd_tile.h"

static const fc_winograd_kernel fc_f32_winograd_f2x3__neon = {
    .lanes = 4,
    .weights = fc_f32_winograd_f2x3_weights__neon,
    .input = fc_f32_winograd_f2x3_input__neon,
    .output = fc_f32_winograd_f2x3_output__neon,
    .gather = fc_f32_winograd_gather__neon,
    .scatter = fc_f32_winograd_scatter__neon,
    .finish = fc_f32_winograd_finish__neon,
    .taps = fc_f32_winograd_taps__neon,
    .plain = fc_f32_winograd_plain__neon,
};

static const fc_winograd_kernel fc_f32_winograd_f4x3__neon = {
    .lanes = 4,
    .weights = fc_f32_winograd_f4x3_weights__neon,
    .input = fc_f32_winograd_f4x3_input__neon,
    .output = fc_f32_winograd_f4x3_output__neon,
    .gather = fc_f32_winograd_gather__neon,
    .scatter = fc_f32_winograd_scatter__neon,
    .finish = fc_f32_winograd_finish__neon,
    .taps = fc_f32_winograd_taps__neon,
    .plain = fc_f32_winograd_plain__neon,
};

static const fc_winograd_kernel fc_f64_winograd_f2x3__neon = {
    .lanes = 2,
    .weights = fc_f64_winograd_f2x3_weights__neon,
    .input = fc_f64_winograd_f2x3_input__neon,
    .output = fc_f64_winograd_f2x3_output__neon,
    .gather = fc_f64_winograd_gather__neon,
    .scatter = fc_f64_winograd_scatter__neon,
    .finish = fc_f64_winograd_finish__neon,
    .taps = fc_f64_winograd_taps__neon,
    .plain = fc_f64_winograd_plain__neon,
};

static const fc_winograd_kernel fc_f64_winograd_f4x3__neon = {
    .lanes = 2,
    .weights = fc_f64_winograd_f4x3_weights__neon,
    .input = fc_f64_winograd_f4x3_input__neon,
    .output = fc_f64_winograd_f4x3_output__neon,
    .gather = fc_f64_winograd_gather__neon,
    .scatter = fc_f64_winograd_scatter__neon,
    .finish = fc_f64_winograd_finish__neon,
    .taps = fc_f64_winograd_taps__neon,
    .plain = fc_f64_winograd_plain__neon,
};

void fc_add_winograd__neon(fc_kernels_table *table);

void fc_add_winograd__neon(fc_kernels_table *table)
{
    table->winograd_f2x3_f32 = &fc_f32_winograd_f2x3__neon;
    table->winograd_f4x3_f32 = &fc_f32_winograd_f4x3__neon;
    table->winograd_f2x3_f64 = &fc_f64_winograd_f2x3__neon;
    table->winograd_f4x3_f64 = &fc_f64_winograd_f4x3__neon;
}
