"""CUDA rows on Numba's simulator: the rules of test_kernels.py on tiny cases; and public functions on arrays of a GPU.

Run as NUMBA_ENABLE_CUDASIM=1 pytest tests/test_cuda.py: the variable counts when Numba is imported, so this takes a
process of its own. Without it, and without a GPU, all of this is skipped.
"""

import types

import numpy as np
import pytest

import fastconv
from fastconv import cost, host
from fastconv.nn import Sequential, layers
from fastconv.problem import TF32_ERROR, ConvProblem, NoKernelError
from fastconv.registry import KERNELS
from tests import calls, compare, cuda_cases, rows, simulator
from tests.test_kernels import SPECIAL_VALUES, with_special

pytestmark = pytest.mark.skipif(host.cuda_fault() is not None, reason=f"no GPU, no simulator: {host.cuda_fault()}")
if host.simulated():
    simulator.install()

ROWS = [k for k in KERNELS if k.backend == "cuda"]


@pytest.mark.parametrize("kernel", ROWS, ids=lambda k: k.name)
def test_row(kernel):
    found = cuda_cases.problems(kernel)
    assert len(found) >= 4
    for problem in found:
        rows.check(rows.run_of(kernel, problem), problem, kernel.algorithm)


CONVOLUTIONS = [k for k in ROWS if k.op == "conv2d"]


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")  # simulated sums are NumPy's
@pytest.mark.parametrize("operand", ["image", "filter"])
@pytest.mark.parametrize("kernel", CONVOLUTIONS, ids=lambda k: k.name)
def test_nonfinite_set_is_that_of_the_plain_sum(kernel, operand):
    text = "g3mb1ic3ih5iw6oc3kh3ph1" if "depthwise" in kernel.name else "mb1ic2ih5iw6oc3kh3ph1"
    for number, layout in enumerate(("NCHW", "NHWC")):
        options = {} if kernel.pass_ == "backward_weight" else {"activation": ("clip", -1.0, 6.0)}
        problem = rows.where_arrays_live(kernel, ConvProblem.parse(text, pass_=kernel.pass_, layout=layout, **options))
        if kernel.cannot(problem) is not None:
            continue
        name = {"image": "x", "filter": "w"}[operand]
        if kernel.pass_ == "backward_input" and operand == "image":
            name = "y"
        if kernel.pass_ == "backward_weight" and operand == "filter":
            name = "y"
        o = with_special(problem, name, list(SPECIAL_VALUES.values())[1 + number])
        wanted = rows.by_reference(problem, o)
        y = rows.conv_call(rows.run_of(kernel, problem), problem, o)
        compare.assert_exact(np.isnan(y), np.isnan(wanted), str(problem))
        compare.assert_same_nonfinite(y, wanted, str(problem))


def test_every_tile_is_right(monkeypatch):
    """The tiles that only large problems are given."""
    from fastconv._cuda import sizes

    # of tensor cores, other passes than the weight gradient have one tile only
    tensor = [k for k in CONVOLUTIONS if k.algorithm == "im2col_tf32" and k.pass_ == "backward_weight"]
    # also the largest for weight gradients, which would spill there
    tiles = [(tile, [k for k in CONVOLUTIONS if k.algorithm == "im2col"]) for tile in sizes.TILES["float32"][:-1]]
    for tile, kernels in [*tiles, *((tile, tensor) for tile in sizes.TILES["tf32"])]:
        monkeypatch.setattr(sizes, "best_tile", lambda *arguments, tile=tile: tile)
        for kernel in kernels:
            for layout in ("NCHW", "NHWC"):
                options = {"pass_": kernel.pass_, "layout": layout}
                problem = ConvProblem.parse("mb1ic9ih2iw3oc12kh1kw2ph0pw1", **options)
                problem = rows.where_arrays_live(kernel, problem)
                if kernel.cannot(problem) is None:
                    rows.check(rows.run_of(kernel, problem), problem, kernel.algorithm)


