/* Images through affine maps, bilinear: what makes the next batch ready while a training step runs. */
#include "numbers.h"

/* Cells outside count as 0, so a place that is outside by one or more gives 0 however far it is. */
#define FC_AFFINE(suffix, type) \
    static inline __attribute__((always_inline)) void image_##suffix(int64_t h, int64_t w, int64_t c, const type *restrict x, \
                                                                     const double *map, type *restrict y) \
    { \
        const type m[6] = {(type)map[0], (type)map[1], (type)map[2], (type)map[3], (type)map[4], (type)map[5]}; \
        for (int64_t i = 0; i < h; i++) \
            for (int64_t j = 0; j < w; j++, y += c) { \
                type row = m[0] * (type)i + m[1] * (type)j + m[2], column = m[3] * (type)i + m[4] * (type)j + m[5]; \
                row = row > -1 ? row < (type)h ? row : (type)h : -1; /* NaN is outside, too */ \
                column = column > -1 ? column < (type)w ? column : (type)w : -1; \
                const int64_t top = (int64_t)(row + 1) - 1, left = (int64_t)(column + 1) - 1; \
                const type down = row - (type)top, right = column - (type)left; \
                const type *const at = x + (top * w + left) * c; \
                if (top >= 0 && top + 1 < h && left >= 0 && left + 1 < w) { \
                    for (int64_t k = 0; k < c; k++) { \
                        const type upper = at[k] * (1 - right) + at[k + c] * right; \
                        const type lower = at[k + w * c] * (1 - right) + at[k + w * c + c] * right; \
                        y[k] = upper * (1 - down) + lower * down; \
                    } \
                    continue; \
                } \
                const int above = top >= 0 && top < h, below = top + 1 < h; \
                const int before = left >= 0 && left < w, after = left + 1 < w; \
                for (int64_t k = 0; k < c; k++) { \
                    const type a = above && before ? at[k] : 0, b = above && after ? at[k + c] : 0; \
                    const type d = below && before ? at[k + w * c] : 0, e = below && after ? at[k + w * c + c] : 0; \
                    const type upper = a * (1 - right) + b * right, lower = d * (1 - right) + e * right; \
                    y[k] = upper * (1 - down) + lower * down; \
                } \
            } \
    } \
    static void affine_##suffix(int64_t h, int64_t w, int64_t c, const type *x, const double *map, type *y) \
    { \
        if (c == 1) /* for most sets of small images: no loop over channels */ \
            image_##suffix(h, w, 1, x, map, y); \
        else \
            image_##suffix(h, w, c, x, map, y); \
    }

FC_AFFINE(f32, float)
FC_AFFINE(f64, double)

void fc_affine_images(int dtype, int64_t n, int64_t h, int64_t w, int64_t c, const void *x, const double *maps, void *y)
{
    const int64_t size = h * w * c;
    for (int64_t image = 0; image < n; image++) {
        if (dtype == FC_F32)
            affine_f32(h, w, c, (const float *)x + image * size, maps + 6 * image, (float *)y + image * size);
        else
            affine_f64(h, w, c, (const double *)x + image * size, maps + 6 * image, (double *)y + image * size);
    }
}
