# cython: freethreading_compatible = True
"""The short way into a kernel: calls whose checks were made before run here, without a line of Python.

A call of a public function that went the long way leaves a Call behind, bound to its plan's kernel. The next one with
equal arguments finds it; whatever is unusual about the arrays makes the short way answer None, and the long way takes
over, with its checks and its messages.
"""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uintptr_t

from fastconv._cython.fastconv cimport (
    FC_MAX_POOL,
    FC_NHWC,
    fc_avg_pool2d_backward,
    fc_avg_pool2d_forward,
    fc_conv2d_kernel,
    fc_epilogue,
    fc_free_scratch,
    fc_get_isa,
    fc_max_pool2d_backward,
    fc_max_pool2d_forward,
    fc_scratch,
    fc_view,
)
from fastconv._cython.kernel cimport ConvKernel, PackedWeights
from fastconv._cython.shape cimport ConvShape, PoolShape

cnp.import_array()

cdef extern from "Python.h":
    int PyLong_CheckExact(object)
    int PyUnicode_CheckExact(object)
    int PyFloat_CheckExact(object)
    int PyTuple_CheckExact(object)
    int PyBool_Check(object)
    PyObject *PyDict_GetItemWithError(object, object)
    int PyUnicode_Compare(object, object)
    int PyContextVar_Get(object, PyObject *, PyObject **)

cdef enum:
    SETS = 32
    WAYS = 8
    NUMBERS = 13
    OPTIONS = 11
    SCRATCH_BYTES = 1 << 20  # a thread's small scratch; above it the allocation is nothing beside the work

# Which public function.
cdef enum:
    CONV2D
    MAX_POOL2D
    AVG_POOL2D
    ADAPTIVE_MAX_POOL2D
    ADAPTIVE_AVG_POOL2D
    MAX_POOL2D_BACKWARD
    AVG_POOL2D_BACKWARD
    ADAPTIVE_MAX_POOL2D_BACKWARD
    ADAPTIVE_AVG_POOL2D_BACKWARD

cdef dict FUNCTIONS = {
    "conv2d": CONV2D,
    "max_pool2d": MAX_POOL2D,
    "avg_pool2d": AVG_POOL2D,
    "adaptive_max_pool2d": ADAPTIVE_MAX_POOL2D,
    "adaptive_avg_pool2d": ADAPTIVE_AVG_POOL2D,
    "max_pool2d_backward": MAX_POOL2D_BACKWARD,
    "avg_pool2d_backward": AVG_POOL2D_BACKWARD,
    "adaptive_max_pool2d_backward": ADAPTIVE_MAX_POOL2D_BACKWARD,
    "adaptive_avg_pool2d_backward": ADAPTIVE_AVG_POOL2D_BACKWARD,
}


cdef struct Key:
    int64_t numbers[NUMBERS]  # function, dtype, axes, shapes of input and weight, which arrays are given
    PyObject *options[OPTIONS]  # all other arguments, borrowed; None behind the last


# ---- Arrays ----------------------------------------------------------------------------------------------------


cdef inline bint plain(object value, int typenum, int ndim, const cnp.npy_intp *shape, int flags) noexcept:
    """Whether kernels take it as it is: an exact ndarray of this native dtype and shape, with these flags."""
    if not cnp.PyArray_CheckExact(value):
        return False
    cdef cnp.ndarray array = <cnp.ndarray> value
    if cnp.PyArray_TYPE(array) != typenum or cnp.PyArray_NDIM(array) != ndim:
        return False
    if cnp.PyArray_FLAGS(array) & flags != flags or not cnp.PyArray_ISNOTSWAPPED(array):
        return False
    cdef int i
    for i in range(ndim):
        if cnp.PyArray_DIM(array, i) != shape[i]:
            return False
    return True


cdef inline bint apart(cnp.ndarray out, object value) noexcept:
    """Whether the memory between the first and the last byte of `value` (None or an ndarray) has none of `out`'s."""
    if value is None:
        return True
    cdef cnp.ndarray array = <cnp.ndarray> value
    cdef uintptr_t low = <uintptr_t> cnp.PyArray_DATA(array), high = low + cnp.PyArray_ITEMSIZE(array)
    cdef uintptr_t start = <uintptr_t> cnp.PyArray_DATA(out)
    cdef int64_t reach
    cdef int i
    for i in range(cnp.PyArray_NDIM(array)):
        reach = (cnp.PyArray_DIM(array, i) - 1) * cnp.PyArray_STRIDE(array, i)
        if reach > 0:
            high += reach
        else:
            low += reach
    return high <= start or start + <uintptr_t> cnp.PyArray_NBYTES(out) <= low


