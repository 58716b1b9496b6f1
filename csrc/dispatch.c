/* Which instruction sets exist and run here; one microkernel table per ISA, filled from portable, then overridden. */
#include "fastconv.h"

#include <stddef.h>

#if defined(__x86_64__)
#define FC_X86 1
#elif defined(__aarch64__)
#define FC_ARM 1
#endif

void fc_add_gemm__portable(fc_kernels_table *table);
void fc_add_direct__portable(fc_kernels_table *table);
void fc_add_winograd__portable(fc_kernels_table *table);
void fc_add_pooling__portable(fc_kernels_table *table);
void fc_add_depthwise__portable(fc_kernels_table *table);
void fc_add_conv_pool__portable(fc_kernels_table *table);
#if FC_X86
void fc_add_gemm__avx2(fc_kernels_table *table);
void fc_add_direct__avx2(fc_kernels_table *table);
void fc_add_winograd__avx2(fc_kernels_table *table);
void fc_add_pooling__avx2(fc_kernels_table *table);
void fc_add_depthwise__avx2(fc_kernels_table *table);
void fc_add_conv_pool__avx2(fc_kernels_table *table);
void fc_add_gemm__avx512(fc_kernels_table *table);
void fc_add_direct__avx512(fc_kernels_table *table);
void fc_add_winograd__avx512(fc_kernels_table *table);
void fc_add_pooling__avx512(fc_kernels_table *table);
void fc_add_depthwise__avx512(fc_kernels_table *table);
void fc_add_conv_pool__avx512(fc_kernels_table *table);
#elif FC_ARM
void fc_add_gemm__neon(fc_kernels_table *table);
void fc_add_direct__neon(fc_kernels_table *table);
void fc_add_winograd__neon(fc_kernels_table *table);
void fc_add_pooling__neon(fc_kernels_table *table);
void fc_add_depthwise__neon(fc_kernels_table *table);
void fc_add_conv_pool__neon(fc_kernels_table *table);
#endif

static void add_portable(fc_kernels_table *table)
{
    fc_add_gemm__portable(table);
    fc_add_direct__portable(table);
    fc_add_winograd__portable(table);
    fc_add_pooling__portable(table);
    fc_add_depthwise__portable(table);
    fc_add_conv_pool__portable(table);
}

#if FC_X86
static void add_avx2(fc_kernels_table *table)
{
    fc_add_gemm__avx2(table);
    fc_add_direct__avx2(table);
    fc_add_winograd__avx2(table);
    fc_add_pooling__avx2(table);
    fc_add_depthwise__avx2(table);
    fc_add_conv_pool__avx2(table);
}

static void add_avx512(fc_kernels_table *table)
{
    fc_add_gemm__avx512(table);
    fc_add_direct__avx512(table);
    fc_add_winograd__avx512(table);
    fc_add_pooling__avx512(table);
    fc_add_depthwise__avx512(table);
    fc_add_conv_pool__avx512(table);
}
#elif FC_ARM
static void add_neon(fc_kernels_table *table)
{
    fc_add_gemm__neon(table);
    fc_add_direct__neon(table);
    fc_add_winograd__neon(table);
    fc_add_pooling__neon(table);
    fc_add_depthwise__neon(table);
    fc_add_conv_pool__neon(table);
}
#endif

static const char *const isa_names[FC_ISA_COUNT] = {"portable", "avx2", "avx512", "neon"};

static fc_kernels_table tables[FC_ISA_COUNT];
static int current = FC_PORTABLE;

const char *fc_isa_name(int isa)
{
    return isa >= 0 && isa < FC_ISA_COUNT ? isa_names[isa] : NULL;
}

int fc_isa_supported(int isa)
{
    switch (isa) {
    case FC_PORTABLE:
        return 1;
#if FC_X86
    /* The builtins ask the OS too (XGETBV): a kernel that does not save the registers hides the feature. */
    case FC_AVX2:
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case FC_AVX512:
        return fc_isa_supported(FC_AVX2) && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
#elif FC_ARM
    case FC_NEON: /* part of the architecture */
        return 1;
#endif
    default:
        return 0;
    }
}

/* Run when the shared object is loaded: single-threaded, so that no call pays for a check. */
__attribute__((constructor)) static void fill_tables(void)
{
    for (int isa = 0; isa < FC_ISA_COUNT; isa++) {
        fc_kernels_table *table = &tables[isa];
        if (!fc_isa_supported(isa))
            continue;
        add_portable(table);
#if FC_X86
        if (isa >= FC_AVX2)
            add_avx2(table);
        if (isa >= FC_AVX512)
            add_avx512(table);
#elif FC_ARM
        if (isa == FC_NEON)
            add_neon(table);
#endif
        table->isa = isa_names[isa];
        current = isa;
    }
}

int fc_set_isa(int isa)
{
    if (!fc_isa_supported(isa))
        return -1;
    __atomic_store_n(&current, isa, __ATOMIC_RELAXED);
    return 0;
}

int fc_get_isa(void)
{
    return __atomic_load_n(&current, __ATOMIC_RELAXED);
}

const fc_kernels_table *fc_kernels(void)
{
    return &tables[fc_get_isa()];
}

const fc_kernels_table *fc_kernels_of(int isa)
{
    return fc_isa_supported(isa) ? &tables[isa] : NULL;
}
