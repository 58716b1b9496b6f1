# cython: freethreading_compatible = True
"""Problems as C structs, made once per plan, and arrays as C views, made at every call."""

cimport numpy as cnp
from libc.stdint cimport int64_t, uintptr_t

from fastconv._cython.fastconv cimport (
    FC_AVG_POOL,
    FC_BACKWARD_INPUT,
    FC_BACKWARD_WEIGHT,
    FC_F32,
    FC_F64,
    FC_FORWARD,
    FC_I64,
    FC_MAX_POOL,
    FC_NCHW,
    FC_NHWC,
    fc_epilogue,
)

cnp.import_array()

cdef dict PASSES = {
    "forward": FC_FORWARD,
    "backward_input": FC_BACKWARD_INPUT,
    "backward_weight": FC_BACKWARD_WEIGHT,
}
cdef dict DTYPES = {"float32": FC_F32, "float64": FC_F64, "int64": FC_I64}
cdef dict LAYOUTS = {"NCHW": FC_NCHW, "NHWC": FC_NHWC}


cdef class ConvShape:
    """A ConvProblem as the C core reads it."""

    def __init__(self, problem):
        cdef double inf = float("inf")
        activation = problem.activation
        self.text = problem.text
        self.c.mb, self.c.g = problem.mb, problem.g
        self.c.ic, self.c.ih, self.c.iw = problem.ic, problem.ih, problem.iw
        self.c.oc, self.c.oh, self.c.ow = problem.oc, problem.oh, problem.ow
        self.c.kh, self.c.kw, self.c.sh, self.c.sw = problem.kh, problem.kw, problem.sh, problem.sw
        self.c.ph, self.c.pw, self.c.ph_r, self.c.pw_r = problem.ph, problem.pw, problem.ph_r, problem.pw_r
        self.c.dh, self.c.dw = problem.dh, problem.dw
        self.c.pass_ = PASSES[problem.pass_]
        self.c.dtype = DTYPES[problem.dtype]
        self.c.layout = LAYOUTS[problem.layout]
        self.clamp = activation is not None
        self.lo, self.hi = -inf, inf
        if activation == "relu":
            self.lo = 0.0
        elif activation is not None:
            _, lo, hi = activation
            self.lo = -inf if lo is None else lo
            self.hi = inf if hi is None else hi

    def __repr__(self):
        return f"ConvShape({self.text})"

    cdef fc_epilogue epilogue(self, bias, residual) except *:
        cdef fc_epilogue epilogue
        epilogue.bias = data_or_null(bias)
        epilogue.residual = view_or_null(residual)
        epilogue.clamp, epilogue.lo, epilogue.hi = self.clamp, self.lo, self.hi
        return epilogue


cdef class PoolShape:
    """A PoolProblem as the C core reads it."""

    def __init__(self, problem):
        self.text = problem.text
        self.c.mb, self.c.c = problem.mb, problem.c
        self.c.ih, self.c.iw, self.c.oh, self.c.ow = problem.ih, problem.iw, problem.oh, problem.ow
        self.c.kh, self.c.kw, self.c.sh, self.c.sw = problem.kh, problem.kw, problem.sh, problem.sw
        self.c.ph, self.c.pw, self.c.ph_r, self.c.pw_r = problem.ph, problem.pw, problem.ph_r, problem.pw_r
        self.c.dh, self.c.dw = problem.dh, problem.dw
        self.c.count_h, self.c.count_w = problem.count_h, problem.count_w
        self.c.divisor_override = problem.divisor_override
        self.c.op = FC_MAX_POOL if "max" in problem.op else FC_AVG_POOL
        self.c.adaptive = problem.op.startswith("adaptive")
        self.c.count_include_pad = problem.count_include_pad
        self.c.return_indices = problem.return_indices
        self.c.dtype = DTYPES[problem.dtype]
        self.c.layout = LAYOUTS[problem.layout]

    def __repr__(self):
        return f"PoolShape({self.text})"


cdef void *workspace_of(array, int64_t need, str text) except? NULL:
    """The address of a workspace that holds at least `need` bytes; NULL is right when need is 0."""
    if need == 0:
        return NULL
    if array is None or cnp.PyArray_NBYTES(<cnp.ndarray> array) < need:
        given = 0 if array is None else cnp.PyArray_NBYTES(<cnp.ndarray> array)
        raise RuntimeError(f"{text} needs {need} bytes of workspace, got {given}")
    return cnp.PyArray_DATA(<cnp.ndarray> array)
