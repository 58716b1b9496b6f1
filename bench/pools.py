"""Max and average pooling against PyTorch and ONNX Runtime: both layouts, forward, forward with indices, backward.

    python -m bench.pools [--threads 1 2] [--match TEXT ...] [--seconds S] [--save NAME]

Two conditions: `fresh`, each call allocates its result (fastconv and PyTorch), and `out`, results go to buffers that
are used again (`out=` here and in PyTorch's out variants; bound buffers in ONNX Runtime, which knows NCHW and forward
only).
PyTorch pools channels_last tensors against our NHWC arrays; gradients are its raw operators. Outputs are compared just
before timing. A ratio above 1 means that fastconv is faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastconv
from bench.harness import race, save

# Sleep before each turn on several threads: the idle threads of the pool that had the turn before spin for some time.
REST_SECONDS = 0.01


class Case(NamedTuple):
    name: str
    op: str  # "max", "avg", "adaptive_max", "adaptive_avg"
    size: tuple[int, int, int, int]  # mb, c, ih, iw
    options: dict[str, Any]


def _sliding(name: str, op: str, size: tuple[int, int, int, int], k: int, s: int, p: int = 0, **more: Any) -> Case:
    return Case(name, op, size, {"kernel_size": k, "stride": s, "padding": p, **more})


def _adaptive(name: str, op: str, size: tuple[int, int, int, int], output: int) -> Case:
    return Case(name, f"adaptive_{op}", size, {"output_size": output})


CASES = [
    _sliding("mnist_pool1_mb1", "max", (1, 32, 26, 26), 2, 2),
    _sliding("mnist_pool1_mb64", "max", (64, 32, 26, 26), 2, 2),
    _sliding("mnist_pool2_mb1", "max", (1, 64, 11, 11), 2, 2),
    _sliding("mnist_pool2_mb64", "max", (64, 64, 11, 11), 2, 2),
    _sliding("resnet_stem_mb1", "max", (1, 64, 112, 112), 3, 2, 1),
    _sliding("resnet_stem_mb16", "max", (16, 64, 112, 112), 3, 2, 1),
    _sliding("vgg_pool1", "max", (1, 64, 224, 224), 2, 2),
    _sliding("vgg_pool2", "max", (1, 128, 112, 112), 2, 2),
    _sliding("vgg_pool3", "max", (1, 256, 56, 56), 2, 2),
    _sliding("vgg_pool4", "max", (1, 512, 28, 28), 2, 2),
    _sliding("vgg_pool5", "max", (1, 512, 14, 14), 2, 2),
    _sliding("goog_pool1_ceil", "max", (1, 64, 112, 112), 3, 2, ceil_mode=True),
    _sliding("goog_pool3_ceil", "max", (1, 480, 28, 28), 3, 2, ceil_mode=True),
    _sliding("goog_3a_3x3s1", "max", (1, 192, 28, 28), 3, 1, 1),
    _sliding("goog_4a_3x3s1", "max", (1, 480, 14, 14), 3, 1, 1),
    _sliding("yolo_sppf_5x5s1", "max", (1, 256, 20, 20), 5, 1, 2),
    _sliding("yolo_spp_13x13s1", "max", (1, 512, 19, 19), 13, 1, 6),
    _adaptive("adaptive_max_14_7", "max", (4, 512, 14, 14), 7),
    _adaptive("adaptive_max_10_7", "max", (4, 512, 10, 10), 7),
    _adaptive("global_max_7", "max", (16, 512, 7, 7), 1),
    _sliding("densenet_avg_56", "avg", (1, 128, 56, 56), 2, 2),
    _sliding("avg_2x2_11_mb64", "avg", (64, 64, 11, 11), 2, 2),
    _sliding("avg_3x3s2_pad", "avg", (1, 256, 28, 28), 3, 2, 1),
    _sliding("avg_3x3s2_nopad", "avg", (1, 256, 28, 28), 3, 2, 1, count_include_pad=False),
    _sliding("inception_avg_35", "avg", (1, 192, 35, 35), 3, 1, 1),
    _sliding("inception_avg_nopad", "avg", (1, 192, 35, 35), 3, 1, 1, count_include_pad=False),
    _sliding("avg_5x5s1", "avg", (1, 128, 28, 28), 5, 1, 2),
    _sliding("avg_13x13s1", "avg", (1, 256, 19, 19), 13, 1, 6),
    _adaptive("adaptive_avg_14_7", "avg", (4, 512, 14, 14), 7),
    _adaptive("adaptive_avg_10_7", "avg", (4, 512, 10, 10), 7),
    _adaptive("global_avg_2048_mb1", "avg", (1, 2048, 7, 7), 1),
    _adaptive("global_avg_2048_mb16", "avg", (16, 2048, 7, 7), 1),
    _adaptive("global_avg_1024_mb1", "avg", (1, 1024, 7, 7), 1),
    _adaptive("global_avg_56", "avg", (4, 64, 56, 56), 1),
]


def ort_session(case: Case, threads: int, indices: bool) -> Any:
    """An ONNX Runtime session of one pooling node, or None where ONNX has no such pool."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    o = case.options
    attributes: dict[str, Any] = {}
    if case.op.startswith("adaptive"):
        if o["output_size"] != 1 or indices:
            return None
        kind = "GlobalMaxPool" if "max" in case.op else "GlobalAveragePool"
    else:
        kind = "MaxPool" if case.op == "max" else "AveragePool"
        k, s, p = o["kernel_size"], o["stride"], o["padding"]
        attributes = {"kernel_shape": [k, k], "strides": [s, s], "pads": [p] * 4}
        attributes["ceil_mode"] = int(o.get("ceil_mode", False))
        if case.op == "avg":
            attributes["count_include_pad"] = int(o.get("count_include_pad", True))
    outputs = ["y", "indices"] if indices else ["y"]
    node = helper.make_node(kind, ["x"], outputs, **attributes)
    infos = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if indices:
        infos.append(helper.make_tensor_value_info("indices", TensorProto.INT64, None))
    graph = helper.make_graph(
        [node], "pool", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(case.size))], infos
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads would go on spinning through the turns of the others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ort_call(case: Case, threads: int, x: np.ndarray, indices: bool) -> Callable[[], Any] | None:
    """A call into bound buffers; it returns the output array."""
    session = ort_session(case, threads, indices)
    if session is None:
        return None
    y = session.run(None, {"x": x})
    binding = session.io_binding()

    def bind(method: Any, name: str, a: np.ndarray) -> None:
        method(name=name, device_type="cpu", device_id=0, element_type=a.dtype, shape=a.shape, buffer_ptr=a.ctypes.data)

    bind(binding.bind_input, "x", x)
    for name, a in zip(("y", "indices"), y):
        bind(binding.bind_output, name, a)

    def call() -> Any:
        session.run_with_iobinding(binding)
        return y[0]

    return call


