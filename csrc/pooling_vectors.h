/* Part of the template pooling_tile.h: its vectors, and what is done with one of them. */

typedef T V __attribute__((vector_size(sizeof(T) * L), aligned(sizeof(T)), may_alias));
typedef INT I __attribute__((vector_size(sizeof(T) * L), aligned(sizeof(T)), may_alias));
#ifdef FC_POOL_MASK
typedef FC_POOL_MASK M; /* a bit a lane */
#else
typedef I M; /* -1 or 0 in each lane */
#endif

#define IOTA ((I){FC_POOL_IOTA})
#define SPLAT(value) ((T)(value) - (V){0})
#define SPLAT_INT(value) ((I){0} + (INT)(value))
#define LOWEST SPLAT(-INFINITY)

/* The first n lanes from memory, the others from fill. */
FC_INLINE V P(load)(const T *p, int n, V fill)
{
    if (n == L)
        return *(const V *)p;
#ifdef FC_POOL_LOAD_PART
    return (V)FC_POOL_LOAD_PART(p, n, fill);
#else
    for (int l = 0; l < n; l++)
        fill[l] = p[l];
    return fill;
#endif
}

FC_INLINE void P(store)(T *p, V v, int n)
{
    if (n == L) {
        *(V *)p = v;
        return;
    }
#ifdef FC_POOL_STORE_PART
    FC_POOL_STORE_PART(p, n, v);
#else
    for (int l = 0; l < n; l++)
        p[l] = v[l];
#endif
}

FC_INLINE void P(zero)(T *p, int64_t n)
{
    for (int64_t i = 0; i < n; i += L)
        P(store)(p + i, (V){0}, (int)min64(L, n - i));
}

#ifdef FC_POOL_MASK
FC_INLINE M P(greater)(V a, V b) { return FC_POOL_GREATER(a, b); }
FC_INLINE M P(equal)(I a, I b) { return FC_POOL_EQUAL(a, b); }
FC_INLINE M P(is_nan)(V v) { return FC_POOL_IS_NAN(v); }
FC_INLINE V P(pick)(M mask, V yes, V no) { return (V)FC_POOL_PICK(mask, yes, no); }
FC_INLINE I P(pick_index)(M mask, I yes, I no) { return (I)FC_POOL_PICK_INDEX(mask, yes, no); }
FC_INLINE M P(lanes_below)(int n) { return FC_POOL_LANES_BELOW(n); }
FC_INLINE int P(any)(M mask) { return mask != 0; }
#else
FC_INLINE M P(greater)(V a, V b) { return (M)(a > b); }
FC_INLINE M P(equal)(I a, I b) { return a == b; }
FC_INLINE M P(is_nan)(V v) { return (M)(v != v); }
FC_INLINE I P(pick_index)(M mask, I yes, I no) { return (mask & yes) | (~mask & no); }
FC_INLINE V P(pick)(M mask, V yes, V no) { return (V)P(pick_index)(mask, (I)yes, (I)no); }
FC_INLINE M P(lanes_below)(int n) { return IOTA < (INT)n; }
FC_INLINE int P(any)(M mask)
{
    INT some = 0;
    for (int l = 0; l < L; l++)
        some |= mask[l];
    return some != 0;
}
#endif

FC_INLINE V P(keep)(M mask, V v) { return P(pick)(mask, v, (V){0}); }

/* Of numbers; best stays where both are equal. */
FC_INLINE V P(maximum)(V best, V v)
{
#ifdef FC_POOL_MAXIMUM
    return (V)FC_POOL_MAXIMUM(best, v);
#else
    return P(pick)(P(greater)(v, best), v, best);
#endif
}

/* The larger of both, a NaN of either before any number. */
FC_INLINE V P(larger)(V best, V v)
{
    return P(pick)(P(greater)(v, best) | P(is_nan)(v), v, best);
}

/* The same with the index it came from; best stays where both are equal, v wins where both are NaN. */
FC_INLINE void P(take_larger)(const int numbers, V *best, I *where, V v, I index)
{
    M wins = P(greater)(v, *best);
    if (!numbers)
        wins |= P(is_nan)(v);
    *best = numbers ? P(maximum)(*best, v) : P(pick)(wins, v, *best);
    *where = P(pick_index)(wins, index, *where);
}

FC_INLINE V P(combine)(const int op, const int numbers, V a, V b)
{
    if (op == FC_AVG_POOL)
        return a + b;
    return numbers ? P(maximum)(a, b) : P(larger)(a, b);
}

