# cython: freethreading_compatible = True
"""The module that the shared object is named after: which ISA the C core runs on."""

from fastconv._cython.fastconv cimport (
    FC_ISA_COUNT,
    fc_get_isa,
    fc_isa_name,
    fc_isa_supported,
    fc_set_isa,
)


def detected_isas():
    """Names of the instruction sets that are compiled in and that this CPU and OS can run, plainest first."""
    return [fc_isa_name(isa).decode("ascii") for isa in range(FC_ISA_COUNT) if fc_isa_supported(isa)]


def get_isa():
    """Name of the instruction set that kernels use now."""
    return fc_isa_name(fc_get_isa()).decode("ascii")


def set_isa(str name):
    """Makes kernels use the instruction set `name` from the next call on; ValueError if it cannot run here."""
    cdef int isa
    for isa in range(FC_ISA_COUNT):
        if fc_isa_name(isa).decode("ascii") == name and fc_set_isa(isa) == 0:
            return
    raise ValueError(f"ISA {name!r} is not one of those that run here: {', '.join(detected_isas())}")
