/* Template of one tile's rows at the end of winograd.c. Before including, define
 *   FC_ROW_TILE                       FC_WINOGRAD_F4X3, ...
 *   FC_ROW_FORWARD, FC_ROW_BACKWARD   the full symbols of the fc_conv2d_kernels, "fc_" and the name of the row */
#include "template.h"

#ifndef FC_ROW_ONCE
#define FC_ROW_ONCE
#define FC_ROW_QUOTE2(symbol) #symbol
#define FC_ROW_QUOTE(symbol) FC_ROW_QUOTE2(symbol)
#endif

static int64_t FC_JOIN(FC_ROW_FORWARD, _packed_bytes)(const fc_conv2d_shape *shape)
{
    return packed_bytes(shape, FC_ROW_TILE);
}

static void FC_JOIN(FC_ROW_FORWARD, _pack)(const fc_conv2d_shape *shape, const fc_view *w, void *packed, int threads)
{
    pack_weights(shape, FC_ROW_TILE, w, packed, threads);
}

static int64_t FC_JOIN(FC_ROW_FORWARD, _workspace)(const fc_conv2d_shape *shape, int packed, int threads)
{
    return workspace_bytes(shape, FC_ROW_TILE, packed, threads);
}

static void FC_JOIN(FC_ROW_FORWARD, _run)(const fc_conv2d_shape *shape, const fc_view *x, const fc_view *w,
                                          const void *packed, const fc_epilogue *epilogue, const fc_view *y,
                                          void *workspace, int threads)
{
    run(shape, FC_ROW_TILE, x, w, packed, epilogue, y, NULL, workspace, threads);
}

const fc_conv2d_kernel FC_ROW_FORWARD = {
    FC_ROW_QUOTE(FC_ROW_FORWARD) + sizeof "fc", FC_JOIN(FC_ROW_FORWARD, _packed_bytes), FC_JOIN(FC_ROW_FORWARD, _pack),
    FC_JOIN(FC_ROW_FORWARD, _workspace), FC_JOIN(FC_ROW_FORWARD, _run)};

const fc_conv2d_kernel FC_ROW_BACKWARD = {
    FC_ROW_QUOTE(FC_ROW_BACKWARD) + sizeof "fc", FC_JOIN(FC_ROW_FORWARD, _packed_bytes), FC_JOIN(FC_ROW_FORWARD, _pack),
    FC_JOIN(FC_ROW_FORWARD, _workspace), FC_JOIN(FC_ROW_FORWARD, _run)};

#undef FC_ROW_TILE
#undef FC_ROW_FORWARD
#undef FC_ROW_BACKWARD
