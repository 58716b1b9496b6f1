/* What the Winograd convolution and its gradients share: the cut of images into tiles; tiles through a transform, in both
 * layouts, result[point][tile][channel]; and the products of the points. NCHW is transposed to channels-last strips of
 * one vector of channels on the way. */
#include "numbers.h"
#include "winograd.h"

#include <string.h>

enum { AHEAD_BYTES = 2048 }; /* how early U is fetched: 1.03x on 512 channels, Zen 4 */

fc_winograd_grid fc_winograd_grid_of(int tile, int64_t mb, int64_t oh, int64_t ow, int64_t kh, int64_t kw)
{
    const int m = fc_winograd_tiles[tile].m;
    fc_winograd_grid grid = {.tile_h = kh == 1 ? 1 : m, .tile_w = kw == 1 ? 1 : m};
    grid.tiles_h = ceil_div(oh, grid.tile_h);
    grid.tiles_w = ceil_div(ow, grid.tile_w);
    grid.tiles = mb * grid.tiles_h * grid.tiles_w;
    grid.alpha_h = grid.tile_h + kh - 1;
    grid.alpha_w = grid.tile_w + kw - 1;
    grid.points = grid.alpha_h * grid.alpha_w;
    const int64_t row_pixels = max64(1, grid.tile_h * grid.tiles_w * grid.tile_w);
    grid.band_rows = max64(1, min64(grid.tiles_h, FC_WINOGRAD_BAND_PIXELS / row_pixels));
    return grid;
}

void fc_winograd_choose(int dtype, int tile, const fc_gemm_kernel **gemm, const fc_winograd_move **move,
                        const fc_winograd_kernel **kernel)
{
    const fc_kernels_table *const table = fc_kernels();
    const int single = dtype == FC_F32;
    *gemm = single ? &table->gemm_f32 : &table->gemm_f64;
    *move = single ? table->winograd_move_f32 : table->winograd_move_f64;
    *kernel = single ? table->winograd_f32[tile] : table->winograd_f64[tile];
}

static const char *cell_at(const fc_winograd_source *s, int64_t n, int64_t g, int64_t c, int64_t i, int64_t j)
{
    return s->data + (n * s->stride_n + (g * s->channels + c) * s->stride_c + i * s->stride_h + j * s->stride_w) * s->size;
}

/* One tile; a line of cells runs along the rows or along the columns. */
static void transform(const fc_winograd_source *s, const char *d, int64_t row, int64_t col, int64_t n, char *v)
{
    s->transform(d, s->patch_h == 1 ? col : row, col, n, v, s->point);
}

/* NCHW: what some tiles read, one vector of channels at a time, with zeros around. */
static void transform_nchw(const fc_winograd_source *s, int64_t g, int64_t start, int64_t end, char *result, char *strip)
{
    const fc_winograd_grid *const grid = s->grid;
    const int64_t lanes = s->move->lanes, pixel = lanes * s->size;
    fc_winograd_band b;
    for (int64_t t = start; t < end; t += b.rows * b.count) {
        b = fc_winograd_band_at(grid, t, end);
        const int64_t height = (b.rows - 1) * grid->tile_h + s->patch_h, width = (b.count - 1) * grid->tile_w + s->patch_w;
        const int64_t row = b.i - s->top, col = b.j - s->left;
        const int64_t top = min64(max64(-row, 0), height), bottom = max64(top, min64(height, s->height - row));
        const int64_t left = min64(max64(-col, 0), width), right = max64(left, min64(width, s->width - col));
        if (top > 0 || bottom < height || left > 0 || right < width)
            memset(strip, 0, (size_t)(height * width * pixel));
        for (int64_t c = 0; c < s->channels; c += lanes) {
            const int64_t channels = min64(lanes, s->channels - c);
            const int whole = right - left == s->width; /* the rows follow each other */
            for (int64_t r = top; r < bottom && left < right; r = whole ? bottom : r + 1) {
                const char *const src = cell_at(s, b.n, g, c, row + r, col + left);
                /* NumPy leaves the stride of an axis of length 1 undefined */
                const int64_t images = (s->mb - 1) * (s->mb > 1 ? s->stride_n : 0);
                const int64_t elements = images + s->groups * s->channels * s->height * s->width;
                const int64_t after = elements - (src - s->data) / s->size;
                s->move->gather(src, s->stride_c, channels, (whole ? bottom - top : 1) * (right - left),
                                after - (channels - 1) * s->stride_c, right - left, width - (right - left),
                                strip + (r * width + left) * pixel);
            }
            for (int64_t q = 0; q < b.rows * b.count; q++)
                transform(s, strip + (q / b.count * grid->tile_h * width + q % b.count * grid->tile_w) * pixel,
                          width * lanes, lanes, lanes, result + ((t - start + q) * s->row + c) * s->size);
        }
    }
}

