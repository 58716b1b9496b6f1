/* Part of the template pooling_tile.h: the forward pass in NCHW, windows of 2x2 at a stride of 2. */

/* 2x2, stride 2: n outputs, at most L, from rows a and b of the input; index: the flat one of a[0]; even: the lanes of
 * a[0], a[2], ... in the two vectors of load_row. */
FC_INLINE void P(vector_2x2)(const int op, const int indexed, const T *a, const T *b, T inverse, T *y,
                             int64_t *indices, INT index, int64_t iw, I even, int whole, V *seen, const int n,
                             const int nv)
{
    V a0, a1, b0, b1, result;
    P(load_row)(a, 2 * n, whole, &a0, &a1, nv);
    P(load_row)(b, 2 * n, whole, &b0, &b1, nv);
    if (indexed) {
        const I corner = SPLAT_INT(index) + 2 * IOTA;
        I where = corner, below = corner + SPLAT_INT(iw);
        V lower = __builtin_shuffle(b0, b1, even);
        result = __builtin_shuffle(a0, a1, even);
        P(take_larger)(1, &result, &where, __builtin_shuffle(a0, a1, even + 1), corner + 1);
        P(take_larger)(1, &lower, &below, __builtin_shuffle(b0, b1, even + 1), corner + SPLAT_INT(iw + 1));
        P(take_larger)(1, &result, &where, lower, below);
        P(store_indices)(indices, where, n);
    } else {
        const V c0 = P(combine)(op, 1, a0, b0), c1 = nv == 2 ? P(combine)(op, 1, a1, b1) : c0;
        result = P(combine)(op, 1, __builtin_shuffle(c0, c1, even), __builtin_shuffle(c0, c1, even + 1));
    }
    if (op == FC_AVG_POOL)
        result *= SPLAT(inverse);
    else /* what lies behind a row of less than a vector is no cell of it, but a NaN there costs only time */
        *seen += nv == 2 ? (a0 + b0) + (a1 + b1) : a0 + b0;
    P(store)(y, result, n);
}

/* One plane; returns the sum of what it saw. The last vector of a row overlaps the one before it. */
FC_INLINE V P(plane_of_2x2)(const int op, const int indexed, const fc_pool2d_shape *s, const T *x,
                            const T *end, T inverse, T *y, int64_t *indices)
{
    V seen = {0};
    const int n = (int)min64(L, s->ow);
    const I even = 2 * IOTA + ((IOTA >= L / 2) & SPLAT_INT(2 * L - 2 * n));
    for (int64_t i = 0; i < s->oh; i++, x += 2 * s->iw, y += s->ow, indices += indexed ? s->ow : 0) {
        const T *below = x + s->iw;
        const INT index = (INT)(2 * i * s->iw);
        if (n <= L / 2) {
            P(vector_2x2)(op, indexed, x, below, inverse, y, indices, index, s->iw, 2 * IOTA,
                          below + L <= end, &seen, n, 1);
        } else if (n < L) {
            P(vector_2x2)(op, indexed, x, below, inverse, y, indices, index, s->iw, even, 1, &seen, n, 2);
        } else {
            for (int64_t next = 0; next < s->ow; next += L) {
                const int64_t o = min64(next, s->ow - L);
                P(vector_2x2)(op, indexed, x + 2 * o, below + 2 * o, inverse, y + o,
                              indexed ? indices + o : NULL, index + (INT)(2 * o), s->iw, 2 * IOTA, 1, &seen, L, 2);
            }
        }
    }
    return seen;
}

FC_INLINE void P(planes_2x2)(const int op, const int indexed, const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const fc_pool2d_shape *s = args->shape;
    const T inverse = P(inverse)(s->divisor_override ? s->divisor_override : 4);
    const T *input_end = (const T *)args->in + s->mb * s->c * s->ih * s->iw;
    for (int64_t plane = begin; plane < end; plane++) {
        const T *x = (const T *)args->in + plane * s->ih * s->iw;
        T *y = (T *)args->out + plane * s->oh * s->ow;
        int64_t *indices = indexed ? args->indices + plane * s->oh * s->ow : NULL;
        const V seen = P(plane_of_2x2)(op, indexed, s, x, input_end, inverse, y, indices);
        if (op == FC_MAX_POOL && P(any)(P(is_nan)(seen)))
            P(careful)(s, x, y, indices, (range){0, s->oh}, (range){0, s->ow});
    }
}
