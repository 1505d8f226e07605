"""The core without its weight loader: sequencer and activation file, the array, and the partial-sum buffer."""

from typing import NamedTuple

from golden.timing.records import inlined

__all__ = ["Array", "Sequencer", "Stage", "clock_array", "clock_psums", "clock_sequencer", "count_core", "offer_array"]
__all__ += ["offer_sequencer"]


class Stage(NamedTuple):
    """What travels down the array with the results of one cycle."""

    valid: bool = False
    accumulates: bool = False  # partial sums are added
    emits: bool = False  # the sums of the subset are complete
    entries: int = 0  # WRF words that are free at the bottom
    scales: int = 0  # scale words
    subset: int = 0  # row


class Array(NamedTuple):
    """The stages, the output register, and the partial-sum buffer."""

    bottom: int = 0  # place of the last stage, which is the first of the next cycle
    valid: bool = False  # sums are in the output register
    complete: bool = False  # they go to the storer, and not to the buffer
    stored: int = 0  # vectors in the buffer
    offered: bool = False  # one is at its output
    # signals
    moves: bool = False
    leaves: bool = False  # the output register is free, or is taken
    psum_taken: bool = False
    psum_written: bool = False


class Sequencer(NamedTuple):
    """Walks the loops of a subset, and the activation file."""

    active: bool = False
    first: bool = False  # nothing of the subset was issued
    subset: int = -1  # its row
    group: int = 0
    dense_pass: int = 0
    vector: int = 0
    row_left: int = 0  # pixels of the ofmap row
    pixels_left: int = 0
    held: int = 0  # vectors in the activation file
    ahead: int = 0  # of which so many are behind the walk
    # signals
    available: bool = False  # the vector is there
    issue: bool = False
    go: bool = False  # issues, and the array moves
    last_group: bool = False
    last_pass: bool = False
    last_vector: bool = False
    end: bool = False  # of the subset
    advance: bool = False  # to the next vector
    free: bool = False  # which leaves the file
    subset_ready: bool = False


@inlined
def count_core(log, sequencer, loader, array):
    log.counters.busy_cycles += sequencer.go
    log.counters.weight_stalls += sequencer.subset_ready and not sequencer.issue and loader.loading
    log.counters.activation_stalls += sequencer.active and not sequencer.available
    log.counters.psum_reads += array.psum_taken
    log.counters.psum_writes += array.psum_written


@inlined
def offer_array(array, storer, pipe, tables):
    """After the storer's."""
    bottom = pipe[array.bottom]
    wants = bottom.valid and bottom.accumulates
    room = array.stored != tables.sizes.psum_depth
    array.leaves = storer.core_taken if array.complete else room
    blocked = array.valid and not array.leaves
    array.moves = not blocked and (not wants or array.offered)
    array.psum_taken = wants and not blocked and array.offered
    array.psum_written = array.valid and not array.complete and room


@inlined
def offer_sequencer(sequencer, array, tables):
    """After the array's."""
    s = sequencer
    s.available = s.ahead != s.held
    s.issue = s.active and s.available
    s.go = s.issue and array.moves
    s.end = s.advance = s.free = False
    if s.go:
        subset = tables.subsets[s.subset]
        s.last_group = s.group == subset.groups - 1
        s.last_pass = s.dense_pass == subset.passes - 1
        s.last_vector = s.vector == subset.vectors - 1
        s.advance = s.last_group and s.last_pass
        s.end = s.advance and s.last_vector and s.pixels_left == 1
        s.free = s.advance and (s.row_left == 1 or s.pixels_left == 1 or s.vector < subset.fresh)
    s.subset_ready = not s.active or s.end


@inlined
def clock_array(array, sequencer, pipe, tables):
    if array.moves:
        stage = pipe[array.bottom]
        array.valid = stage.valid and stage.emits
        if array.valid:
            array.complete = tables.subsets[stage.subset].complete
        stage.valid = sequencer.issue
        if sequencer.issue:
            subset = tables.subsets[sequencer.subset]
            first = sequencer.vector == 0 and sequencer.dense_pass == 0
            frees = sequencer.first if tables.sizes.wrf_depth == 1 else sequencer.end
            stage.accumulates = first and subset.accumulate
            stage.emits = sequencer.last_vector and sequencer.last_pass
            stage.entries = subset.entries if frees else 0
            stage.scales = subset.scales if sequencer.end else 0
            stage.subset = sequencer.subset
        array.bottom += 1
        if array.bottom == len(pipe):
            array.bottom = 0
    elif array.leaves:
        array.valid = False


@inlined
def clock_psums(array):
    read = array.stored != 0 and (not array.offered or array.psum_taken)
    if read:
        array.offered = True
    elif array.psum_taken:
        array.offered = False
    array.stored += array.psum_written - read


@inlined
def clock_sequencer(sequencer, loader, enters, tables):
    """``enters`` : a vector enters the activation file."""
    s = sequencer
    s.held += enters - s.free
    if s.advance:
        s.ahead = 0 if s.last_vector else s.ahead + 1 - s.free
    if s.go:
        s.first = False
        s.group += 1
        if s.last_group:
            s.group = 0
            s.dense_pass += 1
            if s.last_pass:
                s.dense_pass = 0
                s.vector += 1
                if s.last_vector:
                    s.vector = 0
                    s.row_left = tables.subsets[s.subset].row_pixels if s.row_left == 1 else s.row_left - 1
                    s.pixels_left -= 1
        if s.end:
            s.active = False
    if loader.handed_over:
        s.subset, s.active, s.first = loader.subset, True, True
        s.group = s.dense_pass = s.vector = 0
        s.row_left, s.pixels_left = tables.subsets[s.subset].row_pixels, tables.subsets[s.subset].pixels
