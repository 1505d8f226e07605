"""What each operation of a program moves and does, counted from its tables: all that does not depend on time."""

import numpy as np

from golden.schedule import raw_row_words
from golden.timing.tables import CONV, LOAD, STORE

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
    kind, moved = operations["kind"], operations["chunks"] * operations["chunk_beats"]
    loads, stores = (np.where(kind == one, moved, 0) for one in (LOAD, STORE))
    loaded, stored = loads // operations["word_beats"], stores // operations["word_beats"]
    results, weights = operations["results"], operations["weight_beats"]
    written = results * np.where(operations["raw"], 4, 1)
    own = _subset_work(operations, subsets, config.array)
    reads = operations["reads"] + own.pop("reads") + results * operations["residual"]
    descriptors = config.descriptor_bytes // config.bus_bytes
    return {
        **own,
        "bus_read_beats": descriptors + weights + loads,
        "bus_write_beats": stores,
        "l1_reads": reads + stored,
        "l1_writes": written + loaded,
        "descriptor_beats": np.full(len(kind), descriptors),
        "weight_beats": weights,
        "map_beats": loads + stores,
        "l1_bytes": (reads + written) * config.vector_bytes + (loaded + stored) * config.word_bytes,
    }


def _subset_work(operations, subsets, array):
    """What the subsets of each ``conv`` add up to."""
    sums = subsets["pixels"] * subsets["groups"]
    compressed = subsets["compressed"]
    rebuilt = subsets["records"] * array.crf_read_ports // array.groups
    work = {
        "busy_cycles": subsets["pixels"] * subsets["entries"],
        "psum_reads": sums * subsets["accumulate"],
        "psum_writes": sums * ~subsets["complete"],
        "reads": subsets["reads"],
        "loaded_rows": np.where(compressed, rebuilt, subsets["weight_words"] // raw_row_words(array)),
        "rebuilt_rows": np.where(compressed, rebuilt, 0),
        "windows": subsets["walk"],
        "pixel_vectors": subsets["pixels"] * subsets["vectors"],
        "codewords": subsets["codebook_words"] // array.codeword_words,
    }
    ends = subsets["last"]
    owner = np.flatnonzero(operations["kind"] == CONV)[np.cumsum(ends) - ends]
    found = {name: np.zeros(len(operations), np.int64) for name in work}
    for name, values in work.items():
        np.add.at(found[name], owner, values)
    return found