/* NHWC, channels [c, end) of one tile whose patch starts at (row, col): through a zero-filled copy. */
static void transform_patch(const fc_winograd_source *s, int64_t n, int64_t g, int64_t c, int64_t end, int64_t row,
                            int64_t col, char *result, char *patch)
{
    const int64_t lanes = s->move->lanes, first = min64(max64(0, -col), s->patch_w);
    const int64_t cells = max64(0, min64(s->patch_w, s->width - col) - first);
    for (; c < end; c += FC_WINOGRAD_PATCH) {
        const int64_t count = min64(FC_WINOGRAD_PATCH, end - c), padded = ceil_div(count, lanes) * lanes;
        for (int64_t r = 0; r < s->patch_h; r++) {
            if (count == padded && padded == s->stride_w) { /* the cells of a row follow each other as in the patch */
                char *const to = patch + r * s->patch_w * padded * s->size;
                const int64_t some = row + r >= 0 && row + r < s->height ? cells : 0, before = some ? first : 0;
                memset(to, 0, (size_t)(before * padded * s->size));
                if (some)
                    memcpy(to + before * padded * s->size, cell_at(s, n, g, c, row + r, col + first),
                           (size_t)(some * padded * s->size));
                memset(to + (before + some) * padded * s->size, 0,
                       (size_t)((s->patch_w - before - some) * padded * s->size));
                continue;
            }
            for (int64_t q = 0; q < s->patch_w; q++) {
                char *const cell = patch + (r * s->patch_w + q) * padded * s->size;
                const int inside = row + r >= 0 && row + r < s->height && col + q >= 0 && col + q < s->width;
                const int64_t bytes = inside ? count * s->size : 0;
                if (inside)
                    memcpy(cell, cell_at(s, n, g, c, row + r, col + q), (size_t)bytes);
                memset(cell + bytes, 0, (size_t)(padded * s->size - bytes));
            }
        }
        transform(s, patch, s->patch_w * padded, padded, padded, result + c * s->size);
    }
}

static void transform_nhwc(const fc_winograd_source *s, int64_t g, int64_t start, int64_t end, char *result, char *patch)
{
    const fc_winograd_grid *const grid = s->grid;
    const int64_t vectors = s->channels / s->move->lanes * s->move->lanes;
    fc_winograd_band b;
    for (int64_t t = start; t < end; t += b.count) {
        b = fc_winograd_segment(grid, t, end);
        const int64_t row = b.i - s->top;
        for (int64_t q = 0; q < b.count; q++) {
            const int64_t col = b.j + q * grid->tile_w - s->left;
            char *const to = result + (t - start + q) * s->row * s->size;
            int64_t c = 0;
            if (row >= 0 && row + s->patch_h <= s->height && col >= 0 && col + s->patch_w <= s->width) {
                transform(s, cell_at(s, b.n, g, 0, row, col), s->stride_h, s->stride_w, vectors, to);
                c = vectors;
            }
            transform_patch(s, b.n, g, c, s->channels, row, col, to, patch);
        }
    }
}

/* Gradients of pooled outputs: each tile is spread to the winners first. */
static void transform_pooled(const fc_winograd_source *s, int64_t start, int64_t end, char *result, char *patch)
{
    const int64_t lanes = s->move->lanes, height = s->height / 2, width = s->width / 2;
    for (int64_t t = start; t < end; t++) {
        const fc_winograd_band tile = fc_winograd_segment(s->grid, t, end);
        for (int64_t c = 0; c < s->channels; c += FC_WINOGRAD_PATCH) {
            const int64_t count = min64(FC_WINOGRAD_PATCH, s->channels - c), padded = ceil_div(count, lanes) * lanes;
            const int64_t row = s->patch_w * padded;
            for (int64_t a = 0; a < s->patch_h; a += 2)
                for (int64_t b = 0; b < s->patch_w; b += 2) {
                    const int64_t i = (tile.i + a) / 2, j = (tile.j + b) / 2;
                    const int64_t at = ((tile.n * height + i) * width + j) * s->channels + c;
                    char *const to = patch + (a * row + b * padded) * s->size;
                    if (i < height && j < width) {
                        s->move->expand(s->data + at * s->size, s->codes + at, count, to, row, padded);
                    } else {
                        memset(to, 0, (size_t)(2 * padded * s->size));
                        memset(to + row * s->size, 0, (size_t)(2 * padded * s->size));
                    }
                }
            transform(s, patch, row, padded, padded, result + ((t - start) * s->row + c) * s->size);
        }
    }
}

void fc_winograd_transform(const fc_winograd_source *source, int64_t g, int64_t start, int64_t end, char *result,
                           char *scratch)
{
    if (source->codes) {
        transform_pooled(source, start, end, result, scratch);
        return;
    }
    (source->nchw ? transform_nchw : transform_nhwc)(source, g, start, end, result, scratch);
}

int64_t fc_winograd_scratch(const fc_winograd_grid *grid, int64_t most)
{
    const int64_t height = (grid->band_rows - 1) * grid->tile_h + grid->alpha_h;
    const int64_t width = (min64(most, grid->tiles_w) - 1) * grid->tile_w + grid->alpha_w;
    return max64(grid->points * FC_WINOGRAD_PATCH, height * width * FC_LANES_MAX);
}

/* Rows split evenly: 16 are 8 + 8, not 14 + 2, so that no register tile is nearly empty. */
void fc_winograd_multiply(const fc_winograd_products *s)
{
    const int64_t nr = s->gemm->nr, pieces = ceil_div(s->tiles, s->gemm->mr);
    fc_gemm_args args = {.kc = s->depth, .taps = 1, .rs_a = s->v_row, .cs_a = 1, .rs_b = nr, .rs_c = s->m_row,
                         .terms = s->terms, .b_ahead = AHEAD_BYTES};
    for (int64_t point = 0; point < s->points; point++)
        for (int64_t o = 0; o < s->channels; o += nr) {
            args.n = s->channels - o <= s->lanes ? s->lanes : nr;
            args.b = s->u + (point * s->u_point + o * s->depth) * s->size;
            for (int64_t piece = 0; piece < pieces; piece++) {
                const int64_t row = s->tiles * piece / pieces;
                args.m = s->tiles * (piece + 1) / pieces - row;
                args.a = s->v + (point * s->v_point + row * s->v_row) * s->size;
                args.c = s->m + (point * s->m_point + row * s->m_row + o) * s->size;
                (args.n == nr ? s->gemm->product : s->gemm->run)(&args);
            }
        }
}
