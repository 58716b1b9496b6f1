/* In front of every file of csrc/avx512 (by compiler.py): the intrinsics of AVX-512 that csrc uses, lane by lane in plain C, so
 * that they compile for AVX2. Vectors of 64 bytes gcc splits by itself. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define _IMMINTRIN_H_INCLUDED /* gcc's <immintrin.h> without its AVX-512, whose names are taken here */
#include <nmmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>

/* By these csrc chooses assembly, which has no registers of 64 bytes here; its FMA follows, half by half. */
#undef __x86_64__
#undef __SSE2__
#undef __FMA__
#define __AVX512F__ 1

#include "template.h"
#undef FC_MULTIPLY_ADD
#define FC_MULTIPLY_ADD(acc, a, b) \
    do { \
        __typeof__(acc) a_ = (a), b_ = (b); \
        _Pragma("GCC unroll 2") for (unsigned half = 0; half < sizeof(acc) / 32; half++) \
        { \
            __m256 *const sum_ = (__m256 *)&(acc) + half; \
            const __m256 x_ = ((__m256 *)&a_)[half], y_ = ((__m256 *)&b_)[half]; \
            if (sizeof(acc[0]) == 4) \
                __asm__("vfmadd231ps %2, %1, %0" : "+x"(*sum_) : "x"(x_), "x"(y_)); \
            else \
                __asm__("vfmadd231pd %2, %1, %0" : "+x"(*sum_) : "x"(x_), "x"(y_)); \
        } \
    } while (0)

#define EMULATED static __attribute__((noinline, unused))
#define EACH_LANE(count) for (int l = 0; l < (count); l++)
#define EACH_LANE_OF(mask, count) EACH_LANE(count) if ((mask) >> l & 1)

typedef float __m512 __attribute__((vector_size(64), may_alias));
typedef double __m512d __attribute__((vector_size(64), may_alias));
typedef long long __m512i __attribute__((vector_size(64), may_alias));
typedef int32_t integers_32 __attribute__((vector_size(64), may_alias));
typedef int32_t half_32 __attribute__((vector_size(32), may_alias));
typedef uint8_t bytes_16 __attribute__((vector_size(16), may_alias));
typedef uint8_t __mmask8;
typedef uint16_t __mmask16;

/* ---- Loads, stores and choices by a mask: other lanes are not touched --------------------------------------------- */

#define BY_MASK(size, name, vector, element, lanes, mask) \
    EMULATED vector size##_mask_loadu_##name(vector r, mask m, const void *p) \
    { \
        EACH_LANE_OF(m, lanes) r[l] = ((const element *)p)[l]; \
        return r; \
    } \
    EMULATED vector size##_maskz_loadu_##name(mask m, const void *p) \
    { \
        return size##_mask_loadu_##name((vector){0}, m, p); \
    } \
    EMULATED void size##_mask_storeu_##name(void *p, mask m, vector v) \
    { \
        EACH_LANE_OF(m, lanes)((element *)p)[l] = v[l]; \
    } \
    EMULATED vector size##_mask_mov_##name(vector r, mask m, vector v) \
    { \
        EACH_LANE_OF(m, lanes) r[l] = v[l]; \
        return r; \
    }

BY_MASK(_mm256, ps, __m256, float, 8, __mmask8)
BY_MASK(_mm512, ps, __m512, float, 16, __mmask16)
BY_MASK(_mm512, pd, __m512d, double, 8, __mmask8)
BY_MASK(_mm512, epi64, __m512i, int64_t, 8, __mmask8)

EMULATED __m512i _mm512_mask_mov_epi32(__m512i r, __mmask16 m, __m512i v)
{
    EACH_LANE_OF(m, 16)((integers_32 *)&r)[0][l] = ((integers_32)v)[l];
    return r;
}

/* ---- Comparisons and maxima --------------------------------------------------------------------------------------- */

