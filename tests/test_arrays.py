"""Arrays as they come: 48 memory forms of the same values give the same result, or an error; never a wrong number."""

import itertools

import numpy as np
import pytest

import fastconv
from tests import compare


class Exporter:
    """An object with the array protocol and nothing else."""

    def __init__(self, array, protocol):
        self._array = array
        setattr(self, protocol, getattr(array, protocol))


class Subclass(np.ndarray):
    """A subclass whose operators must not run inside the library."""

    def __mul__(self, other):
        raise AssertionError("an operator of a subclass ran")

    __add__ = __array_ufunc__ = __array_function__ = __mul__


def in_order(a, axes):
    """The same values, stored in the order `axes` of the axes."""
    return np.ascontiguousarray(a.transpose(axes)).transpose(np.argsort(axes))


def negative(a, axis):
    index = [slice(None)] * a.ndim
    index[axis] = slice(None, None, -1)
    return a[tuple(index)].copy()[tuple(index)]


def stepped(a, axis):
    shape = list(a.shape)
    shape[axis] *= 2
    wide = np.full(shape, 99, a.dtype)
    index = [slice(None)] * a.ndim
    index[axis] = slice(None, None, 2)
    wide[tuple(index)] = a
    return wide[tuple(index)]


def misaligned(a, offset):
    """C_CONTIGUOUS is still set."""
    raw = np.zeros(a.nbytes + 16, np.uint8)
    view = raw[offset : offset + a.nbytes].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert view.flags.c_contiguous and not view.flags.aligned
    return view


def padded_rows(a):
    wide = np.full((*a.shape[:-1], a.shape[-1] + 3), 99, a.dtype)
    wide[..., :-3] = a
    return wide[..., :-3]


def packed_field(a):
    struct = np.zeros(a.shape, np.dtype([("tag", "u1"), ("value", a.dtype)]))
    struct["value"] = a
    return struct["value"]


def real_part(a):
    return (a + 1j * 99).astype(np.complex64 if a.dtype == np.float32 else np.complex128).real


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def odd_strides(a):
    """Axes of size 1 may have any stride; NumPy calls the array contiguous all the same."""
    one = a[:1]
    strides = (12345, *one.strides[1:])
    return np.concatenate([one, a[1:]]) if a.shape[0] > 1 else np.lib.stride_tricks.as_strided(one, one.shape, strides)


def memmap(a, tmp_path):
    path = tmp_path / "values.bin"
    path.write_bytes(b"\0" * 3 + a.tobytes())
    return np.memmap(path, a.dtype, "r", offset=3, shape=a.shape)


FORMS = {f"order {''.join(map(str, axes))}": (lambda a, axes=axes: in_order(a, axes))
         for axes in itertools.permutations(range(4))}  # fmt: skip
FORMS |= {f"negative {axis}": (lambda a, axis=axis: negative(a, axis)) for axis in range(4)}
FORMS |= {f"stepped {axis}": (lambda a, axis=axis: stepped(a, axis)) for axis in range(4)}
FORMS |= {
    "negative all": lambda a: a[::-1, ::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1, ::-1],
    "padded rows": padded_rows,
    "misaligned by 1": lambda a: misaligned(a, 1),
    "misaligned by 2": lambda a: misaligned(a, 2),
    "packed field": packed_field,
    "real part": real_part,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "byte-swapped and misaligned": lambda a: misaligned(a.astype(a.dtype.newbyteorder()), 1),
    "read-only": read_only,
    "bytes": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "subclass": lambda a: a.copy().view(Subclass),
    "array interface": lambda a: Exporter(a, "__array_interface__"),
    "array struct": lambda a: Exporter(a, "__array_struct__"),
    "memoryview": memoryview,
    "list": lambda a: a.astype(np.float64).tolist(),
    "odd strides": odd_strides,
}


def test_there_are_48_forms():
    assert len(FORMS) == 48


