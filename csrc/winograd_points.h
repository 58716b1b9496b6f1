/* The 1-D transforms of Winograd's F(m, r) for 4, 6, 8 and 10 points: constants of fastconv/winograd.py.
 *
 * The points are 0, +-p_0, +-p_1, ..., infinity. A +-pair shares an even and an odd part, so B^T is given by
 *   v[0]      = sum_k ZERO[k] d[2k]            v[last]        = sum_k INFINITY[k] d[2k + 1]
 *   v[2j + 1] = even_j + p_j odd_j             v[2j + 2]      = even_j - p_j odd_j
 *   even_j    = sum_k PAIRS[j][k] d[2k + 2]    odd_j          = sum_k PAIRS[j][k] d[2k + 1]
 * and depends on the points alone. G scales the powers of p_j by NORMS[j], those of 0 by ZERO_NORM. All constants but
 * the norms are exact in float. Points: Lavin & Gray 2016 (arXiv 1509.09308) for 4 and 8, else scans of the error. */
#ifndef FASTCONV_WINOGRAD_POINTS_H
#define FASTCONV_WINOGRAD_POINTS_H

static const double fc_winograd_points_4[1] = {1};
static const double fc_winograd_zero_4[2] = {1, -1};
static const double fc_winograd_infinity_4[2] = {-1, 1};
static const double fc_winograd_pairs_4[1][1] = {{1}};
static const double fc_winograd_norms_4[1] = {1.0 / 2};
static const double fc_winograd_zero_norm_4 = 1;

static const double fc_winograd_points_6[2] = {5.0 / 8, 3.0 / 2};
static const double fc_winograd_zero_6[3] = {225.0 / 256, -169.0 / 64, 1};
static const double fc_winograd_infinity_6[3] = {225.0 / 256, -169.0 / 64, 1};
static const double fc_winograd_pairs_6[2][2] = {{9.0 / 4, -1}, {-25.0 / 64, 1}};
static const double fc_winograd_norms_6[2] = {2048.0 / 2975, 128.0 / 1071};
static const double fc_winograd_zero_norm_6 = 256.0 / 225;

static const double fc_winograd_points_8[3] = {1.0 / 2, 1, 2};
static const double fc_winograd_zero_8[4] = {1, -21.0 / 4, 21.0 / 4, -1};
static const double fc_winograd_infinity_8[4] = {-1, 21.0 / 4, -21.0 / 4, 1};
static const double fc_winograd_pairs_8[3][3] = {
    {4, -5, 1}, {-1.0 / 2, 17.0 / 8, -1.0 / 2}, {1.0 / 16, -5.0 / 16, 1.0 / 4}};
static const double fc_winograd_norms_8[3] = {32.0 / 45, 4.0 / 9, 2.0 / 45};
static const double fc_winograd_zero_norm_8 = 1;

static const double fc_winograd_points_10[4] = {7.0 / 16, 13.0 / 16, 5.0 / 4, 9.0 / 4};
static const double fc_winograd_zero_10[5] = {
    16769025.0 / 16777216, -3970493.0 / 524288, 896409.0 / 65536, -957.0 / 128, 1};
static const double fc_winograd_infinity_10[5] = {
    16769025.0 / 16777216, -3970493.0 / 524288, 896409.0 / 65536, -957.0 / 128, 1};
static const double fc_winograd_pairs_10[4][4] = {
    {342225.0 / 65536, -25157.0 / 2048, 1865.0 / 256, -1},
    {-99225.0 / 65536, 18797.0 / 2048, -1745.0 / 256, 1},
    {670761.0 / 2097152, -290809.0 / 131072, 757.0 / 256, -1.0 / 2},
    {-207025.0 / 8388608, 95481.0 / 524288, -309.0 / 1024, 1.0 / 8}};
static const double fc_winograd_norms_10[4] = {
    268435456.0 / 321707295, 268435456.0 / 659954295, 2097152.0 / 14189175, 8388608.0 / 796844223};
static const double fc_winograd_zero_norm_10 = 16777216.0 / 16769025;

#endif