#define COMPARED(name, vector, type, lanes, mask) \
    EMULATED mask _mm512_cmp_##name##_mask(vector a, vector b, int how) \
    { \
        mask r = 0; \
        EACH_LANE(lanes) \
        { \
            if (how != _CMP_GT_OQ && how != _CMP_UNORD_Q) \
                __builtin_trap(); \
            r |= (mask)((how == _CMP_GT_OQ ? a[l] > b[l] : __builtin_isunordered(a[l], b[l])) << l); \
        } \
        return r; \
    } \
    EMULATED vector _mm512_max_##name(vector a, vector b) \
    { \
        EACH_LANE(lanes) a[l] = a[l] > b[l] ? a[l] : b[l]; /* the second of equal ones, and beside a NaN */ \
        return a; \
    }

COMPARED(ps, __m512, float, 16, __mmask16)
COMPARED(pd, __m512d, double, 8, __mmask8)

EMULATED __mmask16 _mm512_cmpeq_epi32_mask(__m512i a, __m512i b)
{
    __mmask16 r = 0;
    EACH_LANE(16) r |= (__mmask16)((((integers_32)a)[l] == ((integers_32)b)[l]) << l);
    return r;
}

EMULATED __mmask8 _mm512_cmpeq_epi64_mask(__m512i a, __m512i b)
{
    __mmask8 r = 0;
    EACH_LANE(8) r |= (__mmask8)((a[l] == b[l]) << l);
    return r;
}

/* ---- Between sizes ------------------------------------------------------------------------------------------------ */

EMULATED __m512i _mm512_set1_epi64(long long value)
{
    return value - (__m512i){0};
}

EMULATED __m256i _mm512_cvtsepi64_epi32(__m512i v)
{
    half_32 r;
    EACH_LANE(8) r[l] = v[l] > INT32_MAX ? INT32_MAX : v[l] < INT32_MIN ? INT32_MIN : (int32_t)v[l];
    return (__m256i)r;
}

EMULATED __m512i _mm512_cvtepi32_epi64(__m256i v)
{
    __m512i r;
    EACH_LANE(8) r[l] = ((half_32)v)[l];
    return r;
}

EMULATED __m512i _mm512_cvtepu8_epi32(__m128i v)
{
    integers_32 r;
    EACH_LANE(16) r[l] = ((bytes_16)v)[l];
    return (__m512i)r;
}

EMULATED __m512i _mm512_cvtepu8_epi64(__m128i v)
{
    __m512i r;
    EACH_LANE(8) r[l] = ((bytes_16)v)[l];
    return r;
}

EMULATED __m128i _mm512_cvtepi32_epi8(__m512i v)
{
    bytes_16 r;
    EACH_LANE(16) r[l] = (uint8_t)((integers_32)v)[l];
    return (__m128i)r;
}

EMULATED __m128i _mm512_cvtepi64_epi8(__m512i v)
{
    bytes_16 r = {0};
    EACH_LANE(8) r[l] = (uint8_t)v[l];
    return (__m128i)r;
}

/* ---- Halves ------------------------------------------------------------------------------------------------------- */

#define HALVES(whole, half, cast, insert) \
    EMULATED whole cast(half v) \
    { \
        whole r; \
        memset(&r, 0xff, sizeof r); /* the upper half is undefined: NaN or -1, so that nobody relies on it */ \
        memcpy(&r, &v, sizeof v); \
        return r; \
    } \
    EMULATED whole insert(whole r, half v, int at) \
    { \
        memcpy((half *)&r + (at & 1), &v, sizeof v); \
        return r; \
    }

HALVES(__m512, __m256, _mm512_castps256_ps512, _mm512_insertf32x8)
HALVES(__m512d, __m256d, _mm512_castpd256_pd512, _mm512_insertf64x4)
HALVES(__m512i, __m256i, _mm512_castsi256_si512, _mm512_inserti64x4)

EMULATED __m256i _mm512_extracti64x4_epi64(__m512i v, int at)
{
    return ((__m256i *)&v)[at & 1];
}

EMULATED __m256i _mm512_castsi512_si256(__m512i v)
{
    return _mm512_extracti64x4_epi64(v, 0);
}