@pytest.fixture
def image(rng):
    return rng.integers(-3, 4, (2, 5, 9, 12)).astype(np.float32)


@pytest.fixture
def weight(rng):
    return rng.integers(-3, 4, (6, 5, 3, 2)).astype(np.float32)


def test_forms_have_the_same_values(image):
    for name, form in FORMS.items():
        assert np.array_equal(np.asarray(form(image), np.float32), image), name


def forced():
    from tests import rows

    some = ("winograd", "depthwise", "grouped")  # not for every shape
    for row in rows.rows(op="conv2d", pass_="forward", where=lambda k: k.family not in some):
        kernel, isa = row.values
        if isa in (None, "avx2", "portable", "neon") or row.marks:
            yield pytest.param({"algorithm": kernel.algorithm, "backend": kernel.backend}, id=row.id, marks=row.marks)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", {p.id: p for p in forced()}.values())
def test_conv2d_of_every_form(form, options, image, weight):
    """Twice in this order: once a kernel has seen one form it must not take the next for the same."""
    if form == "list" and options["algorithm"] == "im2col_f64":
        pytest.skip("a list is float64, which this row does not take")
    wanted = fastconv.conv2d(image, weight, stride=(1, 2), padding=1, algorithm="reference")
    x, w = FORMS[form](image), FORMS[form](weight)
    compare.assert_exact(fastconv.conv2d(x, weight, None, (1, 2), 1, **options), wanted)
    compare.assert_exact(fastconv.conv2d(image, w, None, (1, 2), 1, **options), wanted)
    compare.assert_exact(fastconv.conv2d(x, w, None, (1, 2), 1, **options), wanted)


@pytest.mark.parametrize("backend", ["auto", "numba"])
@pytest.mark.parametrize("form", FORMS)
def test_other_functions_of_every_form(form, backend, image, weight):
    from fastconv import host

    if backend == "numba" and host.numba_fault():
        pytest.skip(host.numba_fault())
    make, o = FORMS[form], {"backend": backend}
    strict = {**o, "precision": "strict"}
    y = fastconv.conv2d(image, weight)
    exact = {"algorithm": "reference"}
    compare.assert_exact(
        fastconv.conv2d_input(image.shape, make(weight), make(y), **strict),
        fastconv.conv2d_input(image.shape, weight, y, **exact),
    )
    compare.assert_exact(
        fastconv.conv2d_weight(make(image), weight.shape, make(y), **strict),
        fastconv.conv2d_weight(image, weight.shape, y, **exact),
    )
    t = np.ascontiguousarray(weight.transpose(1, 0, 2, 3))
    compare.assert_exact(
        fastconv.conv_transpose2d(make(image), make(t), stride=2, **strict),
        fastconv.conv_transpose2d(image, t, stride=2, **exact),
    )
    pooled, indices = fastconv.max_pool2d(image, 2, return_indices=True, **exact)
    got, got_indices = fastconv.max_pool2d(make(image), 2, return_indices=True, **o)
    compare.assert_exact(got, pooled)
    compare.assert_exact(got_indices, indices)
    if form not in ("real part", "list"):  # those make floats of the indices
        compare.assert_exact(
            fastconv.max_pool2d_backward(make(pooled), image.shape, make(indices), 2, **o),
            fastconv.max_pool2d_backward(pooled, image.shape, indices, 2, **exact),
        )
    compare.assert_exact(
        fastconv.avg_pool2d(make(image), 2, divisor_override=2, **o),
        fastconv.avg_pool2d(image, 2, divisor_override=2, **exact),
    )