# ---- What else a call depends on -------------------------------------------------------------------------------


@cython.final
cdef class State:
    """A context variable and some module globals: a call stays valid while they are the same objects."""

    cdef object variable
    cdef tuple places

    def __init__(self, variable, *places):
        """places: pairs (dict, name)."""
        self.variable, self.places = variable, places

    cdef PyObject *context(self) noexcept:
        """What the variable holds, borrowed from it; None if it is unset."""
        cdef PyObject *value = NULL
        PyContextVar_Get(self.variable, <PyObject *> None, &value)
        Py_XDECREF(value)
        return value

    def now(self):
        """The objects themselves."""
        value = self.context()
        return (
            <object> value,
            *[space.get(name) for space, name in self.places],
        )

    cdef bint equals(self, tuple seen, int isa) noexcept:
        cdef PyObject *value
        cdef tuple place
        cdef int i
        if isa != fc_get_isa() or self.context() != <PyObject *> seen[0]:
            return False
        for i in range(len(self.places)):
            place = <tuple> self.places[i]
            value = PyDict_GetItemWithError(place[0], place[1])
            if value == NULL:
                value = <PyObject *> None
            if value != <PyObject *> seen[i + 1]:
                return False
        return True


@cython.internal
cdef class Call:
    """What every bound kernel has: when it may be used, and the arguments that it serves."""

    cdef State state
    cdef tuple seen
    cdef int isa
    cdef Key key
    cdef tuple options  # keeps those of the key

    def stale(self):
        """Whether settings, threads, tuned choices or the instruction set have changed: it answers None until they
        change back."""
        return not self.state.equals(self.seen, self.isa)


# ---- Kernels bound to a problem --------------------------------------------------------------------------------


