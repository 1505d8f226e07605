"""The weight stream: the subset splitter, and the core's weight loader."""

from typing import NamedTuple

from golden.timing.bus import WEIGHTS, request
from golden.timing.dispatcher import pop
from golden.timing.records import inlined

__all__ = ["SubsetSplitter", "WeightLoader", "clock_loader", "clock_splitter", "offer_loader", "offer_splitter"]

#: most operations whose weights are on their way.
_OPERATIONS = 2
#: most subsets that wait for the window loader, and for the storer.
_SUBSETS, _BLOCKS = 4, 4

_IDLE, _CODEBOOK, _SCALES, _COMPRESSED, _RAW, _LOADED = range(6)


class SubsetSplitter(NamedTuple):
    """Takes the headers out of the stream, and tells window loader and storer of each subset."""

    operations: int = 0  # whose weights are on their way
    words: int = 0  # of the header that came
    split: int = 0  # subsets announced, and the row of the next
    walked: int = 0  # of which the window loader took so many
    blocks: int = 0  # of the announced, those that complete their output channels
    blocks_placed: int = 0  # of which the storer is through with so many
    # signals
    accepted: bool = False  # the weight loader takes the subset


class WeightLoader(NamedTuple):
    """Loads one subset while the array works on another."""

    state: int = _IDLE
    subset: int = -1  # its row
    words_left: int = 0  # of the section
    bits: int = 0  # that wait to be records
    records_left: int = 0
    entries: int = 0  # WRF words in use
    scales: int = 0  # scale words in use
    # signals
    loading: bool = False
    record: bool = False  # takes a record of compressed weights
    handed_over: bool = False  # the array takes the subset


@inlined
def offer_loader(loader, sequencer):
    """After the sequencer's."""
    loader.loading = loader.state != _IDLE and loader.state != _LOADED
    loader.handed_over = loader.state == _LOADED and sequencer.subset_ready


@inlined
def offer_splitter(splitter, loader, clients, tables):
    """After the weight loader's."""
    headed = splitter.words == tables.sizes.header_words
    splitter.accepted = (
        headed
        and loader.state == _IDLE
        and splitter.operations > 0
        and splitter.split - splitter.walked < _SUBSETS
        and splitter.blocks - splitter.blocks_placed < _BLOCKS
        and loader.entries + tables.subsets[splitter.split].entries <= tables.sizes.wrf_depth
        and loader.scales + tables.subsets[splitter.split].scales <= tables.sizes.scale_depth
    )
    loader.record = loader.state == _COMPRESSED and loader.bits >= tables.sizes.record_bits
    if loader.state == _COMPRESSED:
        bits_left = loader.bits - tables.sizes.record_bits if loader.record else loader.bits
        ready = not (loader.record and loader.records_left == 1) and bits_left < tables.sizes.record_bits
    else:
        ready = loader.loading or not headed
    clients[WEIGHTS].taken = ready and clients[WEIGHTS].level > 0


@inlined
def clock_splitter(splitter, loader, queue, clients, tables):
    """After the weight loader's."""
    if queue.begins and splitter.operations < _OPERATIONS and clients[WEIGHTS].ready:
        op = tables.ops[pop(queue)]
        splitter.operations += 1
        request(clients[WEIGHTS], op.weights, op.weight_beats)
    if splitter.accepted:
        splitter.words = 0
        splitter.operations -= tables.subsets[splitter.split].last
        splitter.blocks += tables.subsets[splitter.split].complete
        splitter.split += 1
    elif clients[WEIGHTS].taken and not loader.loading:
        splitter.words += 1


@inlined
def _begin_section(loader, subset, section):
    """The first section of the packed image, from ``section`` on, that has words."""
    if section == _CODEBOOK and subset.codebook_words == 0:
        section = _SCALES
    if section == _SCALES and subset.scale_words == 0:
        section = _COMPRESSED
    if section == _COMPRESSED and not subset.compressed:
        section = _RAW
    loader.state = section
    if section == _CODEBOOK:
        loader.words_left = subset.codebook_words
    else:
        loader.words_left = subset.scale_words if section == _SCALES else subset.weight_words


@inlined
def clock_loader(loader, splitter, array, pipe, clients, tables):
    taken = clients[WEIGHTS].taken
    if array.moves and pipe[array.bottom].valid:  # words that are free again
        loader.entries -= pipe[array.bottom].entries
        loader.scales -= pipe[array.bottom].scales
    if splitter.accepted:
        loader.subset = splitter.split
        subset = tables.subsets[loader.subset]
        loader.entries += subset.entries
        loader.scales += subset.scales
        loader.records_left, loader.bits = subset.records, 0
        _begin_section(loader, subset, _CODEBOOK)
    elif loader.handed_over:
        loader.state = _IDLE
    elif loader.state == _COMPRESSED:
        if loader.record:
            loader.bits -= tables.sizes.record_bits
            loader.records_left -= 1
            if loader.records_left == 0:
                loader.state, loader.bits = _LOADED, 0
        if taken:
            loader.bits += tables.sizes.word_bits
    elif loader.loading and taken:
        loader.words_left -= 1
        if loader.words_left == 0:
            if loader.state == _RAW:
                loader.state = _LOADED
            else:
                _begin_section(loader, tables.subsets[loader.subset], loader.state + 1)
