/* Template of pooled cells as vectors, a lane a channel: their codes (csrc/conv_pool.h) from and to bytes, and the maximum of
 * four sums. Before including, define
 *   FC_WINNER_NAME    a prefix of what is defined: NAME_vector, NAME_integers, NAME_load, NAME_store, NAME_of
 *   FC_WINNER_TYPE    float or double
 *   FC_WINNER_INT     the signed integer of its size
 *   FC_WINNER_LANES   elements of a vector
 * gcc 12 converts between bytes and wider integers lane by lane, and knows no maximum of vectors: hence the instructions. */
#include "conv_pool.h"
#include "template.h"

#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define W(suffix) FC_JOIN(FC_WINNER_NAME, suffix)
#define WV W(_vector)
#define WI W(_integers)
#define WB W(_bytes)
#define WBYTES (FC_WINNER_LANES * sizeof(FC_WINNER_TYPE))

typedef FC_WINNER_TYPE WV __attribute__((vector_size(WBYTES), aligned(sizeof(FC_WINNER_TYPE)), may_alias));
typedef FC_WINNER_INT WI __attribute__((vector_size(WBYTES), aligned(sizeof(FC_WINNER_TYPE)), may_alias));
typedef uint8_t WB __attribute__((vector_size(FC_WINNER_LANES), aligned(1), may_alias));

FC_INLINE WI W(_load)(const uint8_t *p)
{
#if defined(__AVX512F__) && FC_WINNER_LANES == 16
    return (WI)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(__AVX512F__) && FC_WINNER_LANES == 8
    return (WI)_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)p));
#elif defined(__AVX2__) && FC_WINNER_LANES == 8
    return (WI)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#elif defined(__AVX2__) && FC_WINNER_LANES == 4
    int32_t four;
    memcpy(&four, p, sizeof four);
    return (WI)_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
#else
    WB bytes;
    memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(bytes, WI);
#endif
}

FC_INLINE void W(_store)(uint8_t *p, WI codes)
{
#if defined(__AVX512F__) && FC_WINNER_LANES == 16
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)codes));
#elif defined(__AVX512F__) && FC_WINNER_LANES == 8
    _mm_storel_epi64((__m128i *)p, _mm512_cvtepi64_epi8((__m512i)codes));
#elif defined(__AVX2__) && FC_WINNER_LANES == 8
    const __m256i all = (__m256i)codes;
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
#else
    const WB bytes = __builtin_convertvector(codes, WB);
    memcpy(p, &bytes, sizeof bytes);
#endif
}

FC_INLINE WI W(_pick)(WI mask, WI yes, WI no)
{
    return (mask & yes) | (~mask & no);
}

/* Of numbers; a where both are equal. */
FC_INLINE WV W(_maximum)(WV a, WV b)
{
#if defined(__AVX512F__) && FC_WINNER_LANES == 16
    return (WV)_mm512_max_ps((__m512)b, (__m512)a);
#elif defined(__AVX512F__) && FC_WINNER_LANES == 8
    return (WV)_mm512_max_pd((__m512d)b, (__m512d)a);
#elif defined(__AVX2__) && FC_WINNER_LANES == 8
    return (WV)_mm256_max_ps((__m256)b, (__m256)a);
#elif defined(__AVX2__) && FC_WINNER_LANES == 4
    return (WV)_mm256_max_pd((__m256d)b, (__m256d)a);
#else
    return (WV)W(_pick)((WI)(b > a), (WI)b, (WI)a);
#endif
}

/* The maximum of four sums and 0, and the code of the winner. Returns what is not 0 in lanes that may have met a NaN;
 * careful: a NaN is larger than any number, the last of several. */
FC_INLINE WI W(_of)(const WV *sums, const int careful, WV *value, WI *code)
{
    WV best = sums[0];
    WI where = {0};
#pragma GCC unroll 4
    for (int q = 1; q < 4; q++) {
        WI larger = (WI)(sums[q] > best);
        if (careful)
            larger |= (WI)(sums[q] != sums[q]);
        where = W(_pick)(larger, (WI){0} + q, where);
        best = careful ? (WV)W(_pick)(larger, (WI)sums[q], (WI)best) : W(_maximum)(best, sums[q]);
    }
    *code = W(_pick)((WI)(best > (WV){0}), where, (WI){0} + FC_POOL_CODE_DEAD);
    *value = careful ? (WV)(~(WI)(best < (WV){0}) & (WI)best) : W(_maximum)(best, (WV){0});
    const WV probe = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    return (WI)(probe != probe);
}

#undef W
#undef WV
#undef WI
#undef WB
#undef WBYTES
#undef FC_WINNER_NAME
#undef FC_WINNER_TYPE
#undef FC_WINNER_INT
#undef FC_WINNER_LANES
