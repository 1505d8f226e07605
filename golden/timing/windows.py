"""The window loader."""

from typing import NamedTuple

from golden.timing.dispatcher import pop
from golden.timing.records import inlined

__all__ = ["BUFFER", "FOR_ARRAY", "WINDOW_END", "WindowLoader", "clock_windows", "offer_windows"]

#: places of its buffer's ring; one less may be in use.
BUFFER = 4
#: kinds of vector: for the activation file; of a window for the storer, and the last of that window.
FOR_ARRAY, IN_WINDOW, WINDOW_END = range(3)


class WindowLoader(NamedTuple):
    """Walks pixels and taps of a tensor in L1."""

    op: int = -1  # row of the operation that waits; -1: none
    subset: int = -1  # row of the subset that waits; -1: none
    walking: bool = False
    left: int = 0  # vectors of the walk
    vector: bool = False  # the walk of a ``vector``
    window: int = 0  # vectors of its window
    phase: int = 0  # vector of the window
    reserved: int = 0  # places of the buffer
    arriving: bool = False  # a vector comes from L1
    level: int = 0  # vectors in the buffer
    kinds: tuple = (FOR_ARRAY,) * BUFFER  # of the vectors in the buffer and on their way
    kinds_in: int = 0  # such vectors since the start
    kinds_out: int = 0  # of which so many left the buffer
    # signals
    taken: bool = False  # a vector leaves the buffer
    enters: bool = False  # into the activation file
    advance: bool = False  # to the next vector
    ends: bool = False  # of the walk
    start: bool = False  # of the next walk
    op_done: bool = False  # the next walk is the last of its operation
    takes_op: bool = False
    takes_subset: bool = False


@inlined
def offer_windows(windows, storer, sequencer, splitter, tables):
    """After the storer's and the sequencer's."""
    w = windows
    kind = w.kinds[w.kinds_out % BUFFER]
    if kind == FOR_ARRAY:
        w.taken = w.level > 0 and sequencer.held != tables.sizes.arf_depth
    else:
        w.taken = w.level > 0 and storer.windows_taken
    w.enters = w.taken and kind == FOR_ARRAY
    w.advance = w.walking and w.reserved != BUFFER - 1
    w.ends = w.advance and w.left == 1
    w.start = w.op_done = is_vector = False
    if w.op >= 0 and (not w.walking or w.ends):
        is_vector = tables.ops[w.op].vector
        w.start = is_vector or w.subset >= 0
        w.op_done = w.start and (is_vector or tables.subsets[w.subset].last)
    w.takes_op = w.op < 0 or w.op_done
    w.takes_subset = (w.subset < 0 or (w.start and not is_vector)) and splitter.walked != splitter.split


@inlined
def clock_windows(windows, queue, splitter, tables, log):
    w = windows
    w.level += w.arriving - w.taken
    w.kinds_out += w.taken
    w.reserved += w.advance - w.taken
    w.arriving = w.advance
    if w.advance:
        kind = FOR_ARRAY
        if w.vector:
            w.phase += 1
            kind = IN_WINDOW
            if w.phase == w.window:
                kind, w.phase = WINDOW_END, 0
        w.kinds[w.kinds_in % BUFFER] = kind
        w.kinds_in += 1
        w.left -= 1
    if w.ends:
        w.walking = False
    if w.start:
        w.walking = True
        op = tables.ops[w.op]
        w.vector = op.vector
        if w.vector:
            w.window, w.phase = op.window, 0
            w.left = op.results * op.window
            log.counters.l1_reads += op.reads
        else:
            w.left = tables.subsets[w.subset].walk
            log.counters.l1_reads += tables.subsets[w.subset].reads
            w.subset = -1
    if w.op_done:
        w.op = -1
    if w.takes_op and queue.begins:
        w.op = pop(queue)
    if w.takes_subset:
        w.subset = splitter.walked
        splitter.walked += 1
