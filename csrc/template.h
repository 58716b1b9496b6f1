/* What the template headers share: forced inlining, and symbols joined from the names they are given. */
#ifndef FASTCONV_TEMPLATE_H
#define FASTCONV_TEMPLATE_H

#define FC_INLINE static inline __attribute__((always_inline))
#define FC_JOIN2(a, b) a##b
#define FC_JOIN(a, b) FC_JOIN2(a, b)

#endif
