"""The dispatcher, and the queues from which the engines take their operations."""

from typing import NamedTuple

from golden.timing.bus import DESCRIPTORS, request
from golden.timing.records import inlined
from golden.timing.tables import CONV, END, LOAD, STORE, VECTOR

__all__ = ["KINDS", "OF_COMPUTES", "OF_LOADS", "OF_RESULTS", "OF_STORES", "OF_WEIGHTS", "OF_WINDOWS", "QUEUED"]
__all__ += ["Dispatcher", "Progress", "Queue", "clock_dispatcher", "offer_dispatcher", "offer_queues", "pop"]

#: queues of operations, and what goes into each.
OF_LOADS, OF_STORES, OF_WEIGHTS, OF_WINDOWS, OF_RESULTS = range(5)
QUEUED = ((LOAD,), (STORE,), (CONV,), (CONV, VECTOR), (CONV, VECTOR))
_QUEUES, _DEPTH = len(QUEUED), 2

#: kinds of operation that are waited for: OF_LOADS, OF_STORES, OF_COMPUTES.
OF_COMPUTES, KINDS = 2, 3
#: most operations of a kind that may be under way.
_MOST = 127

_FETCH, _COLLECT, _CHECK, _DISPATCH, _DRAIN = range(5)


class Dispatcher(NamedTuple):
    """Fetches descriptors one after another."""

    state: int = _FETCH
    at: int = 0  # row of the operation
    beats: int = 0  # of its descriptor, so far
    finished: bool = False


class Queue(NamedTuple):
    """Operations on their way to one engine."""

    pushed: int = 0
    popped: int = 0
    # signals
    op: int = 0  # row of the first
    begins: bool = False  # it may leave


class Progress(NamedTuple):
    """Operations of one kind."""

    done: int = 0
    under_way: int = 0


@inlined
def pop(queue):
    """Row of the operation that leaves ``queue``."""
    queue.popped += 1
    return queue.op


@inlined
def offer_dispatcher(dispatcher, clients):
    client = clients[DESCRIPTORS]
    client.taken = dispatcher.state == _COLLECT and client.level > 0


@inlined
def offer_queues(queues, progress, tables):
    for index in range(_QUEUES):
        queue = queues[index]
        queue.begins = queue.popped != queue.pushed
        if queue.begins:
            queue.op = tables.order[index, queue.popped]
            if index != OF_WEIGHTS:
                op = tables.ops[queue.op]
                queue.begins = (
                    _reached(progress[OF_LOADS], op.wait_loads)
                    and _reached(progress[OF_STORES], op.wait_stores)
                    and _reached(progress[OF_COMPUTES], op.wait_computes)
                )


@inlined
def _reached(progress, count):
    """Modulo 256, and at most 127 behind."""
    return (progress.done - count) & 255 < 128


@inlined
def clock_dispatcher(dispatcher, queues, clients, progress, tables):
    state = dispatcher.state
    if state == _FETCH:
        if clients[DESCRIPTORS].ready:
            beats = tables.sizes.descriptor_beats
            request(clients[DESCRIPTORS], tables.sizes.program + dispatcher.at * beats, beats)
            dispatcher.state, dispatcher.beats = _COLLECT, 0
    elif state == _COLLECT:
        if clients[DESCRIPTORS].taken:
            dispatcher.beats += 1
            if dispatcher.beats == tables.sizes.descriptor_beats:
                dispatcher.state = _CHECK
    elif state == _CHECK:
        dispatcher.state = _DRAIN if tables.ops[dispatcher.at].kind == END else _DISPATCH
    elif state == _DISPATCH:
        kind = tables.ops[dispatcher.at].kind
        first, last, counted = OF_LOADS, OF_LOADS, OF_LOADS
        if kind == STORE:
            first, last, counted = OF_STORES, OF_STORES, OF_STORES
        elif kind == CONV:
            first, last, counted = OF_WEIGHTS, OF_RESULTS, OF_COMPUTES
        elif kind == VECTOR:
            first, last, counted = OF_WINDOWS, OF_RESULTS, OF_COMPUTES
        fits = progress[counted].under_way < _MOST
        for index in range(first, last + 1):
            fits = fits and queues[index].pushed - queues[index].popped < _DEPTH
        if fits:
            for index in range(first, last + 1):
                queues[index].pushed += 1
            progress[counted].under_way += 1
            dispatcher.at += 1
            dispatcher.state = _FETCH
    else:
        dispatcher.finished = (
            progress[OF_LOADS].under_way == 0
            and progress[OF_STORES].under_way == 0
            and progress[OF_COMPUTES].under_way == 0
        )
