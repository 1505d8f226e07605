"""The ofmap storer."""

from typing import NamedTuple

from golden.timing.counters import complete
from golden.timing.dispatcher import OF_COMPUTES, OF_RESULTS, pop
from golden.timing.records import inlined
from golden.timing.windows import BUFFER, FOR_ARRAY, WINDOW_END

__all__ = ["OfmapStorer", "clock_storer", "offer_storer"]

#: places of the ring of places; one less may be in use.
_PLACES = 4
#: L1 vectors of a raw result.
_PARTS = 4


class OfmapStorer(NamedTuple):
    """Finds a place in L1 for each result, and writes it when the result is there."""

    # places, ahead of the results
    op: int = -1  # row of the operation; -1: none
    op_left: int = 0  # places of it
    block_left: int = 0  # places of the subset's output channels
    places: int = 0  # that wait for their results
    place_ends: tuple = (0,) * _PLACES  # of these, 1 for the last of an operation
    ends_in: int = 0  # places since the start
    ends_out: int = 0  # of which so many had their results
    residual_arriving: bool = False  # comes from L1
    residuals: int = 0  # that wait for their results
    # results
    next_op: int = -1  # row of the operation that follows ``result_op``; -1: none
    result_op: int = -1  # row of the operation; -1: none
    part: int = 0  # of a raw result
    # results on their way into L1
    emitted: bool = False
    emitted_end: bool = False  # the last of its operation
    written: bool = False
    written_end: bool = False
    # signals
    place: bool = False  # finds a place
    place_end: bool = False  # the last of the operation
    takes_op: bool = False
    takes_settings: bool = False  # ``next_op`` becomes ``result_op``
    steps: bool = False  # takes a vector, or a part
    emits: bool = False
    leaves: bool = False  # the result is complete
    leaves_end: bool = False  # the last of its operation
    core_taken: bool = False
    windows_taken: bool = False


@inlined
def offer_storer(storer, windows, array, splitter, tables):
    s = storer
    s.steps = s.emits = s.leaves = s.leaves_end = s.core_taken = s.windows_taken = False
    if s.result_op >= 0:
        op = tables.ops[s.result_op]
        if op.vector:
            kind = windows.kinds[windows.kinds_out % BUFFER]
            offered, ends = windows.level > 0 and kind != FOR_ARRAY, kind == WINDOW_END
        else:
            offered, ends = array.valid and array.complete, True
        s.steps = offered and s.places > 0 and (s.residuals > 0 or not op.residual or not ends)
        s.emits = s.steps and ends
        s.leaves = s.emits and (not op.raw or s.part == _PARTS - 1)
        s.leaves_end = s.leaves and s.place_ends[s.ends_out % _PLACES] == 1
        s.core_taken, s.windows_taken = s.leaves and not op.vector, s.steps and op.vector
    s.takes_settings = s.result_op < 0 or s.leaves_end
    s.place = s.place_end = False
    if s.op >= 0:
        s.place = (tables.ops[s.op].vector or splitter.blocks != splitter.blocks_placed) and s.places != _PLACES - 1
        s.place_end = s.place and s.op_left == 1
    s.takes_op = (s.op < 0 or s.place_end) and (s.next_op < 0 or s.takes_settings)


@inlined
def clock_storer(storer, queue, progress, splitter, tables, log, cycle):
    s = storer
    log.counters.l1_writes += s.written
    if s.written_end:
        complete(tables.order[OF_RESULTS, progress[OF_COMPUTES].done], progress[OF_COMPUTES], log, cycle)
    s.written, s.written_end = s.emitted, s.emitted_end
    s.emitted, s.emitted_end = s.emits, s.leaves_end
    if s.steps and tables.ops[s.result_op].raw:
        s.part = (s.part + 1) % _PARTS
    s.residuals += s.residual_arriving
    if s.leaves:
        s.places -= 1
        s.ends_out += 1
        s.residuals -= tables.ops[s.result_op].residual
    if s.takes_settings:
        s.result_op, s.next_op = s.next_op, -1
    s.residual_arriving = False
    if s.place:
        op = tables.ops[s.op]
        s.residual_arriving = op.residual
        log.counters.l1_reads += op.residual
        s.place_ends[s.ends_in % _PLACES] = s.place_end
        s.ends_in += 1
        s.places += 1
        s.op_left -= 1
        if not op.vector:
            if s.block_left == 0:
                s.block_left = tables.subsets[tables.blocks[splitter.blocks_placed]].groups * op.pixels
            s.block_left -= 1
            splitter.blocks_placed += s.block_left == 0
        if s.place_end:
            s.op = -1
    if s.takes_op and queue.begins:
        s.op = s.next_op = pop(queue)
        s.op_left = tables.ops[s.op].results