@cython.final
cdef class ConvCall(Call):
    """The forward kernel of a plan, for arrays of one shape; called as (input, out, residual) with held weights."""

    cdef ConvShape shape
    cdef ConvKernel kernel
    cdef const fc_conv2d_kernel *c
    cdef fc_view x_view, y_view  # their strides
    cdef fc_epilogue epilogue
    cdef int typenum, ndim, threads
    cdef bint has_bias, has_residual, nhwc, release
    cdef cnp.npy_intp x_shape[4]
    cdef cnp.npy_intp w_shape[4]
    cdef cnp.npy_intp y_shape[4]
    cdef cnp.npy_intp channels
    cdef int64_t need
    cdef object workspace
    # weights, if held
    cdef cnp.ndarray weight, bias
    cdef PackedWeights packed

    def __init__(
        self, ConvKernel kernel not None, ConvShape shape not None, int typenum, int ndim, int threads, bint release,
        State state not None, bint has_bias, bint has_residual, workspace, weight=None, bias=None,
        PackedWeights packed=None,
    ):
        """ndim: axes of the image arrays, 3 without the batch's. release: whether to release the GIL. workspace: called
        with a number of bytes where a call needs many. weight and bias, contiguous, are held if given."""
        cdef int64_t n, c, h, w
        cdef int skip = 4 - ndim
        self.kernel, self.c, self.shape = kernel, kernel.c, shape
        self.typenum, self.ndim = typenum, ndim
        self.has_bias, self.has_residual, self.threads, self.release = has_bias, has_residual, threads, release
        self.workspace = workspace
        self.nhwc = shape.c.layout == FC_NHWC
        self.epilogue.clamp, self.epilogue.lo, self.epilogue.hi = shape.clamp, shape.lo, shape.hi
        self.channels = shape.c.oc
        image(self.x_shape, &self.x_view, self.nhwc, skip, shape.c.mb, shape.c.ic, shape.c.ih, shape.c.iw)
        image(self.y_shape, &self.y_view, self.nhwc, skip, shape.c.mb, shape.c.oc, shape.c.oh, shape.c.ow)
        self.epilogue.residual = self.y_view
        n, c, h, w = shape.c.oc, shape.c.ic // shape.c.g, shape.c.kh, shape.c.kw
        if self.nhwc:
            self.w_shape[0], self.w_shape[1], self.w_shape[2], self.w_shape[3] = h, w, c, n
        else:
            self.w_shape[0], self.w_shape[1], self.w_shape[2], self.w_shape[3] = n, c, h, w
        self.weight, self.bias, self.packed = weight, bias, packed
        self.need = kernel.c.workspace(&shape.c, packed is not None, threads)
        self.state = state
        self.seen = state.now()
        self.isa = fc_get_isa() if packed is None else packed.isa_index

    def __call__(self, input, out=None, residual=None):
        """The output, or None if this is not the place for these arrays."""
        if not self.state.equals(self.seen, self.isa):
            return None
        return self.convolve(input, self.weight, self.bias, residual, out)

    cdef object convolve(self, object x, object w, object bias, object residual, object out):
        """All checks that depend on the arrays; None if one fails."""
        cdef int flags = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED
        if not plain(x, self.typenum, self.ndim, self.x_shape, flags):
            return None
        if not plain(w, self.typenum, 4, self.w_shape, cnp.NPY_ARRAY_ALIGNED):
            return None
        if self.has_bias != (bias is not None) or self.has_residual != (residual is not None):
            return None
        if bias is not None and not plain(bias, self.typenum, 1, &self.channels, flags):
            return None
        if residual is not None and not plain(residual, self.typenum, self.ndim, self.y_shape, flags):
            return None
        if out is None:
            out = cnp.PyArray_EMPTY(self.ndim, self.y_shape, self.typenum, 0)
        elif not (
            plain(out, self.typenum, self.ndim, self.y_shape, flags | cnp.NPY_ARRAY_WRITEABLE)
            and apart(<cnp.ndarray> out, x)
            and apart(<cnp.ndarray> out, w)
            and apart(<cnp.ndarray> out, bias)
            and apart(<cnp.ndarray> out, residual)
        ):
            return None
        self.run(<cnp.ndarray> x, <cnp.ndarray> w, bias, residual, <cnp.ndarray> out)
        return out

    cdef int run(self, cnp.ndarray x, cnp.ndarray w, object bias, object residual, cnp.ndarray y) except -1:
        cdef fc_view x_view = self.x_view, y_view = self.y_view, w_view
        cdef fc_epilogue epilogue = self.epilogue
        cdef const cnp.npy_intp *strides = cnp.PyArray_STRIDES(w)
        cdef int64_t item = cnp.PyArray_ITEMSIZE(w)
        cdef const void *weights = NULL
        cdef void *scratch = NULL
        cdef object buffer
        x_view.data, y_view.data, w_view.data = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), cnp.PyArray_DATA(w)
        if self.nhwc:
            w_view.strides[0], w_view.strides[1] = strides[3] // item, strides[2] // item
            w_view.strides[2], w_view.strides[3] = strides[0] // item, strides[1] // item
        else:
            w_view.strides[0], w_view.strides[1] = strides[0] // item, strides[1] // item
            w_view.strides[2], w_view.strides[3] = strides[2] // item, strides[3] // item
        if bias is not None:
            epilogue.bias = cnp.PyArray_DATA(<cnp.ndarray> bias)
        if residual is not None:
            epilogue.residual.data = cnp.PyArray_DATA(<cnp.ndarray> residual)
        if self.packed is not None:
            weights = self.packed.data
        if self.need > SCRATCH_BYTES:
            buffer = self.workspace(self.need)
            scratch = cnp.PyArray_DATA(<cnp.ndarray?> buffer)
        elif self.need > 0:
            scratch = fc_scratch(self.need)
            if scratch == NULL:
                raise MemoryError(f"{self.need} bytes of workspace")
        if self.release:
            with nogil:
                self.c.run(&self.shape.c, &x_view, &w_view, weights, &epilogue, &y_view, scratch, self.threads)
        else:
            self.c.run(&self.shape.c, &x_view, &w_view, weights, &epilogue, &y_view, scratch, self.threads)
        return 0