@pytest.mark.parametrize("form", FORMS)
def test_bias_residual_and_out_of_every_form(form, image, weight, rng):
    bias = rng.integers(-3, 4, (6, 1, 1, 1)).astype(np.float32)
    y = fastconv.conv2d(image, weight)
    residual = rng.integers(-3, 4, y.shape).astype(np.float32)
    wanted = fastconv.conv2d(image, weight, bias.ravel(), residual=residual, algorithm="reference")
    b = np.asarray(FORMS[form](bias)).reshape(-1)
    compare.assert_exact(fastconv.conv2d(image, weight, b, residual=FORMS[form](residual)), wanted)
    out = FORMS[form](np.full_like(y, np.nan))
    if type(out) in (np.ndarray, Subclass) and out.flags.writeable and out.dtype == y.dtype:
        assert fastconv.conv2d(image, weight, b, residual=residual, out=out) is out
        compare.assert_exact(np.asarray(out.view(np.ndarray)), wanted)


def test_memmap(image, weight, tmp_path):
    compare.assert_exact(
        fastconv.conv2d(memmap(image, tmp_path), weight), fastconv.conv2d(image, weight, algorithm="reference")
    )


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("function", ["conv2d", "max_pool2d"])
def test_masked_arrays_are_refused(function, mask, image, weight):
    """Their masked values would silently count."""
    masked = np.ma.masked_array(image, mask=mask)
    argument = (masked, weight) if function == "conv2d" else (masked, 2)
    with pytest.raises(TypeError, match="masked array"):
        getattr(fastconv, function)(*argument)
    with pytest.raises(TypeError, match="masked array"):
        fastconv.conv2d(image, np.ma.masked_array(weight, mask=mask))


@pytest.mark.parametrize("algorithm", ["auto", "im2col", "naive", "winograd_f2x3"])
@pytest.mark.parametrize("backend", ["auto", "numba"])
def test_broadcast_inputs(algorithm, backend, rng):
    """Stride 0 in image, weight, bias and residual."""
    x = np.broadcast_to(rng.integers(-3, 4, (1, 5, 1, 12)).astype("f4"), (2, 5, 9, 12))
    w = np.broadcast_to(rng.integers(-3, 4, (1, 5, 3, 3)).astype("f4"), (6, 5, 3, 3))
    b = np.broadcast_to(np.float32(2), (6,))
    r = np.broadcast_to(np.float32(-1), (2, 6, 7, 10))
    precision = "strict" if algorithm == "auto" else 1e-4  # F2x3 is exact on these integers too
    try:
        y = fastconv.conv2d(x, w, b, residual=r, algorithm=algorithm, backend=backend, precision=precision)
    except fastconv.NoKernelError as error:
        pytest.skip(str(error).splitlines()[0])
    wanted = fastconv.conv2d(x.copy(), w.copy(), b.copy(), residual=r.copy(), algorithm="reference")
    compare.assert_exact(y, wanted)


def test_overlapping_windows_as_input(rng):
    """A view whose elements share memory can be read."""
    line = rng.integers(-3, 4, 40).astype(np.float32)
    x = np.lib.stride_tricks.sliding_window_view(line, 12)[:9][None, None]
    w = rng.integers(-3, 4, (2, 1, 3, 3)).astype(np.float32)
    compare.assert_exact(fastconv.conv2d(x, w), fastconv.conv2d(x.copy(), w, algorithm="reference"))


def test_inputs_that_share_memory_with_each_other(rng):
    a = rng.integers(-3, 4, (3, 3, 3, 3)).astype(np.float32)
    compare.assert_exact(fastconv.conv2d(a, a), fastconv.conv2d(a.copy(), a.copy(), algorithm="reference"))


def test_inputs_are_never_written(image, weight):
    x, w = image.copy(), weight.copy()
    y = fastconv.conv2d(x, w, padding=1)
    fastconv.conv2d_backward(y, x, w, padding=1)
    fastconv.max_pool2d(x, 2)
    compare.assert_same_bits(x, image)
    compare.assert_same_bits(w, weight)


def test_results_are_plain_writable_arrays(image, weight):
    for x in (image.view(Subclass), read_only(image), np.asfortranarray(image)):
        y = fastconv.conv2d(x, weight)
        assert type(y) is np.ndarray and y.flags.writeable and y.flags.c_contiguous and y.flags.owndata
