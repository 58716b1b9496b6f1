/* Arithmetic that several files need: the smaller and the larger, rounding up, bytes of an element. */
#ifndef FASTCONV_NUMBERS_H
#define FASTCONV_NUMBERS_H

#include "fastconv.h"
#include "template.h"

enum { FC_ALIGNMENT = 64 }; /* bytes: of a workspace and of its parts, a cache line */

FC_INLINE int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

FC_INLINE int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* a >= 0, b > 0 */
FC_INLINE int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

FC_INLINE int64_t align_up(int64_t bytes)
{
    return ceil_div(bytes, FC_ALIGNMENT) * FC_ALIGNMENT;
}

FC_INLINE int64_t element_size(int dtype)
{
    return dtype == FC_F32 ? 4 : 8;
}

#endif