cdef void image(
    cnp.npy_intp *shape, fc_view *view, bint nhwc, int skip, int64_t n, int64_t c, int64_t h, int64_t w
) noexcept:
    """The shape of an image array without its first `skip` axes, and the strides of its logical NCHW view."""
    cdef cnp.npy_intp sizes[4]
    cdef int i
    view.data = NULL
    if nhwc:
        sizes[0], sizes[1], sizes[2], sizes[3] = n, h, w, c
        view.strides[0], view.strides[1], view.strides[2], view.strides[3] = h * w * c, 1, w * c, c
    else:
        sizes[0], sizes[1], sizes[2], sizes[3] = n, c, h, w
        view.strides[0], view.strides[1], view.strides[2], view.strides[3] = c * h * w, h * w, w, 1
    for i in range(skip, 4):
        shape[i - skip] = sizes[i]


@cython.final
cdef class PoolCall(Call):
    """The vector kernel of a pooling or of its gradient, for arrays of one shape."""

    cdef PoolShape shape
    cdef int typenum, ndim, threads
    cdef bint release
    cdef cnp.npy_intp x_shape[4]
    cdef cnp.npy_intp y_shape[4]

    def __init__(
        self, PoolShape shape not None, int typenum, int ndim, int threads, bint release, State state not None
    ):
        cdef fc_view unused
        cdef bint nhwc = shape.c.layout == FC_NHWC
        self.shape, self.typenum, self.ndim, self.threads, self.release = shape, typenum, ndim, threads, release
        image(self.x_shape, &unused, nhwc, 4 - ndim, shape.c.mb, shape.c.c, shape.c.ih, shape.c.iw)
        image(self.y_shape, &unused, nhwc, 4 - ndim, shape.c.mb, shape.c.c, shape.c.oh, shape.c.ow)
        self.state = state
        self.seen = state.now()
        self.isa = fc_get_isa()

    cdef object pool(self, object x, object out):
        """All checks that depend on the arrays; None if one fails."""
        cdef int flags = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED
        cdef object indices = None
        if not plain(x, self.typenum, self.ndim, self.x_shape, flags):
            return None
        if self.shape.c.return_indices and type(out) is tuple and len(<tuple> out) == 2:
            out, indices = out
            if out is None or not plain(
                indices, cnp.NPY_INT64, self.ndim, self.y_shape, flags | cnp.NPY_ARRAY_WRITEABLE
            ):
                return None
        if out is None:
            out = cnp.PyArray_EMPTY(self.ndim, self.y_shape, self.typenum, 0)
        elif not plain(out, self.typenum, self.ndim, self.y_shape, flags | cnp.NPY_ARRAY_WRITEABLE) or not apart(
            <cnp.ndarray> out, x
        ):
            return None
        if indices is not None and not (apart(<cnp.ndarray> indices, x) and apart(<cnp.ndarray> indices, out)):
            return None
        cdef const void *source = cnp.PyArray_DATA(<cnp.ndarray> x)
        cdef void *target = cnp.PyArray_DATA(<cnp.ndarray> out)
        cdef int64_t *places = NULL
        if self.shape.c.return_indices:
            if indices is None:
                indices = cnp.PyArray_EMPTY(self.ndim, self.y_shape, cnp.NPY_INT64, 0)
            places = <int64_t *> cnp.PyArray_DATA(<cnp.ndarray> indices)
        if self.release:
            with nogil:
                self.run(source, target, places)
        else:
            self.run(source, target, places)
        return out if indices is None else (out, indices)

    cdef void run(self, const void *x, void *y, int64_t *indices) noexcept nogil:
        if self.shape.c.op == FC_MAX_POOL:
            fc_max_pool2d_forward(&self.shape.c, x, y, indices, self.threads)
        else:
            fc_avg_pool2d_forward(&self.shape.c, x, y, self.threads)

    cdef object gradient(self, object dy, object indices, object out):
        """Likewise; None too if an index lies outside its plane."""
        cdef int flags = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED
        cdef bint is_max = self.shape.c.op == FC_MAX_POOL
        if not plain(dy, self.typenum, self.ndim, self.y_shape, flags):
            return None
        if is_max and not plain(indices, cnp.NPY_INT64, self.ndim, self.y_shape, flags):
            return None
        if out is None:
            out = cnp.PyArray_EMPTY(self.ndim, self.x_shape, self.typenum, 0)
        elif (
            not plain(out, self.typenum, self.ndim, self.x_shape, flags | cnp.NPY_ARRAY_WRITEABLE)
            or not apart(<cnp.ndarray> out, dy) or not apart(<cnp.ndarray> out, indices)
        ):
            return None
        cdef const void *source = cnp.PyArray_DATA(<cnp.ndarray> dy)
        cdef void *target = cnp.PyArray_DATA(<cnp.ndarray> out)
        cdef const int64_t *places = NULL
        cdef int outside
        if is_max:
            places = <const int64_t *> cnp.PyArray_DATA(<cnp.ndarray> indices)
        if self.release:
            with nogil:
                outside = self.run_backward(source, places, target)
        else:
            outside = self.run_backward(source, places, target)
        return None if outside else out

    cdef int run_backward(self, const void *dy, const int64_t *indices, void *dx) noexcept nogil:
        if self.shape.c.op == FC_MAX_POOL:
            return fc_max_pool2d_backward(&self.shape.c, dy, indices, dx, self.threads)
        fc_avg_pool2d_backward(&self.shape.c, dy, dx, self.threads)
        return 0