def test_winograd_takes_tiles_in_runs(monkeypatch):
    """As it does where the tiles of a batch do not fit into its scratch memory; those of a weight gradient in parts."""
    from fastconv import _cuda
    from fastconv._cuda import sizes

    monkeypatch.setattr(sizes, "WINOGRAD_SCRATCH", 4 * 36 * (32 + 32) * 20)
    monkeypatch.setattr(sizes, "SPLIT_TILES", 4)
    for kernel in CONVOLUTIONS:
        if kernel.algorithm == "winograd_f4x3":
            problem = ConvProblem.parse("mb5ic2ih10iw9oc3kh3ph1", pass_=kernel.pass_, device="cuda")
            p = _cuda.lower(problem)
            if kernel.pass_ == "backward_weight":
                cut = sizes.winograd_weight(p)
                assert cut.parts == 2 and cut.parts * cut.depth < 5 * 3 * 3
            else:
                assert sizes.winograd_passes(p, kernel.pass_ == "backward_input").length < 5 * 3 * 3
            rows.check(rows.run_of(kernel, problem), problem, kernel.algorithm)


def test_tensor_cores_are_used_where_asked_for():
    shapes = {"input_shape": (32, 56, 56, 256), "weight_shape": (3, 3, 256, 256), "layout": "NHWC", "backend": "cuda"}
    assert fastconv.explain(**shapes, precision="tf32").kernel == "conv2d_forward_im2col_tf32__cuda"
    assert "tf32" not in fastconv.explain(**shapes).kernel
    assert "tf32" not in fastconv.explain(**shapes, precision=1e-4).kernel
    for pass_ in ("backward_input", "backward_weight"):
        found = fastconv.explain(**shapes, precision="tf32", pass_=pass_)
        assert found.kernel == f"conv2d_{pass_}_im2col_tf32__cuda"
        assert "tf32" not in fastconv.explain(**shapes, pass_=pass_).kernel


def test_older_gpus_have_no_tensor_cores_for_float32(monkeypatch):
    gpus = [types.SimpleNamespace(compute_capability=found) for found in ((9, 0), (7, 5))]
    monkeypatch.setattr(host, "simulated", lambda: False)
    monkeypatch.setattr(host, "load", lambda name: types.SimpleNamespace(gpus=gpus))
    fault = host.tensor_fault.__wrapped__()
    assert fault.endswith("a GPU of this machine has 7.5")
    del gpus[1]
    assert host.tensor_fault.__wrapped__() is None
    monkeypatch.undo()
    monkeypatch.setattr(host, "tensor_fault", lambda: fault)
    found = fastconv.explain("mb32ic256ih56oc256kh3ph1", layout="NHWC", backend="cuda", precision="tf32")
    assert "tf32" not in found.kernel and fault in str(found)


def test_what_tensor_cores_cut_off_grows_with_the_pixels_they_sum():
    """2e-3 are accepted as tf32: parts of a weight gradient keep within that."""
    texts = ("mb1ic64ih56oc64kh3ph1", "mb64ic64ih224oc64kh3ph1", "mb256ic512ih14oc512kh3ph1")
    options = {"pass_": "backward_weight", "layout": "NHWC", "device": "cuda"}
    errors = [cost.tf32_error(ConvProblem.parse(text, **options)) for text in texts]
    assert 1e-3 < errors[0] < errors[1] and max(errors) < TF32_ERROR


def test_winograd_sums_few_tiles_at_a_time_or_says_what_that_costs():
    """Parts of a weight gradient are short, unless many channels leave no memory for many parts."""
    texts = ("mb1ic64ih56oc64kh3ph1", "mb32ic64ih56oc64kh3ph1", "mb64ic512ih56oc512kh3ph1")
    problems = [ConvProblem.parse(text, pass_="backward_weight", device="cuda") for text in texts]
    errors = [cost.gpu_winograd_weight_error(p) / cost.winograd_f4x3_error(p) for p in problems]
    assert errors[0] == 1 and 1 < errors[1] < 1.5 < errors[2] < 3


# ---------------------------------------------------------------------------------------------------------------
# Arrays on a GPU


