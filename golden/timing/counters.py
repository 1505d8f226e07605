"""What is counted, and when operations are complete."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from golden.timing.records import inlined

__all__ = ["COUNTERS", "Counters", "Log", "ProgramTiming", "complete"]


class Counters(NamedTuple):
    """What is counted, as the registers have it."""

    busy_cycles: int = 0
    weight_stalls: int = 0
    activation_stalls: int = 0
    bus_read_beats: int = 0
    bus_write_beats: int = 0
    l1_reads: int = 0
    l1_writes: int = 0
    psum_reads: int = 0
    psum_writes: int = 0


#: what is counted, in the order of the result.
COUNTERS = Counters._fields


@dataclass(frozen=True, eq=False)
class ProgramTiming:
    """When a program does what.

    Attributes
    ----------
    cycles : from the first cycle of the run to the last, as the register ``cycles`` counts them.
    completed : int64, for each descriptor the cycle in which it was complete; -1 for ``end``.
    counters : name -> value of the counter registers.
    counted : int64 (descriptors, counters), what the counters of :data:`COUNTERS` held in that cycle; 0 for ``end``.
    """

    cycles: int
    completed: np.ndarray
    counters: dict
    counted: np.ndarray


class Log(NamedTuple):
    """What the cycle loop writes: ``completed`` and ``counted`` as in :class:`ProgramTiming`."""

    counters: np.void
    completed: np.ndarray
    counted: np.ndarray


@inlined
def complete(op, progress, log, cycle):
    """The operation in row ``op``, of the kind that ``progress`` is of, is complete."""
    log.completed[op], log.counted[op] = cycle, log.counters
    progress.done += 1
    progress.under_way -= 1