# ---- Calls found again by their arguments ----------------------------------------------------------------------


cdef bint equal(object a, object b) noexcept:
    """Equal and of one type, for the few types that keys hold; False where that is not easily told."""
    cdef int i
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if PyUnicode_CheckExact(a):
        return PyUnicode_Compare(a, b) == 0
    if PyFloat_CheckExact(a):
        return <double> a == <double> b
    if PyLong_CheckExact(a):
        return a == b
    if PyTuple_CheckExact(a):
        if len(<tuple> a) != len(<tuple> b):
            return False
        for i in range(len(<tuple> a)):
            if not equal((<tuple> a)[i], (<tuple> b)[i]):
                return False
        return True
    return False


cdef bint simple(object value, bint inside=False) noexcept:
    """Whether an equal object means the same and can never change: numbers, text, and tuples of them."""
    cdef int i
    if value is None or PyUnicode_CheckExact(value) or PyLong_CheckExact(value) or PyBool_Check(value):
        return True
    if PyFloat_CheckExact(value):
        return True
    if not PyTuple_CheckExact(value) or inside:
        return False
    for i in range(len(<tuple> value)):
        if not simple((<tuple> value)[i], True):
            return False
    return True


cdef inline bint start_key(Key *key, int function, object x) noexcept:
    """The part of the input array; False if it is none, or of a dtype or rank that no call here serves."""
    cdef int i, ndim, typenum
    if not cnp.PyArray_CheckExact(x):
        return False
    ndim, typenum = cnp.PyArray_NDIM(<cnp.ndarray> x), cnp.PyArray_TYPE(<cnp.ndarray> x)
    if ndim < 3 or ndim > 4 or (typenum != cnp.NPY_FLOAT32 and typenum != cnp.NPY_FLOAT64):
        return False
    for i in range(NUMBERS):
        key.numbers[i] = 0
    for i in range(OPTIONS):
        key.options[i] = <PyObject *> None
    key.numbers[0], key.numbers[1], key.numbers[2] = function, typenum, ndim
    for i in range(ndim):
        key.numbers[3 + i] = cnp.PyArray_DIM(<cnp.ndarray> x, i)
    return True


cdef bint conv_key(
    Key *key, object x, object w, object bias, object stride, object padding, object dilation, object groups,
    object layout, object padding_mode, object activation, object residual, object algorithm, object backend,
    object precision, object max_workspace
) noexcept:
    cdef int i
    if not start_key(key, CONV2D, x) or not cnp.PyArray_CheckExact(w):
        return False
    if cnp.PyArray_NDIM(<cnp.ndarray> w) != 4 or cnp.PyArray_TYPE(<cnp.ndarray> w) != key.numbers[1]:
        return False
    for i in range(4):
        key.numbers[7 + i] = cnp.PyArray_DIM(<cnp.ndarray> w, i)
    key.numbers[11], key.numbers[12] = bias is not None, residual is not None
    key.options[0], key.options[1], key.options[2] = <PyObject *> stride, <PyObject *> padding, <PyObject *> dilation
    key.options[3], key.options[4] = <PyObject *> groups, <PyObject *> layout
    key.options[5], key.options[6] = <PyObject *> padding_mode, <PyObject *> activation
    key.options[7], key.options[8] = <PyObject *> algorithm, <PyObject *> backend
    key.options[9], key.options[10] = <PyObject *> precision, <PyObject *> max_workspace
    return True


