"""The state of an engine as a numpy record, which numba compiles to a struct.

An engine is a NamedTuple; its defaults are its state before the first cycle. It has registers, and signals, which its
``offer`` sets in every cycle from the registers and from the signals of other engines. Its ``clock`` is what the clock
edge does to the registers.
"""

import numba
import numpy as np

__all__ = ["OPTIONS", "dtype_of", "inlined", "record", "records"]

#: what is compiled for the cycle loop allocates nothing, and does without numba's counts of references to arrays, which
#: would take most of the time.
OPTIONS = {"error_model": "numpy", "_nrt": False}

#: decorator of what the loop calls; the compiled loop is one function all the same.
inlined = numba.njit(forceinline=True, **OPTIONS)


def dtype_of(kind):
    """Type of a record with the fields of ``kind``, a NamedTuple with defaults: int, bool, or tuple of int."""
    fields = ((name, np.asarray(value)) for name, value in kind._field_defaults.items())
    return np.dtype([(name, value.dtype, value.shape) for name, value in fields], align=True)


def records(kind, count):
    """Array of ``count`` records with the defaults of ``kind``."""
    return np.array([kind()] * count, dtype_of(kind))


def record(values):
    """``values``, an instance of a NamedTuple, as a record."""
    return np.array(values, dtype_of(type(values)))[()]
