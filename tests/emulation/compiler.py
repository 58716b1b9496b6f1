"""gcc for the emulated build: AVX-512 becomes AVX2 and the header avx512.h, wherever there is AVX2."""

import os
import sys

words = [word for word in sys.argv[1:] if not word.startswith(("-mavx512", "-mprefer-vector-width"))]
emulated = len(words) < len(sys.argv) - 1
if emulated:
    words += ["-include", "avx512.h"]
# -Og is quick to compile. But it fuses no products with sums, which moves the rounding errors of transforms, and
# unrolls no loops, where the assembly of the GEMM tiles that are not emulated needs constants.
careful = ("/winograd.c", "/conv_pool.c") if emulated else ("/winograd.c", "/conv_pool.c", "/gemm.c")
words += ["-O1", "-fexpensive-optimizations"] if any(word.endswith(careful) for word in words) else ["-Og"]
# dispatch.c asks for features by name.
os.execvp("gcc", ["gcc", *words, '-D__builtin_cpu_supports(feature)=__builtin_cpu_supports("avx2")'])
