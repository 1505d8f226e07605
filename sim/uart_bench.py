"""A compiled design behind the two pins of a UART."""

import ctypes

from hdl.config import MvqError
from sim.cxxrtl import compile_design

__all__ = ["UartBench"]

#: cycles between two looks at the keyboard.
_SLICE = 1_000_000


class UartBench:
    """One simulation of a design with the ports ``rx`` and ``tx``.

    Parameters
    ----------
    component : the design. ``divisor`` : clock cycles of a bit, at least 4.
    identity, cache, progress : see :func:`sim.cxxrtl.compile_design`.

    Raises
    ------
    CompileError : the design cannot be compiled.
    """

    def __init__(self, component, divisor, *, identity=None, cache=None, progress=None):
        path = compile_design(component, "uart_bench.cc", identity=identity, cache=cache, progress=progress)
        self._library = ctypes.CDLL(str(path))
        pointer, wide, text = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p
        for name, result, *arguments in (
            ("create", pointer, wide),
            ("destroy", None, pointer),
            ("reset", None, pointer, wide),
            ("exchange", ctypes.c_int64, pointer, text, wide, text, wide, wide),
            ("cycles", wide, pointer),
        ):
            function = getattr(self._library, f"uart_{name}")
            function.restype, function.argtypes = result, arguments
        self._divisor = divisor
        self._bench = self._library.uart_create(divisor)
        self._library.uart_reset(self._bench, 2)

    def __del__(self):
        if getattr(self, "_bench", None):
            self._library.uart_destroy(self._bench)

    @property
    def cycles(self):
        """Clock cycles so far."""
        return self._library.uart_cycles(self._bench)

    def exchange(self, data, wanted, limit=100_000_000):
        """Send ``data`` (bytes), and return the ``wanted`` bytes that come back.

        Raises
        ------
        MvqError : they do not come within ``limit`` cycles, or one has no stop bit.
        """
        found, buffer = b"", ctypes.create_string_buffer(max(1, wanted))
        while len(found) < wanted or data:
            cycles = _SLICE + len(data) * 10 * self._divisor
            came = self._library.uart_exchange(self._bench, data, len(data), buffer, wanted - len(found), cycles)
            if came < 0:
                raise MvqError(
                    "the UART sent a byte without a stop bit" if came == -1 else "the design does not settle"
                )
            found, data, limit = found + buffer.raw[:came], b"", limit - cycles
            if limit <= 0 and len(found) < wanted:
                raise MvqError(f"the UART answered with {len(found)} of {wanted} bytes within the limit")
        return found
