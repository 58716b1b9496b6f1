# cython: freethreading_compatible = True
"""What a training step does between convolutions, and augmentation: doors to csrc/training.c and csrc/augment.c."""

cimport numpy as cnp
from libc.stdint cimport int64_t

from fastconv._cython.fastconv cimport (
    FC_ADAM,
    FC_F32,
    FC_F64,
    FC_RMSPROP,
    FC_SGD,
    fc_affine_images,
    fc_relu_backward,
    fc_relu_backward_workspace,
    fc_scratch,
    fc_softmax_cross_entropy,
    fc_update,
    fc_update_parameters,
)
from fastconv._cython.shape cimport data_or_null

import numpy as np

cnp.import_array()

cdef dict RULES = {"sgd": FC_SGD, "rmsprop": FC_RMSPROP, "adam": FC_ADAM}


cdef int dtype_of(cnp.ndarray array) except -1:
    cdef int number = cnp.PyArray_TYPE(array)
    if number == cnp.NPY_FLOAT32:
        return FC_F32
    if number == cnp.NPY_FLOAT64:
        return FC_F64
    raise TypeError(f"float32 or float64, got {array.dtype}")


cdef int check(cnp.ndarray first, other, bint same_size) except -1:
    """Refuse arrays that are not dense or not alike: C would read past them."""
    if other is None:
        return 0
    cdef cnp.ndarray array = other
    if not (cnp.PyArray_IS_C_CONTIGUOUS(first) and cnp.PyArray_IS_C_CONTIGUOUS(array)):
        raise ValueError("the arrays of a training step are C-contiguous")
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(first):
        raise TypeError(f"the arrays of a training step have one dtype, got {first.dtype} and {array.dtype}")
    if same_size and cnp.PyArray_SIZE(array) != cnp.PyArray_SIZE(first):
        raise ValueError(f"the arrays of a training step are alike, got {first.size} and {array.size} elements")
    return 0


def relu_backward(cnp.ndarray dy not None, y, db, int threads):
    """dy = dy where y > 0 else 0, in place (y None: all stay); db = the sums over all axes but the last, unless None."""
    cdef int dtype = dtype_of(dy)
    check(dy, y, True)
    check(dy, db, False)
    cdef int64_t channels = dy.shape[dy.ndim - 1]
    cdef int64_t rows = cnp.PyArray_SIZE(dy) // channels if channels else 0
    if db is not None and db.size != channels:
        raise ValueError(f"one sum for each of {channels} channels, got {db.size}")
    cdef void *scratch = NULL
    cdef void *sums = data_or_null(db)
    cdef void *mask = data_or_null(y)
    if sums != NULL:
        scratch = fc_scratch(fc_relu_backward_workspace(dtype, channels))
        if scratch == NULL:
            raise MemoryError()
    cdef void *data = cnp.PyArray_DATA(dy)
    with nogil:
        fc_relu_backward(dtype, rows, channels, data, mask, sums, scratch, threads)


def softmax_cross_entropy(cnp.ndarray z not None, cnp.ndarray labels not None, dz):
    """(sum of the losses, right predictions) of logits (n, classes) and int64 labels (n,); dz: gradient of the mean."""
    cdef int64_t correct = 0
    cdef double total
    cdef int dtype = dtype_of(z)
    check(z, z if dz is None else dz, True)
    if z.ndim != 2 or labels.ndim != 1 or cnp.PyArray_TYPE(labels) != cnp.NPY_INT64 or len(labels) != len(z):
        raise ValueError("cross-entropy takes logits (n, classes) and int64 labels (n,)")
    if not cnp.PyArray_IS_C_CONTIGUOUS(labels):
        labels = np.ascontiguousarray(labels)
    cdef int64_t rows = z.shape[0], classes = z.shape[1]
    cdef void *gradient = data_or_null(dz)
    cdef void *data = cnp.PyArray_DATA(z)
    cdef const int64_t *wanted = <const int64_t *> cnp.PyArray_DATA(labels)
    with nogil:
        total = fc_softmax_cross_entropy(dtype, rows, classes, data, wanted, gradient, &correct)
    return total, correct


def update(str rule, cnp.ndarray w not None, cnp.ndarray g not None, first_slot, second_slot, double rate, double first,
           double second, double epsilon, bint nesterov, int threads):
    """One update of flat parameters by a rule of csrc/fastconv.h."""
    cdef fc_update job
    for array in (g, first_slot, second_slot):
        check(w, array, True)
    job.dtype, job.rule, job.nesterov = dtype_of(w), RULES[rule], nesterov
    job.size, job.w, job.g = cnp.PyArray_SIZE(w), cnp.PyArray_DATA(w), cnp.PyArray_DATA(g)
    job.slots[0], job.slots[1] = data_or_null(first_slot), data_or_null(second_slot)
    job.rate, job.first, job.second, job.epsilon = rate, first, second, epsilon
    with nogil:
        fc_update_parameters(&job, threads)


def affine_images(cnp.ndarray x not None, cnp.ndarray maps not None, cnp.ndarray y not None):
    """y = images x (n, h, w, c) through the maps (n, 2, 3) of float64."""
    cdef int dtype = dtype_of(x)
    check(x, y, True)
    if x.ndim != 4 or cnp.PyArray_TYPE(maps) != cnp.NPY_FLOAT64 or cnp.PyArray_SIZE(maps) != 6 * x.shape[0] \
            or not cnp.PyArray_IS_C_CONTIGUOUS(maps):
        raise ValueError("affine maps are dense float64 (n, 2, 3), for images (n, h, w, c)")
    cdef int64_t n = x.shape[0], h = x.shape[1], w = x.shape[2], c = x.shape[3]
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(y)
    cdef const double *each = <const double *> cnp.PyArray_DATA(maps)
    with nogil:
        fc_affine_images(dtype, n, h, w, c, source, each, target)
