# cython: freethreading_compatible = True
"""The C core's convolution kernels as callable objects, and weights packed for them: a module declares its rows only."""

cimport numpy as cnp
from libc.stdint cimport int64_t, uintptr_t

from fastconv._cython.fastconv cimport (
    fc_conv2d_kernel,
    fc_conv2d_weight_kernel,
    fc_epilogue,
    fc_get_isa,
    fc_isa_name,
    fc_view,
)
from fastconv._cython.shape cimport ConvShape, view_of, workspace_of

import numpy as np

cnp.import_array()

# Of a workspace and of packed weights, as csrc/fastconv.h asks.
cdef enum:
    ALIGNMENT = 64


cdef class PackedWeights:
    """Weights in the order of one kernel, one shape and one instruction set."""

    @property
    def nbytes(self):
        """Bytes held."""
        return self.size

    @property
    def isa(self):
        """Name of the instruction set they are packed for."""
        return fc_isa_name(self.isa_index).decode("ascii")

    def usable(self):
        """Whether kernels still run on that instruction set; if not, pack again."""
        return self.isa_index == fc_get_isa()


cdef class ConvKernel:
    """A kernel of a forward pass or an input gradient: y = act(conv(x, w) + bias + residual)."""

    def __call__(
        self,
        ConvShape lowered not None,
        cnp.ndarray x not None,
        cnp.ndarray w not None,
        bias,
        residual,
        cnp.ndarray y not None,
        workspace,
        int threads,
        PackedWeights packed=None,
    ):
        """Computes into y; `packed`, if given, is what `pack` returned for these weights. No argument is checked but the
        size of the workspace."""
        cdef fc_view x_view = view_of(x), w_view = view_of(w), y_view = view_of(y)
        cdef fc_epilogue epilogue = lowered.epilogue(bias, residual)
        cdef const void *weights = NULL
        if packed is not None:
            weights = self.packed_data(lowered, packed)
        cdef int64_t need = self.c.workspace(&lowered.c, weights != NULL, threads)
        cdef void *scratch = workspace_of(workspace, need, self.__name__)
        with nogil:
            self.c.run(&lowered.c, &x_view, &w_view, weights, &epilogue, &y_view, scratch, threads)

    cdef const void *packed_data(self, ConvShape lowered, PackedWeights packed) except? NULL:
        if packed.kernel != self.c or packed.size != self.c.packed_bytes(&lowered.c):
            raise ValueError(f"{self.__name__}: the weights are packed for another kernel or shape")
        if packed.isa_index != fc_get_isa():
            raise RuntimeError(f"{self.__name__}: the weights are packed for another instruction set, pack them again")
        return packed.data

    def workspace_nbytes(self, ConvShape lowered not None, bint packed, int threads):
        """Bytes of workspace of a call whose weights come packed or not."""
        return self.c.workspace(&lowered.c, packed, threads)

    def packed_nbytes(self, ConvShape lowered not None):
        """Bytes of the packed weights; 0 where there is nothing to pack."""
        return self.c.packed_bytes(&lowered.c)

    def pack(self, ConvShape lowered not None, cnp.ndarray w not None, int threads=1):
        """The weights in the order of the instruction set in use, or None where there is nothing to pack."""
        cdef int64_t need = self.c.packed_bytes(&lowered.c)
        if need == 0:
            return None
        cdef fc_view w_view = view_of(w)
        cdef PackedWeights packed = PackedWeights.__new__(PackedWeights)
        packed.kernel = self.c
        packed.isa_index = fc_get_isa()
        packed.size = need
        packed.buffer = np.empty(need + ALIGNMENT, np.uint8)
        cdef uintptr_t start = <uintptr_t> cnp.PyArray_DATA(<cnp.ndarray> packed.buffer)
        start = (start + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        packed.data = <const void *> start
        with nogil:
            self.c.pack(&lowered.c, &w_view, <void *> start, threads)
        return packed

    def __repr__(self):
        return f"<ConvKernel {self.__name__}>"


cdef ConvKernel conv_kernel(const fc_conv2d_kernel *c):
    """The row of a C kernel: its name is the C kernel's with the backend's."""
    cdef ConvKernel kernel = ConvKernel.__new__(ConvKernel)
    kernel.c = c
    kernel.__name__ = c.name.decode("ascii") + "__cython"
    return kernel


cdef class WeightKernel:
    """A kernel of a weight gradient: dw[o][c][t] = sum over pixels of dy * x."""

    def __call__(
        self,
        ConvShape lowered not None,
        cnp.ndarray x not None,
        cnp.ndarray dy not None,
        cnp.ndarray dw not None,
        workspace,
        int threads,
    ):
        """Computes into dw. No argument is checked but the size of the workspace."""
        cdef fc_view x_view = view_of(x), dy_view = view_of(dy), dw_view = view_of(dw)
        cdef void *scratch = workspace_of(workspace, self.c.workspace(&lowered.c, threads), self.__name__)
        with nogil:
            self.c.run(&lowered.c, &x_view, &dy_view, &dw_view, scratch, threads)

    def workspace_nbytes(self, ConvShape lowered not None, int threads):
        """Bytes of workspace of a call."""
        return self.c.workspace(&lowered.c, threads)

    def __repr__(self):
        return f"<WeightKernel {self.__name__}>"


cdef WeightKernel weight_kernel(const fc_conv2d_weight_kernel *c):
    """The row of a C kernel, as conv_kernel."""
    cdef WeightKernel kernel = WeightKernel.__new__(WeightKernel)
    kernel.c = c
    kernel.__name__ = c.name.decode("ascii") + "__cython"
    return kernel
