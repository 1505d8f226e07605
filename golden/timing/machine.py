"""The cycle loop over all engines."""

import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from golden.timing import bus, core, dispatcher, storer, transfers, weights, windows
from golden.timing.counters import COUNTERS, Counters, Log, ProgramTiming
from golden.timing.dispatcher import OF_LOADS, OF_RESULTS, OF_STORES, OF_WEIGHTS, OF_WINDOWS
from golden.timing.records import OPTIONS, record, records
from golden.timing.tables import Sizes, Tables, decode
from hdl.config import MvqError

__all__ = ["MemoryTiming", "predict", "simulate"]

#: seconds between two reports of progress.
_PROGRESS_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """The memory behind the bus.

    Parameters
    ----------
    read_latency : cycles from an address that is taken to its first beat, at least 1.
    write_latency : cycles from the last beat of a burst to its answer, at least 1.
    read_addresses : addresses of reads that wait in the memory; 0 for any number. It has no ready in the cycle after
        one in which so many waited. The next leaves them when the last beat of the burst before has entered a queue of
        ``read_beats`` beats, from which a beat leaves in the cycle before the bus has it. ``read_latency`` is at least
        2 with such a memory.
    """

    read_latency: int = 20
    write_latency: int = 20
    read_addresses: int = 0
    read_beats: int = 2


class Machine(NamedTuple):
    """Everything that the loop works on: tables, and the records of the engines."""

    tables: Tables
    log: Log
    dispatcher: np.void
    queues: np.ndarray
    progress: np.ndarray
    clients: np.ndarray
    read: np.void
    memory: np.void
    write: np.void
    load: np.void
    store: np.void
    splitter: np.void
    loader: np.void
    sequencer: np.void
    array: np.void
    pipe: np.ndarray
    windows: np.void
    storer: np.void


def _loop(sources):
    """The compiled loop. Numba keeps it on disk until its file or a value in its closure changes; the files of what it
    calls are in ``sources``."""

    def run(machine, limit):
        """Cycles of the program; -1 when they are more than ``limit``."""
        _ = sources
        m, tables, log = machine, machine.tables, machine.log
        loads, stores, weight_ops = m.queues[OF_LOADS], m.queues[OF_STORES], m.queues[OF_WEIGHTS]
        walks, results = m.queues[OF_WINDOWS], m.queues[OF_RESULTS]
        for cycle in range(limit):
            # signals, each after those that it depends on
            storer.offer_storer(m.storer, m.windows, m.array, m.splitter, tables)
            core.offer_array(m.array, m.storer, m.pipe, tables)
            core.offer_sequencer(m.sequencer, m.array, tables)
            windows.offer_windows(m.windows, m.storer, m.sequencer, m.splitter, tables)
            weights.offer_loader(m.loader, m.sequencer)
            weights.offer_splitter(m.splitter, m.loader, m.clients, tables)
            transfers.offer_load(m.load, m.clients, tables)
            bus.offer_write(m.write, m.store.level, tables.sizes, cycle)
            transfers.offer_store(m.store, m.write, tables)
            dispatcher.offer_dispatcher(m.dispatcher, m.clients)
            dispatcher.offer_queues(m.queues, m.progress, tables)
            bus.offer_read(m.read, m.memory, m.clients, tables.sizes, cycle)

            # the clock edge; an engine comes before those whose registers it needs as they were
            core.count_core(log, m.sequencer, m.loader, m.array)
            bus.count_bus(log, m.memory, m.write)
            bus.clock_read(m.read, m.memory, m.clients, tables.sizes, cycle)
            if tables.sizes.read_addresses != 0:
                bus.clock_memory(m.memory, tables.sizes, cycle)
            dispatcher.clock_dispatcher(m.dispatcher, m.queues, m.clients, m.progress, tables)
            transfers.clock_load(m.load, loads, m.clients, m.progress, tables, log, cycle)
            bus.clock_write(m.write, tables.sizes, cycle)
            transfers.clock_store(m.store, stores, m.write, m.progress, tables, log, cycle)
            weights.clock_loader(m.loader, m.splitter, m.array, m.pipe, m.clients, tables)
            weights.clock_splitter(m.splitter, m.loader, weight_ops, m.clients, tables)
            core.clock_array(m.array, m.sequencer, m.pipe, tables)
            core.clock_psums(m.array)
            core.clock_sequencer(m.sequencer, m.loader, m.windows.enters, tables)
            windows.clock_windows(m.windows, walks, m.splitter, tables, log)
            storer.clock_storer(m.storer, results, m.progress, m.splitter, tables, log, cycle)
            if m.dispatcher.finished:
                return cycle + 1
        return -1

    try:
        return numba.njit(cache=True, nogil=True, **OPTIONS)(run)
    except RuntimeError:  # there is no folder for it that can be written to
        return numba.njit(nogil=True, **OPTIONS)(run)


