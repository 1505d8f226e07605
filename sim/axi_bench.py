"""A compiled design with AXI4-Lite and AXI4 ports, a host and a memory around it."""

import ctypes
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Shape
from amaranth.lib.wiring import Out

from hdl.bus.axi import axi4_lite_slave, axi4_master
from hdl.config import MvqError
from sim.cxxrtl import compile_design

__all__ = ["CHANNELS", "DECERR", "SLVERR", "AxiBench", "BenchError", "Counts"]

#: channels that can pause, in the order of :file:`axi_bench.cc`: the memory's, then the host's.
CHANNELS = ("ar", "r", "aw", "w", "b", "host_ar", "host_r", "host_aw", "host_w", "host_b")

#: responses of a memory that refuses (AMBA AXI, A3.4.4).
SLVERR, DECERR = 2, 3

#: cycles between two looks at the keyboard.
_SLICE = 200_000

_INTERRUPT, _VIOLATION = 1, 2


class BenchError(MvqError):
    """The design broke a rule of AXI, or did not answer; the text begins with the cycle."""


@dataclass(frozen=True)
class Counts:
    """Cycles since the bench was made, and transfers on the memory's bus."""

    cycles: int
    read_bursts: int
    read_beats: int
    write_bursts: int
    write_beats: int


def _load(path):
    library = ctypes.CDLL(str(path))
    pointer, word, number, wide = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint64
    for name, result, *arguments in (
        ("create", pointer, pointer, wide, wide),
        ("destroy", None, pointer),
        ("memory", None, pointer, pointer, wide, wide),
        ("reset", None, pointer, wide),
        ("timing", None, pointer, wide, wide),
        ("pauses", None, pointer, ctypes.POINTER(word), wide),
        ("error", None, pointer, number, wide, wide, word),
        ("stop", None, pointer, number, wide),
        ("resume", None, pointer, number),
        ("run", number, pointer, wide, number),
        ("write_register", number, pointer, word, word),
        ("read_register", number, pointer, word, ctypes.POINTER(word)),
        ("interrupt", number, pointer),
        ("counts", None, pointer, ctypes.POINTER(wide)),
        ("violation", ctypes.c_char_p, pointer),
    ):
        function = getattr(library, f"bench_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class AxiBench:
    """One simulation. Registers are read and written through ``s_axi_...``, ``m_axi_...`` sees ``memory``.

    The memory takes a burst of reads at any time and answers in order: the first beat ``read_latency`` cycles after the
    cycle in which the address was taken, but not before the burst before it has ended; then a beat a cycle. It takes
    writes at any time, and answers ``write_latency`` cycles after the cycle of a burst's last beat, or of its address
    if that comes later. Outside ``memory`` it answers DECERR.

    Parameters
    ----------
    component : design with the ports ``s_axi_...`` and ``m_axi_...`` of :mod:`hdl.bus.axi`, and ``irq``.
    memory : uint8, contiguous; changed in place by what the design writes.
    base : address of the first byte of ``memory``.
    read_latency, write_latency : at least 1.
    identity, cache, progress : see :func:`sim.cxxrtl.compile_design`.

    Raises
    ------
    MvqError : a port is missing, or an argument has no legal value. CompileError : the design cannot be compiled.
    """

    def __init__(
        self,
        component,
        memory,
        *,
        base=0,
        read_latency=20,
        write_latency=20,
        identity=None,
        cache=None,
        progress=None,
    ):
        _check_ports(component)
        _check_latencies(read_latency, write_latency)
        self.memory, self.base = _buffer(memory), base
        self._library = _load(compile_design(component, identity=identity, cache=cache, progress=progress))
        self._bench = self._library.bench_create(self.memory.ctypes.data, self.memory.size, base)
        self.set_timing(read_latency, write_latency)
        self.reset()

    def __del__(self):
        if getattr(self, "_bench", None):
            self._library.bench_destroy(self._bench)

    def set_memory(self, memory, base=0):
        """Put another memory in the place of the present one."""
        self.memory, self.base = _buffer(memory), base
        self._library.bench_memory(self._bench, self.memory.ctypes.data, self.memory.size, base)

    def set_timing(self, read_latency, write_latency):
        """Latencies of the memory from now on, in cycles."""
        _check_latencies(read_latency, write_latency)
        self._library.bench_timing(self._bench, read_latency, write_latency)

    def pause(self, chances, seed=0):
        """Random pauses from now on.

        Parameters
        ----------
        chances : chance of a pause in a cycle on every channel, or {channel of CHANNELS: chance}.
        """
        if not isinstance(chances, dict):
            chances = dict.fromkeys(CHANNELS, chances)
        for name, chance in chances.items():
            if name not in CHANNELS or not 0 <= chance < 1:
                raise MvqError(f"pause {name} = {chance}: a chance from 0 to below 1 for one of {', '.join(CHANNELS)}")
        words = [int(chances.get(name, 0) * 2**32) for name in CHANNELS]
        self._library.bench_pauses(self._bench, (ctypes.c_uint32 * len(words))(*words), seed)

    def refuse(self, direction, burst, response=SLVERR, beat=0):
        """Answer a burst with an error.

        Parameters
        ----------
        direction : ``read`` or ``write``. ``burst`` : 0 for the next that the memory takes.
        response : SLVERR or DECERR. ``beat`` : the first one of a read that is refused.
        """
        self._library.bench_error(self._bench, _is_write(direction), burst, beat, response)

    def stop(self, direction, burst=0):
        """Stop answering with a burst (0: the next); no more addresses are taken after it."""
        self._library.bench_stop(self._bench, _is_write(direction), burst)

    def resume(self, *, forget=False):
        """End all faults. ``forget`` : what is under way is never answered, as if the bus had been reset."""
        self._library.bench_resume(self._bench, forget)

    def reset(self, cycles=2):
        """Reset the design, and the bus with it."""
        self._library.bench_reset(self._bench, cycles)

    def write_register(self, offset, value):
        """Write a register, in as many cycles as that takes.

        Raises
        ------
        BenchError : the write is refused or not answered, or the design breaks a rule.
        """
        self._check(self._library.bench_write_register(self._bench, offset, value))

    def read_register(self, offset):
        """Read a register; raises as :meth:`write_register` does."""
        value = ctypes.c_uint32()
        self._check(self._library.bench_read_register(self._bench, offset, ctypes.byref(value)))
        return value.value

    def run(self, cycles, *, until_interrupt=False):
        """Run for ``cycles``, or until ``irq`` is high; returns whether it is.

        Raises
        ------
        BenchError : the design breaks a rule.
        """
        while cycles > 0:
            outcome = self._library.bench_run(self._bench, min(cycles, _SLICE), until_interrupt)
            self._check(outcome)
            if outcome == _INTERRUPT:
                return True
            cycles -= _SLICE
        return self.interrupt

    @property
    def interrupt(self):
        """``irq`` in the last cycle."""
        return bool(self._library.bench_interrupt(self._bench))

    @property
    def counts(self):
        """:class:`Counts` so far."""
        values = (ctypes.c_uint64 * 5)()
        self._library.bench_counts(self._bench, values)
        return Counts(*values)

    def _check(self, outcome):
        if outcome == _VIOLATION:
            raise BenchError(self._library.bench_violation(self._bench).decode())


def _check_ports(component):
    members = component.signature.members
    widths = [Shape.cast(members[name].shape).width for name in ("s_axi_awaddr", "m_axi_rdata") if name in members]
    ports = {}
    if len(widths) == 2:
        ports = {**axi4_lite_slave(widths[0]), **axi4_master(widths[1]), "irq": Out(1)}
    wrong = [name for name, member in ports.items() if name not in members or members[name] != member]
    if wrong or not ports:
        raise MvqError(
            f"{component.module_name} cannot run in this bench, which needs irq and the ports s_axi_ and m_axi_ of "
            f"hdl.bus.axi: missing or different are {', '.join(wrong) or 's_axi_awaddr, m_axi_rdata'}"
        )


def _check_latencies(read_latency, write_latency):
    for name, value in (("read_latency", read_latency), ("write_latency", write_latency)):
        if value < 1:
            raise MvqError(f"{name} = {value}: must be at least 1")


def _buffer(memory):
    if not (isinstance(memory, np.ndarray) and memory.dtype == np.uint8 and memory.flags.c_contiguous):
        raise MvqError("memory must be a contiguous numpy array of uint8")
    return memory


def _is_write(direction):
    if direction not in ("read", "write"):
        raise MvqError(f"direction = {direction!r}: must be read or write")
    return direction == "write"
