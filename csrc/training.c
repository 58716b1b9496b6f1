/* What a training step does between convolutions: masks and bias gradients, cross-entropy, updates of flat parameters. Each
 * is one pass over its arrays; the same bits for any number of threads. */
#include "numbers.h"

#include <math.h>
#include <string.h>

enum {
    CHUNK = 1 << 14,        /* elements of one task of an update: 64 KB of each array */
    ROW_TASKS = 16,         /* of a bias gradient, whose sums are added in order */
    SMALL_ELEMENTS = 1 << 15, /* fewer are one thread's */
};

/* ---- Masks and bias gradients -------------------------------------------------------------------------------- */

typedef struct relu_job {
    int dtype;
    int64_t rows, channels;
    char *dy, *sums;
    const char *y;
} relu_job;

#define FC_RELU_ROWS(name, type) \
    static void name(int64_t rows, int64_t channels, type *restrict dy, const type *restrict y, type *restrict sums, \
                     type *restrict part) \
    { \
        for (int64_t row = 0; row < rows;) { \
            const int64_t end = min64(rows, row + FC_SUM_TERMS); \
            for (int64_t c = 0; sums && c < channels; c++) \
                part[c] = 0; \
            for (; row < end; row++, dy += channels, y += y ? channels : 0) { \
                for (int64_t c = 0; y && c < channels; c++) \
                    dy[c] = y[c] > 0 ? dy[c] : 0; \
                for (int64_t c = 0; sums && c < channels; c++) \
                    part[c] += dy[c]; \
            } \
            for (int64_t c = 0; sums && c < channels; c++) \
                sums[c] += part[c]; \
        } \
    }

FC_RELU_ROWS(relu_rows_f32, float)
FC_RELU_ROWS(relu_rows_f64, double)

static void relu_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const relu_job *j = ctx;
    const int64_t size = element_size(j->dtype), n = j->channels;
    const int64_t start = j->rows * task / ROW_TASKS, count = j->rows * (task + 1) / ROW_TASKS - start;
    char *const sums = j->sums ? j->sums + 2 * task * n * size : NULL;
    if (sums)
        memset(sums, 0, (size_t)(n * size));
    void *const dy = j->dy + start * n * size;
    const void *const y = j->y ? j->y + start * n * size : NULL;
    if (j->dtype == FC_F32)
        relu_rows_f32(count, n, dy, y, (float *)sums, (float *)sums + (sums ? n : 0));
    else
        relu_rows_f64(count, n, dy, y, (double *)sums, (double *)sums + (sums ? n : 0));
}

int64_t fc_relu_backward_workspace(int dtype, int64_t channels)
{
    return 2 * ROW_TASKS * channels * element_size(dtype);
}

void fc_relu_backward(int dtype, int64_t rows, int64_t channels, void *dy, const void *y, void *db, void *workspace,
                      int threads)
{
    relu_job j = {dtype, rows, channels, dy, db ? workspace : NULL, y};
    fc_parallel_for(ROW_TASKS, rows * channels < SMALL_ELEMENTS ? 1 : threads, relu_task, &j);
    for (int64_t c = 0; db && c < channels; c++)
        set_element(dtype, db, c, sum_of_tasks(dtype, workspace, c, ROW_TASKS, 2 * channels));
}

/* ---- Cross-entropy ------------------------------------------------------------------------------------------- */

double fc_softmax_cross_entropy(int dtype, int64_t rows, int64_t classes, const void *z, const int64_t *labels, void *dz,
                                int64_t *correct)
{
    double total = 0;
    *correct = 0;
    for (int64_t row = 0; row < rows; row++) {
        const int64_t at = row * classes;
        int64_t best = 0;
        double largest = element(dtype, z, at), sum = 0;
        for (int64_t c = 1; c < classes; c++) {
            const double value = element(dtype, z, at + c);
            if (value > largest || (value != value && largest == largest)) {
                largest = value;
                best = c;
            }
        }
        for (int64_t c = 0; c < classes; c++)
            sum += exp(element(dtype, z, at + c) - largest);
        *correct += best == labels[row];
        total -= element(dtype, z, at + labels[row]) - largest - log(sum);
        for (int64_t c = 0; dz && c < classes; c++) {
            const double share = exp(element(dtype, z, at + c) - largest) / sum;
            set_element(dtype, dz, at + c, (share - (c == labels[row])) / (double)rows);
        }
    }
    return total;
}