_files = sorted(Path(__file__).parent.glob("*.py"))
_run = _loop(hashlib.sha256(b"".join(path.read_bytes() for path in _files)).digest())


def _tables(operations, subsets, address, config, memory):
    """:class:`~golden.timing.tables.Tables` of a program, a configuration and a memory."""
    array, bus_bytes = config.array, config.bus_bytes
    sizes = Sizes(
        program=address // bus_bytes,
        descriptor_beats=config.descriptor_bytes // bus_bytes,
        burst_beats=config.burst_beats,
        outstanding=config.outstanding,
        header_words=config.subset_words,
        word_bits=array.stream_width,
        record_bits=array.crf_read_ports * array.entry_width,
        wrf_depth=array.wrf_depth,
        scale_depth=array.scale_depth,
        arf_depth=array.arf_depth,
        psum_depth=config.psum_vectors,
        **dataclasses.asdict(memory),
    )
    order = np.zeros((len(dispatcher.QUEUED), len(operations)), np.int64)
    for row, kinds in zip(order, dispatcher.QUEUED, strict=True):
        rows = np.flatnonzero(np.isin(operations["kind"], kinds))
        row[: len(rows)] = rows
    blocks = np.flatnonzero(subsets["complete"])
    return Tables(record(sizes), operations, subsets, order, blocks)


def _machine(tables, config):
    """:class:`Machine` before the first cycle."""
    count = len(tables.ops)
    clients = records(bus.Client, bus.CLIENTS)
    clients["room"] = [beats for _, beats in config.read_buffers]
    return Machine(
        tables=tables,
        log=Log(record(Counters()), np.full(count, -1, np.int64), records(Counters, count)),
        dispatcher=record(dispatcher.Dispatcher()),
        queues=records(dispatcher.Queue, len(dispatcher.QUEUED)),
        progress=records(dispatcher.Progress, dispatcher.KINDS),
        clients=clients,
        read=record(bus.ReadMaster()),
        memory=record(bus.Memory()),
        write=record(bus.WriteMaster()),
        load=record(transfers.LoadEngine()),
        store=record(transfers.StoreEngine()),
        splitter=record(weights.SubsetSplitter()),
        loader=record(weights.WeightLoader()),
        sequencer=record(core.Sequencer()),
        array=record(core.Array()),
        pipe=records(core.Stage, config.array.latency),
        windows=record(windows.WindowLoader()),
        storer=record(storer.OfmapStorer()),
    )


def simulate(operations, subsets, address, config, memory=None, limit=1 << 40, progress=None):
    """Run the tables of a program.

    Parameters
    ----------
    operations, subsets : from :func:`golden.timing.decode`. ``address`` : of the first descriptor.
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`. ``memory`` : :class:`MemoryTiming`.
    limit : cycles after which it is given up. ``progress`` : called with (operations that are complete, all).

    Returns
    -------
    :class:`golden.timing.ProgramTiming`

    Raises
    ------
    MvqError : the program does not end within ``limit`` cycles.
    """
    tables = _tables(operations, subsets, address, config, memory or MemoryTiming())
    machine = _machine(tables, config)
    log = machine.log
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(_run, machine, limit)
        while progress and wait([run], _PROGRESS_SECONDS).not_done:
            progress(int(np.count_nonzero(log.completed >= 0)), len(operations))
    cycles = run.result()
    if cycles < 0:
        raise MvqError(f"the program does not end within {limit} cycles")
    counters = dict(zip(COUNTERS, log.counters.item(), strict=True))
    return ProgramTiming(cycles, log.completed, counters, log.counted.view(np.int64).reshape(-1, len(COUNTERS)))


def predict(program, memory=None, progress=None):
    """:class:`golden.timing.ProgramTiming` of a :class:`golden.program.Program`.

    ``memory`` : :class:`MemoryTiming`. ``progress`` as in :func:`simulate`.
    """
    operations, subsets = decode(program.memory(), program.program_address, program.config, program.base)
    return simulate(operations, subsets, program.program_address, program.config, memory, progress=progress)