cdef bint pool_key(
    Key *key, int function, object x, object a, object b, object c, object d, object e, object f, object layout,
    object algorithm, object backend, object input_size=None
) noexcept:
    if not start_key(key, function, x):
        return False
    key.options[0], key.options[1], key.options[2] = <PyObject *> a, <PyObject *> b, <PyObject *> c
    key.options[3], key.options[4], key.options[5] = <PyObject *> d, <PyObject *> e, <PyObject *> f
    key.options[6], key.options[7], key.options[8] = <PyObject *> layout, <PyObject *> algorithm, <PyObject *> backend
    key.options[9] = <PyObject *> input_size
    return True


cdef bint key_of(Key *key, str name, tuple a):
    """The key of a call of the public function `name`, its arguments in the order of the methods of Calls."""
    cdef int function = FUNCTIONS[name]
    if function == CONV2D:
        return conv_key(key, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[12], a[13], a[14], a[15])
    if function == ADAPTIVE_AVG_POOL2D:
        return pool_key(key, function, a[0], a[1], None, None, None, None, None, a[2], a[4], a[5])
    if function == ADAPTIVE_MAX_POOL2D:
        return pool_key(key, function, a[0], a[1], a[2], None, None, None, None, a[3], a[5], a[6])
    if function == MAX_POOL2D_BACKWARD:
        return pool_key(key, function, a[0], a[3], a[4], a[5], a[6], a[7], None, a[8], a[10], a[11], a[1])
    if function == AVG_POOL2D_BACKWARD:
        return pool_key(key, function, a[0], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[10], a[11], a[1])
    if function == ADAPTIVE_MAX_POOL2D_BACKWARD:
        return pool_key(key, function, a[0], None, None, None, None, None, None, a[3], a[5], a[6], a[1])
    if function == ADAPTIVE_AVG_POOL2D_BACKWARD:
        return pool_key(key, function, a[0], None, None, None, None, None, None, a[2], a[4], a[5], a[1])
    return pool_key(key, function, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[9], a[10])


cdef inline bint same_key(const Key *a, const Key *b) noexcept:
    cdef int i
    for i in range(NUMBERS):
        if a.numbers[i] != b.numbers[i]:
            return False
    for i in range(OPTIONS):
        if a.options[i] != b.options[i] and not equal(<object> a.options[i], <object> b.options[i]):
            return False
    return True


cdef inline int set_of(const Key *key) noexcept:
    """Where to look, by the shapes: they differ from layer to layer."""
    cdef uintptr_t h = 0
    cdef int i
    for i in range(11):
        h = h * 31 + <uintptr_t> key.numbers[i]
    return <int> ((h ^ (h >> 7) ^ (h >> 13)) % SETS)