FC_INLINE V P(identity)(const int op) { return SPLAT(op == FC_MAX_POOL ? -INFINITY : 0); }

/* What a sum is multiplied by: one rounding more than a quotient, a tenth of its time. */
FC_INLINE T P(inverse)(int64_t divisor)
{
    return (T)(1.0 / (double)divisor);
}

FC_INLINE void P(store_indices)(int64_t *p, I where, int n)
{
#ifdef FC_POOL_STORE_INDICES
    FC_POOL_STORE_INDICES(p, where, n);
#else
    INT lanes[L];
    memcpy(lanes, &where, sizeof lanes);
    for (int l = 0; l < n; l++)
        p[l] = lanes[l];
#endif
}

/* Lanes past n, and those with an index that does not fit, hold no cell. */
FC_INLINE I P(load_indices)(const int64_t *p, int n)
{
#ifdef FC_POOL_LOAD_INDICES
    return (I)FC_POOL_LOAD_INDICES(p, n);
#else
    INT lanes[L];
    for (int l = 0; l < L; l++)
        lanes[l] = l < n && p[l] == (INT)p[l] ? (INT)p[l] : -1;
    I where;
    memcpy(&where, lanes, sizeof lanes);
    return where;
#endif
}

/* p[0], p[stride], ..., n of them. For a stride of 2 and n = L reads p[2 L - 1] too. */
FC_INLINE V P(load_strided)(const T *p, int64_t stride, int n)
{
    if (stride == 1)
        return *(const V *)p;
    if (stride == 2)
        return __builtin_shuffle(*(const V *)p, *(const V *)(p + L), 2 * IOTA);
    T lanes[L] = {0};
    for (int l = 0; l < n; l++)
        lanes[l] = p[l * stride];
    V v;
    memcpy(&v, lanes, sizeof v);
    return v;
}

/* Writes even[0], odd[0], even[1], ...: 2 n elements. */
FC_INLINE void P(store_interleaved)(T *p, V even, V odd, int64_t n)
{
    const I low = (IOTA >> 1) + (IOTA & 1) * L;
    P(store)(p, __builtin_shuffle(even, odd, low), (int)min64(n, L));
    if (n > L)
        P(store)(p + L, __builtin_shuffle(even, odd, low + L / 2), (int)(n - L));
}

/* All lanes combined, in all lanes. */
FC_INLINE V P(reduce)(const int op, const int numbers, V v)
{
    for (int half = L / 2; half > 0; half /= 2)
        v = P(combine)(op, numbers, v, __builtin_shuffle(v, IOTA ^ half));
    return v;
}

/* acc combined with n contiguous elements. */
FC_INLINE V P(segment)(const int op, const int numbers, V acc, const T *p, int64_t n)
{
    if (n >= 4 * L) {
        V a1 = P(identity)(op), a2 = a1, a3 = a1;
        for (; n >= 4 * L; n -= 4 * L, p += 4 * L) {
            acc = P(combine)(op, numbers, acc, *(const V *)p);
            a1 = P(combine)(op, numbers, a1, *(const V *)(p + L));
            a2 = P(combine)(op, numbers, a2, *(const V *)(p + 2 * L));
            a3 = P(combine)(op, numbers, a3, *(const V *)(p + 3 * L));
        }
        acc = P(combine)(op, numbers, P(combine)(op, numbers, acc, a1), P(combine)(op, numbers, a2, a3));
    }
    for (; n >= L; n -= L, p += L)
        acc = P(combine)(op, numbers, acc, *(const V *)p);
    if (n > 0)
        acc = P(combine)(op, numbers, acc, P(load)(p, (int)n, P(identity)(op)));
    return acc;
}

/* Whether a NaN is among n contiguous elements; also, needlessly, where both infinities are. */
static int P(has_nan)(const T *p, int64_t n)
{
    return P(any)(P(is_nan)(P(segment)(FC_AVG_POOL, 1, (V){0}, p, n)));
}

/* iw elements: the first L of them and, if nv is 2, the last L. Whole: L of them may be read even if iw is less. */
FC_INLINE void P(load_row)(const T *row, int64_t iw, int whole, V *low, V *high, const int nv)
{
    *low = whole ? *(const V *)row : P(load)(row, (int)iw, (V){0});
    *high = nv == 2 ? *(const V *)(row + iw - L) : *low;
}