def on_device(array):
    from numba import cuda

    return cuda.to_device(np.ascontiguousarray(array))


@pytest.fixture
def arrays(rng):
    return calls.integers(rng, 2, 3, 5, 6), calls.integers(rng, 4, 3, 3, 3), calls.integers(rng, 4)


def test_device_arrays_in_and_the_same_kind_out(arrays):
    x, w, b = arrays
    dx, dw, db = map(on_device, arrays)
    y = fastconv.conv2d(x, w, b, padding=1, activation="relu")
    found = fastconv.conv2d(dx, dw, db, padding=1, activation="relu")
    assert type(found) is type(dx)
    compare.assert_exact(found.copy_to_host(), y)
    out = on_device(np.full_like(y, np.nan))
    assert fastconv.conv2d(dx, dw, db, padding=1, activation="relu", out=out) is out
    compare.assert_exact(out.copy_to_host(), y)
    for found, wanted in zip(
        fastconv.conv2d_backward(on_device(y), dx, dw, padding=1), fastconv.conv2d_backward(y, x, w, padding=1)
    ):
        compare.assert_exact(found.copy_to_host(), wanted)
    pooled, indices = fastconv.max_pool2d(on_device(y), 2, return_indices=True)
    p, i = fastconv.max_pool2d(y, 2, return_indices=True)
    compare.assert_exact(pooled.copy_to_host(), p)
    compare.assert_exact(indices.copy_to_host(), i)
    compare.assert_exact(
        fastconv.max_pool2d_backward(pooled, y.shape, indices, 2).copy_to_host(),
        fastconv.max_pool2d_backward(p, y.shape, i, 2),
    )
    compare.assert_exact(
        fastconv.conv_transpose2d(on_device(y), dw, stride=2).copy_to_host(), fastconv.conv_transpose2d(y, w, stride=2)
    )


def test_one_image_without_a_batch_axis(arrays):
    x, w, _ = arrays
    compare.assert_exact(fastconv.conv2d(on_device(x[0]), on_device(w)).copy_to_host(), fastconv.conv2d(x[0], w))


def test_strided_device_arrays_are_read_in_place(arrays):
    x, w, _ = arrays
    turned = on_device(calls.nhwc(x)).transpose((0, 3, 1, 2))
    compare.assert_exact(fastconv.conv2d(turned, on_device(w)).copy_to_host(), fastconv.conv2d(x, w))


def test_host_arrays_are_copied_where_the_backend_says_so(arrays):
    x, w, b = arrays
    y = fastconv.conv2d(x, w, b)
    found = fastconv.conv2d(x, w, b, backend="cuda")
    assert type(found) is np.ndarray
    compare.assert_exact(found, y)
    out = np.full_like(y, np.nan)
    assert fastconv.conv2d(x, w, b, backend="cuda", out=out) is out
    compare.assert_exact(out, y)
    with fastconv.config(backend="cuda"):
        compare.assert_exact(fastconv.conv2d(x, w, b), y)
    assert "copied" in fastconv.explain(x.shape, w.shape, backend="cuda")
    assert fastconv.explain(x.shape, w.shape, backend="cuda").kernel.endswith("__cuda")
    assert fastconv.explain(on_device(x), w.shape).kernel.endswith("__cuda")
    assert not fastconv.explain(x.shape, w.shape).kernel.endswith("__cuda")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32"])
