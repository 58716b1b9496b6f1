/* What the template headers share: forced inlining, symbols joined from the names they are given, multiply-adds. */
#ifndef FASTCONV_TEMPLATE_H
#define FASTCONV_TEMPLATE_H

#define FC_INLINE static inline __attribute__((always_inline))
#define FC_NOINLINE static __attribute__((noinline, unused)) /* a copy in every caller takes long to compile */
#define FC_JOIN2(a, b) a##b
#define FC_JOIN(a, b) FC_JOIN2(a, b)

/* acc += a * b of vectors of float or double. Spelled out where there is an instruction: left to gcc 12, sums wander from
 * register to register, and a broadcast becomes a memory operand that is loaded again for every vector it meets. */
#if defined(__FMA__)
#define FC_MULTIPLY_ADD(acc, a, b) \
    do { \
        if (sizeof(acc[0]) == 4) \
            __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); \
        else \
            __asm__ volatile("vfmadd231pd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); \
    } while (0)
#elif defined(__SSE2__)
/* The order of operands decides which of two NaN is kept: left to the compiler it differs from tile to tile. */
#define FC_MULTIPLY_ADD(acc, a, b) \
    do { \
        __typeof__(acc) product_ = (a); \
        if (sizeof(acc[0]) == 4) \
            __asm__("mulps %2, %0\n\taddps %0, %1" : "+x"(product_), "+x"(acc) : "x"(b)); \
        else \
            __asm__("mulpd %2, %0\n\taddpd %0, %1" : "+x"(product_), "+x"(acc) : "x"(b)); \
    } while (0)
#else
#define FC_MULTIPLY_ADD(acc, a, b) ((acc) += (a) * (b))
#endif

#endif