def rivals(case: Case, layout: str, pass_: str, threads: int) -> tuple[dict[str, Callable[[], Any]], int]:
    """The calls, by name, and the bytes that one of them must move at least."""
    import torch

    ops = torch.ops.aten
    nhwc = layout == "NHWC"
    o = dict(case.options)
    k, s, p = (o.get(name) for name in ("kernel_size", "stride", "padding"))
    ceil = bool(o.get("ceil_mode", False))
    adaptive, is_max = case.op.startswith("adaptive"), "max" in case.op
    rng = np.random.default_rng(0)
    x = rng.standard_normal(case.size, np.float32)
    tx = torch.from_numpy(x)
    if nhwc:
        tx = tx.contiguous(memory_format=torch.channels_last)
    mx = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if nhwc else x
    ours = getattr(fastconv, f"{case.op}_pool2d")
    gradient = getattr(fastconv, f"{case.op}_pool2d_backward")

    def like_ours(t: Any) -> np.ndarray:
        return np.ascontiguousarray(t.permute(0, 2, 3, 1).numpy() if nhwc else t.numpy())

    with torch.inference_mode():
        if is_max and adaptive:
            forward = lambda: ops.adaptive_max_pool2d(tx, (o["output_size"],) * 2)  # noqa: E731
            forward_out = lambda: ops.adaptive_max_pool2d.out(tx, (o["output_size"],) * 2, out=ty, indices=ti)  # noqa: E731
        elif is_max:
            forward = lambda: ops.max_pool2d_with_indices(tx, k, s, p, 1, ceil)  # noqa: E731
            forward_out = lambda: ops.max_pool2d_with_indices.out(tx, k, s, p, 1, ceil, out=ty, indices=ti)  # noqa: E731
        elif adaptive:
            forward = lambda: (ops.adaptive_avg_pool2d(tx, (o["output_size"],) * 2),)  # noqa: E731
            forward_out = lambda: (ops.adaptive_avg_pool2d.out(tx, (o["output_size"],) * 2, out=ty),)  # noqa: E731
        else:
            include = bool(o.get("count_include_pad", True))
            forward = lambda: (ops.avg_pool2d(tx, k, s, p, ceil, include),)  # noqa: E731
            forward_out = lambda: (ops.avg_pool2d.out(tx, k, s, p, ceil, include, out=ty),)  # noqa: E731
        first = forward()
        ty, ti = first[0].clone(), first[1].clone() if is_max else None
        my = np.empty_like(like_ours(ty))
        mi = like_ours(ti) if is_max else None
        if pass_ != "backward":
            wanted = {"return_indices": True} if pass_ == "indices" else {}
            calls = {
                "fastconv": lambda: ours(mx, **o, **wanted, layout=layout),
                "torch": forward,
                "fastconv_out": lambda: ours(mx, **o, **wanted, layout=layout, out=my),
                "torch_out": forward_out,
            }
            if not nhwc:
                call = ort_call(case, threads, x, pass_ == "indices")
                if call is not None:
                    calls["onnxruntime_out"] = call
            least = x.nbytes + my.nbytes * (3 if pass_ == "indices" else 1)
            return calls, least
        dy = rng.standard_normal(my.shape, np.float32)
        tdy = torch.from_numpy(dy)
        if nhwc:
            tdy = tdy.permute(0, 3, 1, 2)
        tdx = torch.empty_like(tx)
        mdx = np.empty_like(mx)
        if is_max:
            back = ops.adaptive_max_pool2d_backward if adaptive else ops.max_pool2d_with_indices_backward
            rest = (tdy, tx, ti) if adaptive else (tdy, tx, k, s, p, 1, ceil, ti)
            mine = (dy, mx.shape, mi)
            options = {} if adaptive else o
            torch_call = lambda: back(*rest)  # noqa: E731
            torch_out = lambda: back.grad_input(*rest, grad_input=tdx)  # noqa: E731
        else:
            mine, options = (dy, mx.shape), {} if adaptive else o
            if adaptive and o["output_size"] == 1:
                cells = case.size[2] * case.size[3]
                torch_call = lambda: tdy.expand(tx.shape) / cells  # noqa: E731
                torch_out = lambda: torch.div(tdy.expand(tx.shape), cells, out=tdx)  # noqa: E731
            elif adaptive:
                torch_call = lambda: ops._adaptive_avg_pool2d_backward(tdy, tx)  # noqa: E731
                torch_out = None
            else:
                rest = (tdy, tx, k, s, p, ceil, include, None)
                torch_call = lambda: ops.avg_pool2d_backward(*rest)  # noqa: E731
                torch_out = lambda: ops.avg_pool2d_backward.grad_input(*rest, grad_input=tdx)  # noqa: E731
        calls = {
            "fastconv": lambda: gradient(*mine, **options, layout=layout),
            "torch": torch_call,
            "fastconv_out": lambda: gradient(*mine, **options, layout=layout, out=mdx),
        }
        if torch_out is not None:
            calls["torch_out"] = torch_out
        return calls, x.nbytes + my.nbytes * (3 if is_max else 1)


