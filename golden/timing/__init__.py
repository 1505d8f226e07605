"""Cycles of a program on the accelerator, exactly: every engine's state, without its data, cycle by cycle.

What each engine does in a cycle is stated in the docstring of its gateware; this is the same in integers, compiled by
numba. The memory behind the bus answers a burst of reads after a fixed latency, one beat a cycle, in order, and takes
writes at once; it may be one that takes few addresses ahead. L1 never makes an engine wait: the planner puts what meets
into different banks.
"""

from golden.timing.counters import COUNTERS, ProgramTiming
from golden.timing.machine import MemoryTiming, predict, simulate
from golden.timing.tables import decode

__all__ = ["COUNTERS", "MemoryTiming", "ProgramTiming", "decode", "predict", "simulate"]
