"""Tables of a program for the cycle loop: what each engine needs to know of each descriptor and weight subset."""

import functools
from typing import NamedTuple

import numpy as np

from golden.program.formats import descriptor_fault, unpack_fields
from golden.schedule import raw_row_words
from golden.timing.records import dtype_of
from hdl.accelerator_config import OPCODES
from hdl.config import MvqError

__all__ = ["CONV", "END", "LOAD", "STORE", "VECTOR", "OperationRow", "Sizes", "SubsetRow", "Tables", "decode"]

CONV, VECTOR, LOAD, STORE, END = (OPCODES[name] for name in ("conv", "vector", "load", "store", "end"))


class OperationRow(NamedTuple):
    """A descriptor. Addresses and strides are in beats of the bus."""

    kind: int = END
    wait_loads: int = 0
    wait_stores: int = 0
    wait_computes: int = 0
    # load, store
    address: int = 0
    stride: int = 0
    chunk_beats: int = 0
    chunks: int = 0
    word_beats: int = 1  # beats in memory of an L1 word
    # conv
    weights: int = 0  # address
    weight_beats: int = 0
    raw: bool = False
    # conv, vector
    vector: bool = False
    results: int = 0  # pixels of all ofmap planes
    pixels: int = 0
    residual: bool = False
    # vector
    window: int = 0  # vectors of a window
    reads: int = 0  # of L1


class SubsetRow(NamedTuple):
    """A weight subset that is streamed."""

    # the packed image, in words of the bus
    codebook_words: int = 0
    scale_words: int = 0
    weight_words: int = 0  # of int8 weights
    records: int = 0  # of compressed weights
    compressed: bool = False
    # words in the core's memories
    entries: int = 0
    scales: int = 0
    # loops
    groups: int = 0
    passes: int = 0
    vectors: int = 0
    fresh: int = 0
    row_pixels: int = 0
    pixels: int = 0
    # window
    walk: int = 0  # vectors
    reads: int = 0  # of L1: those not in the padding
    # place in the layer
    accumulate: bool = False
    complete: bool = False  # the sums of its output channels
    last: bool = False


class Sizes(NamedTuple):
    """What the engines need to know of the configuration, of the memory, and of the program."""

    program: int = 0  # address in beats
    descriptor_beats: int = 0
    burst_beats: int = 0
    outstanding: int = 0
    header_words: int = 0
    word_bits: int = 0  # of the weight stream
    record_bits: int = 0  # of compressed weights
    wrf_depth: int = 0
    scale_depth: int = 0
    arf_depth: int = 0
    psum_depth: int = 0
    read_latency: int = 0
    write_latency: int = 0
    read_addresses: int = 0
    read_beats: int = 0


class Tables(NamedTuple):
    """What the cycle loop reads. ``order`` has the rows of each queue's operations, ``blocks`` those of the subsets
    that complete their output channels."""

    sizes: np.void
    ops: np.ndarray
    subsets: np.ndarray
    order: np.ndarray
    blocks: np.ndarray


@functools.cache
def _inside(count, window, stride, first, extent, fresh):
    """Coordinates in ``range(extent)`` that a walk along one axis reads: ``window`` from ``first`` on for its first
    pixel, and of each of the ``count`` - 1 others, ``stride`` further on, the last ``fresh``."""
    starts = first + stride * np.arange(count)[:, None]
    seen = starts + np.arange(window)
    needed = np.ones(seen.shape, bool)
    needed[1:, : window - fresh] = False
    return int(((seen >= 0) & (seen < extent) & needed).sum())


def _reads(op, groups, rows, columns, tap_row=0, tap_column=0, fresh=None):
    """L1 reads of a walk: its vectors without those in the padding."""
    fresh = columns if fresh is None else fresh
    down = _inside(op["ofmap_rows"], rows, op["stride_y"], tap_row - op["pad_top"], op["ifmap_rows"], rows)
    first = tap_column - op["pad_left"]
    return groups * down * _inside(op["ofmap_columns"], columns, op["stride_x"], first, op["ifmap_columns"], fresh)