def test_other_dtypes_are_computed_as_on_the_host(arrays, dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    x, w, _ = (a.astype(dtype) for a in arrays)
    compare.assert_same_bits(fastconv.conv2d(x, w, backend="cuda"), fastconv.conv2d(x, w))
    halves = (np.arange(24).reshape(1, 2, 3, 4) / 7).astype(dtype)
    compare.assert_same_bits(fastconv.max_pool2d(halves, 2, backend="cuda"), fastconv.max_pool2d(halves, 2))


def test_faults_have_one_sentence(arrays):
    x, w, _ = arrays
    dx, dw = on_device(x), on_device(w)
    with pytest.raises(TypeError, match="input lives on a GPU, but weight on the host"):
        fastconv.conv2d(dx, w)
    with pytest.raises(TypeError, match="out is ndarray"):
        fastconv.conv2d(dx, dw, out=np.empty((2, 4, 3, 4), np.float32))
    with pytest.raises(ValueError, match="out shares memory with input"):
        fastconv.conv2d(dx, on_device(np.ones((3, 3, 1, 1), np.float32)), out=dx)
    with pytest.raises(NoKernelError, match="its arrays are on a GPU, where only CUDA rows run"):
        fastconv.conv2d(dx, dw, algorithm="reference")
    with pytest.raises(TypeError, match="takes arrays of the host only"):
        fastconv.lp_pool2d(dx, 2, 2)
    with pytest.raises(ValueError, match="pads on the host only"):
        fastconv.conv2d(dx, dw, padding=1, padding_mode="circular")
    with pytest.raises(ValueError, match="channel"):
        fastconv.conv2d(on_device(x[:, :2]), dw)


class TwoGPUs:
    """Stands for numba.cuda on a machine with two GPUs: the current one, what was made on which, where kernels ran."""

    def __init__(self, one):
        self._one, self.current, self.made, self.launched = one, 0, {}, []
        self.gpus = {1: self}

    def __getattr__(self, name):
        return getattr(self._one, name)

    def __enter__(self):
        assert self.current == 0
        self.current = 1

    def __exit__(self, *exception):
        self.current = 0

    def _kept(self, array):
        self.made[array.__array_interface__["data"][0]] = self.current
        return array

    def device_array(self, *arguments):
        return self._kept(self._one.device_array(*arguments))

    def to_device(self, values):
        return self._kept(self._one.to_device(values))


@pytest.fixture
def two_gpus(monkeypatch):
    from numba.cuda.simulator.kernel import FakeCUDAKernel

    from fastconv._cuda import arrays, launch, session

    found, call = TwoGPUs(arrays.cuda), FakeCUDAKernel.__call__

    def counted(kernel, *arguments):
        if not kernel._device:
            found.launched.append(found.current)
        return call(kernel, *arguments)

    monkeypatch.setattr(FakeCUDAKernel, "__call__", counted)
    for module in (arrays, launch, session):
        monkeypatch.setattr(module, "cuda", found)
    for module in (arrays, session):
        monkeypatch.setattr(module, "current_device", lambda: found.current)
    monkeypatch.setattr(arrays, "device_of", found.made.get)
    return found


def test_kernels_and_buffers_go_where_the_arrays_live(arrays, two_gpus):
    """Which need not be the current GPU."""
    x, w, b = arrays
    with two_gpus:
        there = [two_gpus.to_device(a) for a in arrays]
    here = two_gpus.to_device(x)
    before = set(two_gpus.made)
    found = fastconv.conv2d(*there, padding=1, algorithm="im2col")
    compare.assert_exact(found.copy_to_host(), fastconv.conv2d(x, w, b, padding=1))
    new = [gpu for address, gpu in two_gpus.made.items() if address not in before]
    assert new and set(new) == {1} and two_gpus.launched and set(two_gpus.launched) == {1}
    with pytest.raises(TypeError, match="input on 0, weight on 1"):
        fastconv.conv2d(here, there[1])


def test_a_network_stays_on_its_gpu(rng, two_gpus):
    """On the one that was current when it was compiled, whichever is later."""
    x, y = rng.standard_normal((4, 6, 6, 1)).astype(np.float32), rng.integers(0, 3, 4)
    model = Sequential([
        layers.Conv2D(2, 3, activation="relu", input_shape=(6, 6, 1)), layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ])  # fmt: skip
    with two_gpus:
        model.compile("adam", "sparse_categorical_crossentropy", backend="cuda")
    for _ in range(3):  # makes its memory, is recorded, is replayed
        model.train_on_batch(x, y)
    model.predict(x)
    assert set(two_gpus.made.values()) == {1} and two_gpus.launched and set(two_gpus.launched) == {1}