def _logical(result: Any, layout: str) -> np.ndarray:
    """The output (not the indices) as a logical NCHW array."""
    first = result[0] if isinstance(result, tuple) else result
    if isinstance(first, np.ndarray):
        return first.transpose(0, 3, 1, 2) if layout == "NHWC" else first
    return first.numpy()


def copy_rates() -> Callable[[int], float]:
    """Bytes a second (read + written) that a copy reaches with buffers as large as asked for, one thread."""
    known: dict[int, float] = {}

    def rate(nbytes: int) -> float:
        size = 1 << max(15, (nbytes // 2).bit_length())
        if size not in known:
            source, target = np.ones(size // 4, np.float32), np.ones(size // 4, np.float32)
            known[size] = 2 * size / race({"copy": lambda: np.copyto(target, source)}, 0.1)["copy"]["min"]
        return known[size]

    return rate


def measure(case: Case, layout: str, pass_: str, threads: int, seconds: float, rate: Any) -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    fastconv.set_num_threads(threads)
    calls, least = rivals(case, layout, pass_, threads)
    with torch.inference_mode():
        results = {name: _logical(call(), layout).copy() for name, call in calls.items()}
        scale = np.abs(results["torch"]).max()
        different = {name: float(np.abs(r - results["torch"]).max() / scale) for name, r in results.items()}
        if max(different.values()) > 1e-5:
            raise AssertionError(f"{case.name} {layout} {pass_}: results differ: {different}")
        times = race(calls, seconds, rest=REST_SECONDS if threads > 1 else 0)
    row: dict[str, Any] = {"case": case.name, "layout": layout, "pass": pass_, "threads": threads, "bytes": least}
    row["microseconds"] = {name: {how: t[how] * 1e6 for how in ("min", "median")} for name, t in times.items()}
    row["share_of_copy"] = {name: least / t["min"] / rate(least) for name, t in times.items()}
    for peer in ("torch", "torch_out", "onnxruntime_out"):
        if peer in times:
            mine = times["fastconv" if peer == "torch" else "fastconv_out"]
            row[f"ratio_{peer}"] = {how: times[peer][how] / mine[how] for how in ("min", "median")}
    return row


def _line(row: dict[str, Any]) -> str:
    def pair(peer: str) -> str:
        ratio = row.get(f"ratio_{peer}")
        return f"{ratio['min']:6.2f} {ratio['median']:5.2f}" if ratio else " " * 12

    us, share = row["microseconds"], row["share_of_copy"]
    return (
        f"{row['case']:<21}{row['layout']} {row['pass']:<9}{row['threads']} {us['fastconv']['min']:9.1f} "
        f"{us['fastconv_out']['min']:9.1f}  {pair('torch')}  {pair('torch_out')}  {pair('onnxruntime_out')}   "
        f"{share['fastconv_out']:5.2f} {share.get('torch_out', share['torch']):5.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--match", nargs="+", default=[""], help="cases whose name, layout and pass hold all of these")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each rival and case")
    parser.add_argument("--below", type=float, help="print only rows with a ratio under this")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    rate = copy_rates()
    rows = []
    print(
        "ratio = peer's time / ours, minimum and median; share: least bytes over time, of a copy's rate (and torch's)"
    )
    peers = f"{'torch':>12}  {'torch out':>12}  {'ort':>12}"
    print(f"{'case':<21}lay. pass   thr {'fresh us':>8} {'out us':>9}  {peers}   share torch")
    for threads in args.threads:
        for case in CASES:
            for pass_ in ("forward", "indices", "backward") if "max" in case.op else ("forward", "backward"):
                for layout in ("NCHW", "NHWC"):
                    if not all(text in f"{case.name} {layout} {pass_}" for text in args.match):
                        continue
                    row = measure(case, layout, pass_, threads, args.seconds, rate)
                    rows.append(row)
                    ratios = [r["min"] for name, r in row.items() if name.startswith("ratio")]
                    if not args.below or min(ratios) < args.below:
                        print(_line(row), flush=True)
    if args.save:
        print(f"written: {save(args.save, rows)}")


if __name__ == "__main__":
    main()
