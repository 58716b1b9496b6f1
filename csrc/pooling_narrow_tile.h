/* Part of the template pooling_tile.h: the forward pass in NCHW, rows of at most two vectors. */

/* The windows along a row that fits two vectors: which lanes to pick for each tap of each output. A window of fewer
 * taps than others repeats its last cell. */
typedef struct P(picks) {
    int taps, vectors, n;        /* taps of the longest window; output vectors, each of n outputs */
    int64_t output[2];           /* the first output of each vector: they may overlap */
    I lane[2][TAPS], cell[2][TAPS]; /* of the two vectors of a row; input column */
    M inside[2][TAPS];           /* not repeated */
    V counted[2], inverse[2];    /* the divisors' column part; of the whole, for the rows counted last */
    int64_t rows_counted;
} P(picks);

FC_NOINLINE void P(pick_lanes)(P(picks) *p, const fc_pool2d_shape *s, const windows *along)
{
    p->taps = 1;
    p->rows_counted = 0;
    p->vectors = s->ow > L ? 2 : 1;
    p->n = (int)min64(L, s->ow);
    p->output[0] = 0;
    p->output[1] = s->ow - p->n;
    for (int v = 0; v < p->vectors; v++) {
        INT lanes[TAPS][L], cells[TAPS][L], inside[TAPS][L];
        T counted[L];
        for (int l = 0; l < L; l++) {
            const window w = kept_window(along, p->output[v] + min64(l, p->n - 1));
            const int taps = (int)((w.end - w.first + w.step - 1) / w.step);
            if (taps > p->taps)
                p->taps = taps;
            counted[l] = (T)w.counted;
            for (int k = 0; k < TAPS; k++) {
                const int64_t j = w.first + (k < taps ? k : taps - 1) * w.step;
                cells[k][l] = (INT)j;
                lanes[k][l] = (INT)(j < L ? j : j + 2 * L - s->iw);
                inside[k][l] = k < taps;
            }
        }
        memcpy(&p->counted[v], counted, sizeof counted);
        p->inverse[v] = SPLAT(s->divisor_override ? P(inverse)(s->divisor_override) : 0);
        memcpy(p->lane[v], lanes, sizeof lanes);
        memcpy(p->cell[v], cells, sizeof cells);
        for (int k = 0; k < TAPS; k++) {
            I real;
            memcpy(&real, inside[k], sizeof real);
            p->inside[v][k] = P(equal)(real, SPLAT_INT(1));
        }
    }
}

FC_INLINE V P(picked)(V low, V high, I lane, const int nv)
{
    return nv == 2 ? __builtin_shuffle(low, high, lane) : __builtin_shuffle(low, lane);
}

/* One row of output. */
FC_INLINE void P(narrow_row)(const int op, const int indexed, const fc_pool2d_shape *s, const P(picks) *p, const T *x,
                             window rows, int whole, T *y, int64_t *indices, const int nv, const int taps)
{
    V low, high;
    if (indexed) {
        for (int v = 0; v < p->vectors; v++) {
            V best = {0};
            I where = {0};
            for (int64_t i = rows.first; i < rows.end; i += rows.step) {
                const I row = SPLAT_INT(i * s->iw);
                P(load_row)(x + i * s->iw, s->iw, whole, &low, &high, nv);
                if (i == rows.first) {
                    best = P(picked)(low, high, p->lane[v][0], nv);
                    where = row + p->cell[v][0];
                }
                for (int k = 0; k < taps; k++)
                    P(take_larger)(1, &best, &where, P(picked)(low, high, p->lane[v][k], nv), row + p->cell[v][k]);
            }
            P(store)(y + p->output[v], best, p->n);
            P(store_indices)(indices + p->output[v], where, p->n);
        }
        return;
    }
    P(load_row)(x + rows.first * s->iw, s->iw, whole, &low, &high, nv);
    for (int64_t i = rows.first + rows.step; i < rows.end; i += rows.step) {
        V low1, high1;
        P(load_row)(x + i * s->iw, s->iw, whole, &low1, &high1, nv);
        low = P(combine)(op, 1, low, low1);
        if (nv == 2)
            high = P(combine)(op, 1, high, high1);
    }
    for (int v = 0; v < p->vectors; v++) {
        V acc = P(picked)(low, high, p->lane[v][0], nv);
        for (int k = 1; k < taps; k++) {
            const V tap = P(picked)(low, high, p->lane[v][k], nv);
            acc = P(combine)(op, 1, acc, op == FC_AVG_POOL ? P(keep)(p->inside[v][k], tap) : tap);
        }
        if (op == FC_AVG_POOL)
            acc *= p->inverse[v];
        P(store)(y + p->output[v], acc, p->n);
    }
}