/* ---- Updates ------------------------------------------------------------------------------------------------- */

#define FC_UPDATES(suffix, type, root) \
    static void sgd_##suffix(const fc_update *u, int64_t n, type *restrict w, const type *restrict g, type *restrict m, \
                             type *restrict unused) \
    { \
        const type rate = (type)u->rate, momentum = (type)u->first; \
        (void)unused; \
        if (!m) \
            for (int64_t i = 0; i < n; i++) \
                w[i] -= rate * g[i]; \
        else if (u->nesterov) \
            for (int64_t i = 0; i < n; i++) { \
                m[i] = momentum * m[i] - rate * g[i]; \
                w[i] += momentum * m[i] - rate * g[i]; \
            } \
        else \
            for (int64_t i = 0; i < n; i++) { \
                m[i] = momentum * m[i] - rate * g[i]; \
                w[i] += m[i]; \
            } \
    } \
    static void rmsprop_##suffix(const fc_update *u, int64_t n, type *restrict w, const type *restrict g, type *restrict v, \
                                 type *restrict m) \
    { \
        const type rate = (type)u->rate, rho = (type)u->first, left = (type)(1 - u->first), epsilon = (type)u->epsilon; \
        const type momentum = (type)u->second; \
        for (int64_t i = 0; i < n; i++) \
            v[i] = rho * v[i] + left * (g[i] * g[i]); \
        if (!m) \
            for (int64_t i = 0; i < n; i++) \
                w[i] -= rate * (g[i] / root(v[i] + epsilon)); \
        else \
            for (int64_t i = 0; i < n; i++) { \
                m[i] = momentum * m[i] + rate * (g[i] / root(v[i] + epsilon)); \
                w[i] -= m[i]; \
            } \
    } \
    static void adam_##suffix(const fc_update *u, int64_t n, type *restrict w, const type *restrict g, type *restrict m, \
                              type *restrict v) \
    { \
        const type rate = (type)u->rate, left_1 = (type)(1 - u->first), left_2 = (type)(1 - u->second); \
        const type epsilon = (type)u->epsilon; \
        for (int64_t i = 0; i < n; i++) { \
            m[i] += left_1 * (g[i] - m[i]); \
            v[i] += left_2 * (g[i] * g[i] - v[i]); \
            w[i] -= rate * (m[i] / (root(v[i]) + epsilon)); \
        } \
    }

FC_UPDATES(f32, float, sqrtf)
FC_UPDATES(f64, double, sqrt)

#define FC_UPDATE_TASK(suffix, type) \
    static void update_task_##suffix(void *ctx, int64_t task, int worker) \
    { \
        static void (*const rules[])(const fc_update *, int64_t, type *, const type *, type *, type *) = { \
            [FC_SGD] = sgd_##suffix, [FC_RMSPROP] = rmsprop_##suffix, [FC_ADAM] = adam_##suffix}; \
        const fc_update *u = ctx; \
        const int64_t at = task * CHUNK; \
        (void)worker; \
        rules[u->rule](u, min64(CHUNK, u->size - at), (type *)u->w + at, (const type *)u->g + at, \
                       u->slots[0] ? (type *)u->slots[0] + at : NULL, u->slots[1] ? (type *)u->slots[1] + at : NULL); \
    }

FC_UPDATE_TASK(f32, float)
FC_UPDATE_TASK(f64, double)

void fc_update_parameters(const fc_update *update, int threads)
{
    fc_parallel_for(ceil_div(update->size, CHUNK), update->size < SMALL_ELEMENTS ? 1 : threads,
                    update->dtype == FC_F32 ? update_task_f32 : update_task_f64, (void *)update);
}