@cython.final
cdef class Calls:
    """A bounded table from the arguments of public functions to the Call that serves them."""

    cdef list table
    cdef list turns

    def __init__(self):
        self.clear()

    def clear(self):
        """Forget all calls, and this thread's scratch."""
        with cython.critical_section(self):
            self.table = [None] * (SETS * WAYS)
            self.turns = [0] * SETS
        fc_free_scratch()

    def __len__(self):
        return sum(call is not None for call in self.table)

    cdef Call find(self, const Key *key):
        cdef int first = set_of(key) * WAYS, i
        cdef Call call
        with cython.critical_section(self):
            for i in range(WAYS):
                if self.table[first + i] is None:
                    continue
                call = <Call> self.table[first + i]
                if same_key(key, &call.key) and call.state.equals(call.seen, call.isa):
                    return call
        return None

    def knows(self, str name not None, tuple arguments not None):
        """Whether there is nothing to remember about such a call: it is here already, or never will be."""
        cdef Key key
        cdef int i
        if not key_of(&key, name, arguments):
            return True
        for i in range(OPTIONS):
            if not simple(<object> key.options[i]):
                return True
        return self.find(&key) is not None

    def remember(self, Call call not None, str name not None, tuple arguments not None):
        """Serve such calls by `call` from now on; the oldest call of its set is forgotten."""
        cdef int i, chosen
        if not key_of(&call.key, name, arguments):
            return
        call.options = tuple([<object> call.key.options[i] for i in range(OPTIONS)])
        chosen = set_of(&call.key)
        with cython.critical_section(self):
            for i in range(WAYS):
                if self.table[chosen * WAYS + i] is not None and same_key(
                    &call.key, &(<Call> self.table[chosen * WAYS + i]).key
                ):
                    break  # the same arguments in another state
            else:
                i = self.turns[chosen]
                self.turns[chosen] = (i + 1) % WAYS
            self.table[chosen * WAYS + i] = call

    # The public functions: the output of a call like an earlier one, or None.

    def conv2d(
        self, input, weight, bias, stride, padding, dilation, groups, layout, padding_mode, activation, residual, out,
        algorithm, backend, precision, max_workspace,
    ):
        cdef Key key
        if not conv_key(&key, input, weight, bias, stride, padding, dilation, groups, layout, padding_mode, activation,
                        residual, algorithm, backend, precision, max_workspace):
            return None
        cdef Call call = self.find(&key)
        return None if call is None else (<ConvCall> call).convolve(input, weight, bias, residual, out)

    def max_pool2d(
        self, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout, out, algorithm, backend
    ):
        cdef Key key
        if not pool_key(&key, MAX_POOL2D, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices,
                        layout, algorithm, backend):
            return None
        cdef Call call = self.find(&key)
        return None if call is None else (<PoolCall> call).pool(input, out)

    def avg_pool2d(
        self, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout, out,
        algorithm, backend,
    ):
        cdef Key key
        if not pool_key(&key, AVG_POOL2D, input, kernel_size, stride, padding, ceil_mode, count_include_pad,
                        divisor_override, layout, algorithm, backend):
            return None
        cdef Call call = self.find(&key)
        return None if call is None else (<PoolCall> call).pool(input, out)

    def adaptive_avg_pool2d(self, input, output_size, layout, out, algorithm, backend):
        cdef Key key
        if not pool_key(&key, ADAPTIVE_AVG_POOL2D, input, output_size, None, None, None, None, None, layout, algorithm,
                        backend):
            return None
        cdef Call call = self.find(&key)
        return None if call is None else (<PoolCall> call).pool(input, out)

    def adaptive_max_pool2d(self, input, output_size, return_indices, layout, out, algorithm, backend):
        cdef Key key
        if not pool_key(&key, ADAPTIVE_MAX_POOL2D, input, output_size, return_indices, None, None, None, None, layout,
                        algorithm, backend):
            return None
        cdef Call call = self.find(&key)
        return None if call is None else (<PoolCall> call).pool(input, out)

    def max_pool2d_backward(
        self, grad_output, input_size, indices, kernel_size, stride, padding, dilation, ceil_mode, layout, out,
        algorithm, backend,
    ):
        cdef Key key
        if not pool_key(&key, MAX_POOL2D_BACKWARD, grad_output, kernel_size, stride, padding, dilation, ceil_mode, None,
                        layout, algorithm, backend, input_size):
            return None
        cdef Call call = self.find(&key)
        return None if call is None else (<PoolCall> call).gradient(grad_output, indices, out)

    def avg_pool2d_backward(
        self, grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override,
        layout, out, algorithm, backend,
    ):
        cdef Key key
        if not pool_key(&key, AVG_POOL2D_BACKWARD, grad_output, kernel_size, stride, padding, ceil_mode,
                        count_include_pad, divisor_override, layout, algorithm, backend, input_size):
            return None
        cdef Call call = self.find(&key)
        return None if call is None else (<PoolCall> call).gradient(grad_output, None, out)

    def adaptive_max_pool2d_backward(self, grad_output, input_size, indices, layout, out, algorithm, backend):
        cdef Key key
        if not pool_key(&key, ADAPTIVE_MAX_POOL2D_BACKWARD, grad_output, None, None, None, None, None, None, layout,
                        algorithm, backend, input_size):
            return None
        cdef Call call = self.find(&key)
        return None if call is None else (<PoolCall> call).gradient(grad_output, indices, out)

    def adaptive_avg_pool2d_backward(self, grad_output, input_size, layout, out, algorithm, backend):
        cdef Key key
        if not pool_key(&key, ADAPTIVE_AVG_POOL2D_BACKWARD, grad_output, None, None, None, None, None, None, layout,
                        algorithm, backend, input_size):
            return None
        cdef Call call = self.find(&key)
        return None if call is None else (<PoolCall> call).gradient(grad_output, None, out)
