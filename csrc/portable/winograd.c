/* Winograd transforms compiled for portable C. */

#define FC_MOVE_GATHER fc_f32_winograd_gather__portable
#define FC_MOVE_SCATTER fc_f32_winograd_scatter__portable
#define FC_MOVE_FINISH fc_f32_winograd_finish__portable
#define FC_MOVE_TAPS fc_f32_winograd_taps__portable
#define FC_MOVE_PLAIN fc_f32_winograd_plain__portable
#define FC_MOVE_TYPE float
#define FC_MOVE_LANES 4
#include "../winograd_move.h"

#define FC_WINOGRAD_WEIGHTS fc_f32_winograd_f2x3_weights__portable
#define FC_WINOGRAD_INPUT fc_f32_winograd_f2x3_input__portable
#define FC_WINOGRAD_OUTPUT fc_f32_winograd_f2x3_output__portable
#define FC_WINOGRAD_TYPE float
#define FC_WINOGRAD_LANES 4
#define FC_WINOGRAD_TILE 2
#include "../winograd_tile.h"

#define FC_WINOGRAD_WEIGHTS fc_f32_winograd_f4x3_weights__portable
#define FC_WINOGRAD_INPUT fc_f32_winograd_f4x3_input__portable
#define FC_WINOGRAD_OUTPUT fc_f32_winograd_f4x3_output__portable
#define FC_WINOGRAD_TYPE float
#define FC_WINOGRAD_LANES 4
#define FC_WINOGRAD_TILE 4
#include "../winograd_tile.h"

#define FC_MOVE_GATHER fc_f64_winograd_gather__portable
#define FC_MOVE_SCATTER fc_f64_winograd_scatter__portable
#define FC_MOVE_FINISH fc_f64_winograd_finish__portable
#define FC_MOVE_TAPS fc_f64_winograd_taps__portable
#define FC_MOVE_PLAIN fc_f64_winograd_plain__portable
#define FC_MOVE_TYPE double
#define FC_MOVE_LANES 2
#include "../winograd_move.h"

#define FC_WINOGRAD_WEIGHTS fc_f64_winograd_f2x3_weights__portable
#define FC_WINOGRAD_INPUT fc_f64_winograd_f2x3_input__portable
#define FC_WINOGRAD_OUTPUT fc_f64_winograd_f2x3_output__portable
#define FC_WINOGRAD_TYPE double
#define FC_WINOGRAD_LANES 2
#define FC_WINOGRAD_TILE 2
#include "../winograd_tile.h"

#define FC_WINOGRAD_WEIGHTS fc_f64_winograd_f4x3_weights__portable
#define FC_WINOGRAD_INPUT fc_f64_winograd_f4x3_input__portable
#define FC_WINOGRAD_OUTPUT fc_f64_winograd_f4x3_output__portable
#define FC_WINOGRAD_TYPE double
#define FC_WINOGRAD_LANES 2
#define FC_WINOGRAD_TILE 4
#include "../winograd_tile.h"

static const fc_winograd_kernel fc_f32_winograd_f2x3__portable = {
    .lanes = 4,
    .weights = fc_f32_winograd_f2x3_weights__portable,
    .input = fc_f32_winograd_f2x3_input__portable,
    .output = fc_f32_winograd_f2x3_output__portable,
    .gather = fc_f32_winograd_gather__portable,
    .scatter = fc_f32_winograd_scatter__portable,
    .finish = fc_f32_winograd_finish__portable,
    .taps = fc_f32_winograd_taps__portable,
    .plain = fc_f32_winograd_plain__portable,
};

static const fc_winograd_kernel fc_f32_winograd_f4x3__portable = {
    .lanes = 4,
    .weights = fc_f32_winograd_f4x3_weights__portable,
    .input = fc_f32_winograd_f4x3_input__portable,
    .output = fc_f32_winograd_f4x3_output__portable,
    .gather = fc_f32_winograd_gather__portable,
    .scatter = fc_f32_winograd_scatter__portable,
    .finish = fc_f32_winograd_finish__portable,
    .taps = fc_f32_winograd_taps__portable,
    .plain = fc_f32_winograd_plain__portable,
};

static const fc_winograd_kernel fc_f64_winograd_f2x3__portable = {
    .lanes = 2,
    .weights = fc_f64_winograd_f2x3_weights__portable,
    .input = fc_f64_winograd_f2x3_input__portable,
    .output = fc_f64_winograd_f2x3_output__portable,
    .gather = fc_f64_winograd_gather__portable,
    .scatter = fc_f64_winograd_scatter__portable,
    .finish = fc_f64_winograd_finish__portable,
    .taps = fc_f64_winograd_taps__portable,
    .plain = fc_f64_winograd_plain__portable,
};

static const fc_winograd_kernel fc_f64_winograd_f4x3__portable = {
    .lanes = 2,
    .weights = fc_f64_winograd_f4x3_weights__portable,
    .input = fc_f64_winograd_f4x3_input__portable,
    .output = fc_f64_winograd_f4x3_output__portable,
    .gather = fc_f64_winograd_gather__portable,
    .scatter = fc_f64_winograd_scatter__portable,
    .finish = fc_f64_winograd_finish__portable,
    .taps = fc_f64_winograd_taps__portable,
    .plain = fc_f64_winograd_plain__portable,
};

void fc_add_winograd__portable(fc_kernels_table *table);

void fc_add_winograd__portable(fc_kernels_table *table)
{
    table->winograd_f2x3_f32 = &fc_f32_winograd_f2x3__portable;
    table->winograd_f4x3_f32 = &fc_f32_winograd_f4x3__portable;
    table->winograd_f2x3_f64 = &fc_f64_winograd_f2x3__portable;
    table->winograd_f4x3_f64 = &fc_f64_winograd_f4x3__portable;
}
