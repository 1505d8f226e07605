"""The load and the store engine: blocks of words between memory and L1."""

from typing import NamedTuple

from golden.timing.bus import LOADS, request
from golden.timing.counters import complete
from golden.timing.dispatcher import OF_LOADS, OF_STORES, pop
from golden.timing.records import inlined

__all__ = ["LoadEngine", "StoreEngine", "clock_load", "clock_store", "offer_load", "offer_store"]

#: words that are read ahead for a store.
_STORE_WORDS = 4


class LoadEngine(NamedTuple):
    """Memory to L1."""

    op: int = -1  # row of the operation; -1: none
    requests: int = 0  # chunks that are to be asked for
    address: int = 0  # of the next of them
    words: int = 0  # that are to be written
    beats: int = 0  # of the next of them that came
    # signals
    done: bool = False  # writes its last word


class StoreEngine(NamedTuple):
    """L1 to memory."""

    op: int = -1  # row of the operation; -1: none
    requests: int = 0  # chunks that are to be announced
    address: int = 0  # of the next of them
    answers: int = 0  # chunks that are not in memory
    reads: int = 0  # words that are to be read
    reserved: int = 0  # words of the buffer
    arriving: bool = False  # a word comes from L1
    level: int = 0  # words in the buffer
    beats: int = 0  # of the first of them that were sent
    # signals
    read: bool = False  # asks L1 for a word
    popped: bool = False  # a word leaves the buffer
    answered: bool = False  # a chunk is in memory
    done: bool = False  # the last


@inlined
def offer_load(load, clients, tables):
    client = clients[LOADS]
    client.taken = load.op >= 0 and client.level > 0
    load.done = client.taken and load.words == 1 and load.beats == tables.ops[load.op].word_beats - 1


@inlined
def clock_load(load, queue, clients, progress, tables, log, cycle):
    if load.op < 0:
        if queue.begins:
            load.op = pop(queue)
            op = tables.ops[load.op]
            load.requests, load.address = op.chunks, op.address
            load.words = op.chunks * op.chunk_beats // op.word_beats
        return
    op = tables.ops[load.op]
    if load.requests > 0 and clients[LOADS].ready:
        request(clients[LOADS], load.address, op.chunk_beats)
        load.address += op.stride
        load.requests -= 1
    if clients[LOADS].taken:
        load.beats += 1
        if load.beats == op.word_beats:
            load.beats = 0
            load.words -= 1
            log.counters.l1_writes += 1
    if load.done:
        complete(load.op, progress[OF_LOADS], log, cycle)
        load.op = -1


@inlined
def offer_store(store, write, tables):
    """After the write master's."""
    store.read = store.reads > 0 and store.reserved != _STORE_WORDS
    store.popped = write.send and store.beats == tables.ops[store.op].word_beats - 1
    store.answered = write.done
    store.done = store.answered and store.answers == 1


@inlined
def clock_store(store, queue, write, progress, tables, log, cycle):
    """After the write master's."""
    if store.op < 0:
        if queue.begins:
            store.op = pop(queue)
            op = tables.ops[store.op]
            store.requests, store.address, store.answers = op.chunks, op.address, op.chunks
            store.reads = op.chunks * op.chunk_beats // op.word_beats
        return
    op = tables.ops[store.op]
    if store.requests > 0 and write.ready:
        request(write, store.address, op.chunk_beats)
        store.address += op.stride
        store.requests -= 1
    store.answers -= store.answered
    store.level += store.arriving
    store.reserved += store.read - store.popped
    store.arriving = store.read
    store.reads -= store.read
    log.counters.l1_reads += store.read
    if write.send:
        store.beats += 1
        if store.popped:
            store.beats = 0
            store.level -= 1
    if store.done:
        complete(store.op, progress[OF_STORES], log, cycle)
        store.op = -1
