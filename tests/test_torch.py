"""PyTorch as a second oracle: the same arguments to both, results and gradients compared in float64."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastconv
from fastconv.problem import ConvProblem
from tests import cases, compare, rows

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
F = torch.nn.functional


@pytest.fixture(autouse=True)
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensor(a, grad=False):
    return torch.from_numpy(np.array(a, np.float64)).requires_grad_(grad)


def symmetric(p):
    return p.ph == p.ph_r and p.pw == p.pw_r


TEXTS = tuple(
    t for t in dict.fromkeys((*cases.BASIC, *cases.THREE_BY_THREE, *cases.LAYERS, *cases.SWEEP[:12]))
    if symmetric(ConvProblem.parse(t))
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_convolution_and_its_gradients(text):
    """Exact, on integers."""
    p = ConvProblem.parse(text, bias=True)
    o = rows.operands(p, "integers")
    x, w, b = tensor(o.x, True), tensor(o.w, True), tensor(o.bias, True)
    geometry = ((p.sh, p.sw), (p.ph, p.pw), (p.dh, p.dw), p.g)
    y = F.conv2d(x, w, b, *geometry)
    y.backward(tensor(o.y))
    exact = {"precision": "strict"}
    compare.assert_exact(fastconv.conv2d(o.x, o.w, o.bias, *geometry, **exact), y.detach().numpy())
    for got, want in zip(fastconv.conv2d_backward(o.y, o.x, o.w, *geometry, **exact), (x, w, b)):
        compare.assert_exact(got, want.grad.numpy())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even:UserWarning")
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel, dilation", [((3, 3), 1), ((4, 5), 1), ((2, 3), (3, 2)), ((1, 6), 1)])
def test_padding_words(padding, kernel, dilation, rng):
    """At stride 1, where torch has them; the odd cell comes at the end in both."""
    x = rng.integers(-3, 4, (2, 3, 9, 10)).astype("f4")
    w = rng.integers(-3, 4, (4, 3, *kernel)).astype("f4")
    y = fastconv.conv2d(x, w, None, 1, padding, dilation, precision="strict")
    compare.assert_exact(y, F.conv2d(tensor(x), tensor(w), None, 1, padding, dilation).numpy())


@given(
    st.sampled_from([1, 1, 2, 3]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5),
    st.tuples(st.integers(1, 4), st.integers(1, 4)), st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.integers(0, 2**31),
)  # fmt: skip
def test_transposed_convolution(g, ic, oc, h, w, stride, dilation, padding, extra, seed):
    rng = np.random.default_rng(seed)
    extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(extra, stride, dilation))
    x = rng.integers(-3, 4, (2, g * ic, h, w)).astype("f4")
    weight = rng.integers(-3, 4, (g * ic, oc, 3, 2)).astype("f4")
    bias = rng.integers(-3, 4, g * oc).astype("f4")
    arguments = (stride, padding, extra, g, dilation)
    try:
        wanted = F.conv_transpose2d(tensor(x), tensor(weight), tensor(bias), *arguments).numpy()
    except RuntimeError:
        with pytest.raises(ValueError, match="would be"):
            fastconv.conv_transpose2d(x, weight, bias, *arguments)
        return
    compare.assert_exact(fastconv.conv_transpose2d(x, weight, bias, *arguments, precision="strict"), wanted)


POOL_GEOMETRIES = list(
    itertools.product(((2, 2), (3, 2), (1, 4)), (None, (2, 1), (3, 3)), (0, 1), (False, True), ((7, 9), (8, 12)))
)


@pytest.mark.parametrize("kernel, stride, padding, ceil_mode, size", POOL_GEOMETRIES)
def test_max_pool(kernel, stride, padding, ceil_mode, size, rng):
    """Values, indices (ties take the first) and gradient."""
    padding = (min(padding, kernel[0] // 2), min(padding, kernel[1] // 2))
    x = rng.integers(-3, 4, (2, 5, *size)).astype("f4")
    t = tensor(x, True)
    want, where = F.max_pool2d(t, kernel, stride, padding, 1, ceil_mode, return_indices=True)
    y, indices = fastconv.max_pool2d(x, kernel, stride, padding, 1, ceil_mode, return_indices=True)
    compare.assert_exact(y, want.detach().numpy())
    compare.assert_exact(indices, where.numpy())
    dy = rng.integers(-3, 4, y.shape).astype("f4")
    want.backward(tensor(dy))
    dx = fastconv.max_pool2d_backward(dy, x.shape, indices, kernel, stride, padding, 1, ceil_mode)
    compare.assert_exact(dx, t.grad.numpy())


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_max_pool_of_nan_and_inf(layout, rng):
    """NaN wins, its last index; a window of -inf gives its first cell."""
    x = rng.standard_normal((1, 19, 8, 9)).astype("f4")
    x[rng.random(x.shape) < 0.2] = np.nan
    x[rng.random(x.shape) < 0.2] = np.inf
    x[:, :7, :4] = -np.inf
    want, where = F.max_pool2d(torch.from_numpy(x), 3, 2, 1, return_indices=True)
    given_x = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    y, indices = fastconv.max_pool2d(given_x, 3, 2, 1, return_indices=True, layout=layout)
    if layout == "NHWC":
        y, indices = y.transpose(0, 3, 1, 2), indices.transpose(0, 3, 1, 2)
    compare.assert_exact(y, want.numpy())
    compare.assert_exact(indices, where.numpy())


def test_dilated_max_pool(rng):
    x = rng.integers(-3, 4, (1, 4, 11, 12)).astype("f4")
    want, where = F.max_pool2d(tensor(x), (2, 3), (1, 2), (1, 1), (2, 3), return_indices=True)
    y, indices = fastconv.max_pool2d(x, (2, 3), (1, 2), (1, 1), (2, 3), return_indices=True)
    compare.assert_exact(y, want.numpy())
    compare.assert_exact(indices, where.numpy())


@pytest.mark.parametrize("include, divisor", [(True, None), (False, None), (True, 4), (False, 8)])
@pytest.mark.parametrize("kernel, stride, padding, ceil_mode, size", POOL_GEOMETRIES)
def test_avg_pool(kernel, stride, padding, ceil_mode, size, include, divisor, rng):
    padding = (min(padding, kernel[0] // 2), min(padding, kernel[1] // 2))
    x = rng.integers(-3, 4, (2, 5, *size)).astype("f8")
    arguments = (kernel, stride, padding, ceil_mode, include, divisor)
    t = tensor(x, True)
    want = F.avg_pool2d(t, *arguments)
    y = fastconv.avg_pool2d(x, *arguments)
    magnitude = F.avg_pool2d(tensor(np.abs(x)), *arguments).numpy()
    compare.assert_rounding(y, want.detach().numpy(), magnitude, "pool")
    dy = rng.integers(-3, 4, y.shape).astype("f8")
    want.backward(tensor(dy))
    u = tensor(x, True)
    F.avg_pool2d(u, *arguments).backward(tensor(np.abs(dy)))
    dx = fastconv.avg_pool2d_backward(dy, x.shape, *arguments)
    compare.assert_rounding(dx, t.grad.numpy(), u.grad.numpy(), "pool")


@pytest.mark.parametrize("size, output", [((7, 9), (1, 1)), ((7, 9), (3, 4)), ((4, 5), (6, 9)), ((8, 8), (8, 2))])
def test_adaptive_pools(size, output, rng):
    x = rng.integers(-3, 4, (2, 5, *size)).astype("f8")
    want, where = F.adaptive_max_pool2d(tensor(x), output, return_indices=True)
    y, indices = fastconv.adaptive_max_pool2d(x, output, return_indices=True)
    compare.assert_exact(y, want.numpy())
    compare.assert_exact(indices, where.numpy())
    t = tensor(x, True)
    want = F.adaptive_avg_pool2d(t, output)
    magnitude = F.adaptive_avg_pool2d(tensor(np.abs(x)), output).numpy()
    y = fastconv.adaptive_avg_pool2d(x, output)
    compare.assert_rounding(y, want.detach().numpy(), magnitude, "pool")
    dy = np.abs(rng.integers(-3, 4, y.shape).astype("f8"))
    want.backward(tensor(dy))
    compare.assert_rounding(
        fastconv.adaptive_avg_pool2d_backward(dy, x.shape), t.grad.numpy(), t.grad.numpy(), "pool"
    )


def test_unpool_and_lp_pool(rng):
    x = np.abs(rng.integers(-3, 4, (2, 3, 8, 6))).astype("f8")
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    want = F.max_unpool2d(tensor(y), torch.from_numpy(indices), 2)
    compare.assert_exact(fastconv.max_unpool2d(y, indices, 2), want.numpy())
    want = F.lp_pool2d(tensor(x), 1.0, 2)
    compare.assert_exact(fastconv.lp_pool2d(x, 1.0, 2), want.numpy())


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode, rng):
    x, w = rng.integers(-3, 4, (2, 3, 7, 8)).astype("f4"), rng.integers(-3, 4, (4, 3, 3, 3)).astype("f4")
    layer = torch.nn.Conv2d(3, 4, 3, padding=(2, 3), padding_mode=mode, bias=False, dtype=torch.float64)
    layer.weight.data = tensor(w)
    want = layer(tensor(x)).detach().numpy()
    compare.assert_exact(fastconv.conv2d(x, w, padding=(2, 3), padding_mode=mode, precision="strict"), want)


def test_tensors_and_their_gradients_are_arrays_too(rng):
    """A CPU tensor is read without a copy through the array protocol."""
    x, w = rng.integers(-3, 4, (1, 3, 6, 6)).astype("f4"), rng.integers(-3, 4, (4, 3, 3, 3)).astype("f4")
    y = fastconv.conv2d(torch.from_numpy(x), torch.from_numpy(w))
    compare.assert_exact(y, fastconv.conv2d(x, w, algorithm="reference"))


def test_one_dimension(rng):
    x, w = rng.integers(-3, 4, (2, 3, 17)).astype("f4"), rng.integers(-3, 4, (4, 3, 5)).astype("f4")
    compare.assert_exact(fastconv.conv1d(x, w, None, 2, 1, 2), F.conv1d(tensor(x), tensor(w), None, 2, 1, 2).numpy())
    t = np.ascontiguousarray(w.transpose(1, 0, 2))
    want = F.conv_transpose1d(tensor(x), tensor(t), None, 2, 1, 1, 1, 1).numpy()
    compare.assert_exact(fastconv.conv_transpose1d(x, t, None, 2, 1, 1, 1, 1), want)