/* Two rows of output of windows of 3x3 at a stride of 1 down: x is the first of four rows that all lie inside. */
FC_INLINE void P(narrow_pair)(const int op, const fc_pool2d_shape *s, const P(picks) *p, const T *x, T *y,
                              const int nv)
{
    V low[4], high[4];
    for (int i = 0; i < 4; i++)
        P(load_row)(x + i * s->iw, s->iw, 1, &low[i], &high[i], nv);
    const V middle = P(combine)(op, 1, low[1], low[2]), middle1 = P(combine)(op, 1, high[1], high[2]);
    for (int i = 0; i < 2; i++) {
        low[i] = P(combine)(op, 1, middle, low[3 * i]);
        high[i] = P(combine)(op, 1, middle1, high[3 * i]);
    }
    for (int v = 0; v < p->vectors; v++)
        for (int i = 0; i < 2; i++) {
            V acc = P(picked)(low[i], high[i], p->lane[v][0], nv);
            for (int k = 1; k < 3; k++) {
                const V tap = P(picked)(low[i], high[i], p->lane[v][k], nv);
                acc = P(combine)(op, 1, acc, op == FC_AVG_POOL ? P(keep)(p->inside[v][k], tap) : tap);
            }
            if (op == FC_AVG_POOL)
                acc *= p->inverse[v];
            P(store)(y + i * s->ow + p->output[v], acc, p->n);
        }
}

FC_INLINE void P(narrow_plane)(const int op, const int indexed, const fc_pool2d_args *args, P(picks) *p,
                               const windows *down, int64_t plane, const int nv)
{
    const fc_pool2d_shape *s = args->shape;
    const int64_t outputs = s->oh * s->ow;
    /* Rows from `careful` on end less than a vector before the end of the input. */
    const int64_t left = (s->mb * s->c - plane) * s->ih * s->iw;
    const int64_t careful = left >= s->ih * s->iw + L ? s->ih : left < L ? 0 : (left - L) / s->iw + 1;
    const T *x = (const T *)args->in + plane * s->ih * s->iw;
    T *y = (T *)args->out + plane * outputs;
    int64_t *indices = indexed ? args->indices + plane * outputs : NULL;
    const int pairs = !s->adaptive && s->kh == 3 && s->sh == 1 && s->dh == 1;
    for (int64_t i = 0; i < s->oh; i++, y += s->ow, indices += indexed ? s->ow : 0) {
        const window rows = kept_window(down, i);
        if (op == FC_AVG_POOL && !s->divisor_override && rows.counted != p->rows_counted) {
            p->rows_counted = rows.counted;
            for (int v = 0; v < p->vectors; v++)
                p->inverse[v] = 1 / (p->counted[v] * SPLAT(rows.counted));
        }
        const int whole = nv == 2 || rows.end <= careful;
        if (!indexed && p->taps == 3 && pairs && rows.end - rows.first == 3 && i + 1 < s->oh && rows.end < s->ih &&
            (nv == 2 || rows.end < careful)) {
            P(narrow_pair)(op, s, p, x + rows.first * s->iw, y, nv);
            i++;
            y += s->ow;
        } else if (p->taps == 3)
            P(narrow_row)(op, indexed, s, p, x, rows, whole, y, indices, nv, 3);
        else
            P(narrow_row)(op, indexed, s, p, x, rows, whole, y, indices, nv, p->taps);
    }
}

/* Planes begin..end of rows of at most nv vectors. */
FC_INLINE void P(narrow)(const int op, const int indexed, const fc_pool2d_args *args, int64_t begin, int64_t end,
                         const int nv)
{
    const fc_pool2d_shape *s = args->shape;
    const int64_t cells = s->ih * s->iw;
    windows down, along;
    keep_windows(&down, rows_of(s));
    keep_windows(&along, columns_of(s));
    P(picks) p;
    P(pick_lanes)(&p, s, &along);
    for (int64_t plane = begin; plane < end; plane++) {
        const T *x = (const T *)args->in + plane * cells;
        const int64_t at = plane * s->oh * s->ow;
        if (op == FC_MAX_POOL && P(has_nan)(x, cells))
            P(careful)(s, x, (T *)args->out + at, indexed ? args->indices + at : NULL, (range){0, s->oh},
                       (range){0, s->ow});
        else
            P(narrow_plane)(op, indexed, args, &p, &down, plane, nv);
    }
}
