"""The 1-D transforms of F(2x2,3x3), of F(4x4,3x3) and of its weight gradient: plain Python for the CUDA compiler.

They are those of fastconv.winograd, whose `transform` it cannot trace, as that works on lists and fractions; a test
holds the two together.
"""

from __future__ import annotations

import numpy as np

# Points of F(4, 3), and their powers.
F4_A = np.float32(5 / 8)  # the smaller point, a
F4_B = np.float32(3 / 2)  # the larger point, b
F4_A2 = np.float32(25 / 64)
F4_B2 = np.float32(9 / 4)
F4_A3 = np.float32(125 / 512)
F4_B3 = np.float32(27 / 8)
F4_A2_TIMES_B2 = np.float32(225 / 256)
F4_A2_PLUS_B2 = np.float32(169 / 64)
# Columns 0, 1 and 2 of G: at the point 0, at +-a, at +-b.
F4_G0, F4_G0_A, F4_G0_B = np.float32(256 / 225), np.float32(2048 / 2975), np.float32(128 / 1071)
F4_G1_A, F4_G1_B = np.float32(256 / 595), np.float32(64 / 357)
F4_G2 = np.float32(32 / 119)


def input_transform_f2x3(d0, d1, d2, d3):
    """B^T d of F(2, 3)."""
    return d0 - d2, d1 + d2, d2 - d1, d3 - d1


def output_transform_f2x3(m0, m1, m2, m3):
    """A^T m of F(2, 3)."""
    return m0 + m1 + m2, m1 - m2 + m3


def input_transform_f4x3(d0, d1, d2, d3, d4, d5):
    """B^T d of F(4, 3): each +-pair of points shares its even part e and odd part o."""
    e_a = F4_B2 * d2 - d4
    o_a = F4_B2 * d1 - d3
    e_b = d4 - F4_A2 * d2
    o_b = d3 - F4_A2 * d1
    return (
        F4_A2_TIMES_B2 * d0 - F4_A2_PLUS_B2 * d2 + d4,
        e_a + F4_A * o_a,
        e_a - F4_A * o_a,
        e_b + F4_B * o_b,
        e_b - F4_B * o_b,
        F4_A2_TIMES_B2 * d1 - F4_A2_PLUS_B2 * d3 + d5,
    )


def output_transform_f4x3(m0, m1, m2, m3, m4, m5):
    """A^T m of F(4, 3): even powers need the sums of the +-pairs, odd powers the differences."""
    s_a = m1 + m2
    t_a = m1 - m2
    s_b = m3 + m4
    t_b = m3 - m4
    return (
        m0 + s_a + s_b,
        F4_A * t_a + F4_B * t_b,
        F4_A2 * s_a + F4_B2 * s_b,
        F4_A3 * t_a + F4_B3 * t_b + m5,
    )


def output_adjoint_transform_f4x3(y0, y1, y2, y3):
    """A y of F(4, 3)."""
    e_a = y0 + F4_A2 * y2
    o_a = F4_A * y1 + F4_A3 * y3
    e_b = y0 + F4_B2 * y2
    o_b = F4_B * y1 + F4_B3 * y3
    return y0, e_a + o_a, e_a - o_a, e_b + o_b, e_b - o_b, y3


def weights_adjoint_transform_f4x3(u0, u1, u2, u3, u4, u5):
    """G^T u of F(4, 3)."""
    s_a = u1 + u2
    t_a = u1 - u2
    s_b = u3 + u4
    t_b = u3 - u4
    return F4_G0 * u0 + F4_G0_A * s_a + F4_G0_B * s_b, F4_G1_A * t_a + F4_G1_B * t_b, F4_G2 * (s_a + s_b) + u5