def _subset_row(header, op, config):
    """:class:`SubsetRow` of the fields of a header, and of the ``conv`` that it belongs to."""
    array = config.array
    rows_loaded = header["entries"] * header["rows"]
    compressed, records = header.get("compressed", 0), 0
    if compressed:
        records = rows_loaded * (array.groups // array.crf_read_ports)
        weight_words = -(-records * array.crf_read_ports * array.entry_width // array.stream_width)
    else:
        weight_words = rows_loaded * raw_row_words(array)
    rows, columns = header["tap_rows"], header["tap_columns"]
    fresh_columns = min(op["stride_x"], columns)
    row_columns = columns + (op["ofmap_columns"] - 1) * fresh_columns
    return SubsetRow(
        codebook_words=header.get("codewords", 0) * array.codeword_words,
        scale_words=header["scales"] * array.scale_words,
        weight_words=weight_words,
        records=records,
        compressed=compressed,
        entries=header["entries"],
        scales=header["scales"],
        groups=header["out_channel_repeat"],
        passes=header["passes"],
        vectors=header["vectors"],
        fresh=header["fresh"],
        row_pixels=op["ofmap_columns"],
        pixels=op["pixels"],
        walk=op["ofmap_rows"] * row_columns * rows * header["in_groups"],
        reads=_reads(op, header["in_groups"], rows, columns, header["tap_row"], header["tap_column"], fresh_columns),
        accumulate=header["accumulate"],
        complete=header["final"] | header["raw"],
        last=header["last"],
    )


def _stream(memory, op, config, base):
    """:class:`SubsetRow` of each subset of one ``conv``."""
    bus = config.bus_bytes
    at = op["weights_address"] - base
    stop = at + op["weight_words"] * bus
    size = config.subset_words * bus
    while at < stop:
        header = int.from_bytes(memory[at : at + size].tobytes(), "little")
        row = _subset_row(unpack_fields(header, config.subset_fields), op, config)
        yield row
        at += size + (row.codebook_words + row.scale_words + row.weight_words) * bus


#: fields of a ``conv`` that the rows of its subsets depend on.
_STREAM_KEY = ("weights_address", "weight_words", "pixels", "ofmap_rows", "ofmap_columns", "stride_x", "stride_y")
_STREAM_KEY += ("pad_top", "pad_left", "ifmap_rows", "ifmap_columns")


def _operation_row(name, values, config):
    bus = config.bus_bytes
    row = OperationRow(values["opcode"], *(values[f"wait_{kind}"] for kind in ("loads", "stores", "computes")))
    if name in ("load", "store"):
        return row._replace(
            address=values["memory_address"] // bus,
            stride=values["memory_stride"] // bus,
            chunk_beats=values["chunk_words"] * values["word_beats"],
            chunks=values["chunks"],
            word_beats=values["word_beats"],
        )
    if name == "end":
        return row
    row = row._replace(
        results=values["ofmap_groups"] * values["pixels"], pixels=values["pixels"], residual=values["residual"]
    )
    if name == "conv":
        weights = values["weights_address"] // bus
        return row._replace(weights=weights, weight_beats=values["weight_words"], raw=values["raw"])
    rows, columns = values["kernel_rows"], values["kernel_columns"]
    reads = _reads(values, values["ofmap_groups"], rows, columns)
    return row._replace(vector=True, window=rows * columns, reads=reads)


def decode(memory, address, config, base=0):
    """The tables of a program that lies in memory.

    Parameters
    ----------
    memory : uint8, from address ``base`` on. ``address`` : of the first descriptor.
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Returns
    -------
    (operations, subsets) : arrays of records for :func:`golden.timing.simulate`, :class:`OperationRow` for each
        descriptor, and :class:`SubsetRow` for each subset that is streamed.

    Raises
    ------
    MvqError : a descriptor is illegal; names its address and the error.
    """
    operations, subsets, streams = [], [], {}
    name = None
    while name != "end":
        data = memory[address - base : address - base + config.descriptor_bytes].tobytes()
        name, values, code = descriptor_fault(data, config)
        if code:
            raise MvqError(f"descriptor at {address:#x}: {code.name.lower()}")
        operations.append(_operation_row(name, values, config))
        if name == "conv":
            key = tuple(values[field] for field in _STREAM_KEY)
            if key not in streams:
                streams[key] = list(_stream(memory, values, config, base))
            subsets += streams[key]
        address += config.descriptor_bytes
    return np.array(operations, dtype_of(OperationRow)), np.array(subsets, dtype_of(SubsetRow))
