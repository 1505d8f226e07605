"""The masters of the memory bus, and the memory behind it."""

from typing import NamedTuple

from golden.timing.records import inlined

__all__ = ["CLIENTS", "DESCRIPTORS", "LOADS", "WEIGHTS", "Client", "Memory", "ReadMaster"]
__all__ += ["WriteMaster", "clock_memory", "clock_read", "clock_write", "count_bus", "offer_read", "offer_write"]
__all__ += ["request"]

#: who reads from the bus, the most urgent first, as in ``AcceleratorConfig.read_buffers``.
DESCRIPTORS, WEIGHTS, LOADS = range(CLIENTS := 3)

#: places of the rings of bursts: as many as can be outstanding.
_RING = 64


class Client(NamedTuple):
    """One who reads, and its buffer."""

    active: bool = False  # its request has beats that no burst asked for
    address: int = 0  # of the first of them
    left: int = 0  # how many
    room: int = 0  # of the buffer, less the beats that were asked for
    level: int = 0  # beats in the buffer
    # signals
    ready: bool = False  # a request is taken
    taken: bool = False  # a beat leaves the buffer


class ReadMaster(NamedTuple):
    """Splits requests into bursts."""

    bursts: int = 0  # under way
    offered: int = -1  # client whose burst has its address on the bus; -1: none
    offered_beats: int = 0
    # signals
    issued: int = -1  # client whose next burst goes to the bus; -1: none
    issued_beats: int = 0


class Memory(NamedTuple):
    """The side of the memory that is read."""

    clients: tuple = (0,) * _RING  # of the bursts
    beats: tuple = (0,) * _RING  # that are to come of them
    times: tuple = (0,) * _RING  # of their first beats, at the earliest
    head: int = 0  # number of the burst whose beats come
    tail: int = 0  # bursts taken
    # of a memory that takes few addresses ahead
    address_ready: bool = True
    started: int = 0  # bursts that no longer wait
    unread: int = 0  # beats of the last of them that are not in the queue
    queued: int = 0  # beats in the queue
    # signals
    arrives: bool = False  # a beat comes


class WriteMaster(NamedTuple):
    """Splits requests to write into bursts."""

    active: bool = False  # its request has beats that no burst announced
    address: int = 0  # of the first of them
    left: int = 0  # how many
    owed: int = 0  # beats of the burst under way that are to be sent
    bursts: int = 0  # without an answer
    ends: bool = False  # the burst under way is the last of its request
    valid: bool = False  # a beat is on the bus
    valid_last: bool = False  # it is the last of its burst
    valid_ends: bool = False  # whose answer ends a request
    done: bool = False  # the answer came that ends a request
    answer_times: tuple = (0,) * _RING
    answer_ends: tuple = (0,) * _RING  # 1 for those that end a request
    head: int = 0  # number of the answer that comes next
    tail: int = 0  # bursts that the memory took
    # signals
    answered: bool = False  # an answer comes
    beats: int = 0  # of the burst that may begin
    begin: bool = False  # it does
    send: bool = False  # a beat goes to the bus
    ready: bool = False  # a request is taken


@inlined
def next_burst(address, left, longest):
    """Beats of a burst: none crosses a multiple of ``longest``, a power of two."""
    return min(left, longest - (address & (longest - 1)))


@inlined
def request(master, address, beats):
    """A request of ``beats`` from ``address`` on for a :class:`Client` or the :class:`WriteMaster`."""
    master.active, master.address, master.left = True, address, beats


@inlined
def count_bus(log, memory, write):
    log.counters.bus_read_beats += memory.arrives
    log.counters.bus_write_beats += write.valid


# ---- reads


@inlined
def offer_read(read, memory, clients, sizes, cycle):
    memory.arrives = memory.head != memory.tail and cycle >= memory.times[memory.head % _RING]
    for index in range(CLIENTS):
        clients[index].ready = not clients[index].active
    read.issued = -1
    if read.bursts != sizes.outstanding and (read.offered < 0 or memory.address_ready):
        for index in range(CLIENTS):
            client = clients[index]
            if client.active:
                beats = next_burst(client.address, client.left, sizes.burst_beats)
                if beats <= client.room:
                    read.issued, read.issued_beats = index, beats
                    client.ready = beats == client.left
                    break


@inlined
def clock_read(read, memory, clients, sizes, cycle):
    if read.offered >= 0 and memory.address_ready:
        place = memory.tail % _RING
        memory.clients[place], memory.beats[place] = read.offered, read.offered_beats
        memory.times[place] = cycle + sizes.read_latency
        memory.tail += 1
        read.offered = -1
    if read.issued >= 0:
        client, beats = clients[read.issued], read.issued_beats
        read.offered, read.offered_beats = read.issued, beats
        client.address += beats
        client.left -= beats
        client.active = client.left != 0
        client.room -= beats
        read.bursts += 1
    for index in range(CLIENTS):
        if clients[index].taken:
            clients[index].level -= 1
            clients[index].room += 1
    if memory.arrives:
        place = memory.head % _RING
        clients[memory.clients[place]].level += 1
        memory.beats[place] -= 1
        if memory.beats[place] == 0:
            memory.head += 1
            read.bursts -= 1


@inlined
def clock_memory(memory, sizes, cycle):
    """After :func:`clock_read`, of a memory that takes few addresses ahead."""
    memory.address_ready = memory.tail - memory.started < sizes.read_addresses
    if memory.queued != 0 and cycle + 1 >= memory.times[memory.head % _RING]:
        memory.queued -= 1
    while True:
        beats = min(memory.unread, sizes.read_beats - memory.queued)
        memory.unread -= beats
        memory.queued += beats
        if memory.unread != 0 or memory.started == memory.tail:
            break
        memory.unread = memory.beats[memory.started % _RING]
        memory.started += 1


# ---- writes


@inlined
def offer_write(write, data, sizes, cycle):
    """``data`` : words that wait to be written."""
    write.answered = write.head != write.tail and cycle >= write.answer_times[write.head % _RING]
    may_begin = write.active and write.owed == 0 and write.bursts != sizes.outstanding
    write.send = data > 0 and (may_begin or write.owed != 0)
    write.begin = write.send and write.owed == 0
    write.beats = next_burst(write.address, write.left, sizes.burst_beats) if write.active else 0
    write.ready = not write.active or (write.begin and write.left == write.beats)


@inlined
def clock_write(write, sizes, cycle):
    if write.valid and write.valid_last:
        write.answer_times[write.tail % _RING] = cycle + sizes.write_latency
        write.answer_ends[write.tail % _RING] = write.valid_ends
        write.tail += 1
    write.valid = write.done = False
    if write.answered:
        write.done = write.answer_ends[write.head % _RING] == 1
        write.head += 1
        write.bursts -= 1
    if write.begin:
        write.bursts += 1
        write.ends = write.left == write.beats
        write.owed = write.beats
        write.address += write.beats
        write.left -= write.beats
        write.active = not write.ends
    if write.send:
        write.valid, write.valid_last, write.valid_ends = True, write.owed == 1, write.ends
        write.owed -= 1
