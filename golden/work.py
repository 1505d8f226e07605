"""What each operation of a program moves and does, counted from its tables: all that does not depend on time."""

import numpy as np

from golden import timing
from golden.schedule import raw_row_words

__all__ = ["count_work"]


def count_work(operations, subsets, config):
    """Work of a program.

    Parameters
    ----------
    operations, subsets : from :func:`golden.timing.decode`.
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Returns
    -------
    dict : name -> int64, a number for each descriptor. The counters of :data:`golden.timing.COUNTERS` but for the
        stalls, each operation with its own; ``descriptor_beats``, ``weight_beats`` and ``map_beats`` of the bus;
        ``l1_bytes`` without partial sums; and what :func:`golden.traffic.register_accesses` wants: ``loaded_rows``,
        ``windows``, ``pixel_vectors``, ``rebuilt_rows``, ``codewords``.
    """
    kind = operations[:, timing.KIND]

    def column(index, *kinds):
        return np.where(np.isin(kind, kinds), operations[:, index], 0)

    transfers, computes = (timing.LOAD, timing.STORE), (timing.CONV, timing.VECTOR)
    loads, stores = (column(timing.CHUNKS, one) * operations[:, timing.CHUNK_BEATS] for one in transfers)
    results = column(timing.RESULTS, *computes)
    written = results * np.where(column(timing.RAW, timing.CONV), 4, 1)
    own = _subset_work(operations, subsets, config.array)
    reads = column(timing.OP_READS, timing.VECTOR) + own.pop("reads") + results * column(timing.RESIDUAL, *computes)
    weights = column(timing.WEIGHT_BEATS, timing.CONV)
    descriptors = config.descriptor_bytes // config.bus_bytes
    return {
        **own,
        "bus_read_beats": descriptors + weights + loads,
        "bus_write_beats": stores,
        "l1_reads": reads + stores // config.word_beats,
        "l1_writes": written + loads // config.word_beats,
        "descriptor_beats": np.full(len(kind), descriptors),
        "weight_beats": weights,
        "map_beats": loads + stores,
        "l1_bytes": (reads + written) * config.vector_bytes + (loads + stores) * config.bus_bytes,
    }


def _subset_work(operations, subsets, array):
    """What the subsets of each ``conv`` add up to."""
    get = subsets.T
    sums = get[timing.SUBSET_PIXELS] * get[timing.GROUPS]
    compressed = get[timing.COMPRESSED] == 1
    rebuilt = get[timing.RECORDS] * array.crf_read_ports // array.groups
    work = {
        "busy_cycles": get[timing.SUBSET_PIXELS] * get[timing.ENTRIES],
        "psum_reads": sums * (get[timing.ACCUMULATE] == 1),
        "psum_writes": sums * (get[timing.COMPLETE] == 0),
        "reads": get[timing.READS],
        "loaded_rows": np.where(compressed, rebuilt, get[timing.WEIGHT_WORDS] // raw_row_words(array)),
        "rebuilt_rows": np.where(compressed, rebuilt, 0),
        "windows": get[timing.WALK],
        "pixel_vectors": get[timing.SUBSET_PIXELS] * get[timing.VECTORS],
        "codewords": get[timing.CODEBOOK_WORDS] // array.codeword_words,
    }
    ends = get[timing.LAST]
    owner = np.flatnonzero(operations[:, timing.KIND] == timing.CONV)[np.cumsum(ends) - ends]
    found = {name: np.zeros(len(operations), np.int64) for name in work}
    for name, values in work.items():
        np.add.at(found[name], owner, values)
    return found
