"""conv2d against PyTorch on chosen layers: ratio of times, and each one's error against float64.

    python -m bench.against_torch [--threads 1 2] [--layers vgg_conv3_2 r50_mb1_c2_3x3 ...] [--save NAME]

PyTorch runs in its better layout (contiguous or channels_last) without gradients; both take their arrays as they are
and pack weights in each call. A ratio above 1 means that fastconv is faster.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import fastconv
from bench.harness import layers, operands, race, save

DEFAULT_LAYERS = (
    "vgg_conv3_2", "r50_mb1_c4_1x1_1024_256", "r50_mb1_c2_1x1_64_256", "r50_mb1_c2_3x3", "mnist_conv2_mb64",
)  # fmt: skip


def measure(problem: fastconv.ConvProblem, threads: int, seconds: float) -> dict[str, Any]:
    """One row: times, ratio to PyTorch's better layout, errors as a share of the largest output."""
    import torch
    from torch.nn.functional import conv2d

    torch.set_num_threads(threads)
    fastconv.set_num_threads(threads)
    p = problem
    x, w = operands(p)
    where = {"stride": (p.sh, p.sw), "padding": (p.ph, p.pw), "dilation": (p.dh, p.dw), "groups": p.g}
    tx, tw = torch.from_numpy(x), torch.from_numpy(w)
    cx, cw = (t.contiguous(memory_format=torch.channels_last) for t in (tx, tw))
    hx, hw = np.ascontiguousarray(x.transpose(0, 2, 3, 1)), np.ascontiguousarray(w.transpose(2, 3, 1, 0))
    exact = conv2d(tx.double(), tw.double(), **where).numpy()
    scale = np.abs(exact).max()
    with torch.inference_mode():
        rivals = {
            "fastconv_nchw": lambda: fastconv.conv2d(x, w, **where),
            "fastconv_nhwc": lambda: fastconv.conv2d(hx, hw, layout="NHWC", **where),
            "torch_nchw": lambda: conv2d(tx, tw, **where),
            "torch_nhwc": lambda: conv2d(cx, cw, **where),
        }
        times = race(rivals, seconds)
        errors = {
            "fastconv_nchw": np.abs(rivals["fastconv_nchw"]() - exact).max() / scale,
            "fastconv_nhwc": np.abs(rivals["fastconv_nhwc"]().transpose(0, 3, 1, 2) - exact).max() / scale,
            "torch_nchw": np.abs(rivals["torch_nchw"]().numpy() - exact).max() / scale,
        }
    row: dict[str, Any] = {"problem": p.text, "threads": threads, "mflop": p.flops / 1e6}
    for how in ("min", "median"):
        peer = min(times["torch_nchw"][how], times["torch_nhwc"][how])
        for layout in ("nchw", "nhwc"):
            row[f"ratio_{layout}_{how}"] = peer / times[f"fastconv_{layout}"][how]
    row["gflops"] = {name: p.flops / t["min"] / 1e9 for name, t in times.items()}
    row["errors"] = {name: float(error) for name, error in errors.items()}
    plan = fastconv.plan_conv2d(x.shape, w, **where)
    row["kernel"] = plan.kernel
    return row


def _line(name: str, threads: int, row: dict[str, Any]) -> str:
    rate, error = row["gflops"], row["errors"]
    ours, peer = (max(rate[f"{who}_nchw"], rate[f"{who}_nhwc"]) for who in ("fastconv", "torch"))
    worst = max(error["fastconv_nchw"], error["fastconv_nhwc"])
    return (
        f"{name:<26}{threads:>3}  {row['ratio_nchw_min']:>8.2f} {row['ratio_nchw_median']:>5.2f}  "
        f"{row['ratio_nhwc_min']:>8.2f} {row['ratio_nhwc_median']:>5.2f}  "
        f"{ours:>14.0f} {peer:>6.0f}       {worst:.1e}  {error['torch_nchw']:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--layers", nargs="+", default=list(DEFAULT_LAYERS))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each rival and layer")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    known = dict(layers())
    rows = []
    print("ratio = PyTorch's time / ours (better of its two layouts), minimum and median of interleaved repeats")
    columns = f"{'NCHW min':>8} {'med':>5}  {'NHWC min':>8} {'med':>5}  {'GFLOP/s ours':>14}  torch"
    print(f"{'layer':<26}thr  {columns}   error: ours    torch")
    for threads in args.threads:
        for name in args.layers:
            row = measure(known[name], threads, args.seconds)
            rows.append({"layer": name, **row})
            print(_line(name, threads, row))
    if args.save:
        print(f"written: {save(args.save, rows)}")


if __name__ == "__main__":
    main()
