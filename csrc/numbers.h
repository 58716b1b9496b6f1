/* Arithmetic that several files need: the smaller and the larger, rounding up, elements of either type. */
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

FC_INLINE double element(int dtype, const void *data, int64_t at)
{
    return dtype == FC_F32 ? (double)((const float *)data)[at] : ((const double *)data)[at];
}

FC_INLINE void set_element(int dtype, void *data, int64_t at, double value)
{
    if (dtype == FC_F32)
        ((float *)data)[at] = (float)value;
    else
        ((double *)data)[at] = value;
}

/* Of what each task has summed, parts[at + task * step]: in double, in the order of the tasks. */
FC_INLINE double sum_of_tasks(int dtype, const void *parts, int64_t at, int64_t tasks, int64_t step)
{
    double sum = 0;
    for (int64_t task = 0; task < tasks; task++)
        sum += element(dtype, parts, at + task * step);
    return sum;
}

#endif
