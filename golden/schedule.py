"""The EWS loops of a layer and the cycles they take (paper section 5.1, Fig. 7).

    for i in K/(L*A):  for j in C/(H*B):  for t in taps/D:  for x in passes/P:   # one weight subset, one command
      for p in pixels:
        for q in D:  for r in B:  for u in P:  for s in A:                       # one WRF word a cycle
          psum[s, l] += W[q, r, u, s][h, l] * I[q, r][h]

A dense layer on a sparse tile takes ceil(M/N) passes with disjoint masks; P of them lie in one subset. The D taps of a
subset are ``tap_rows`` x ``tap_columns`` of the kernel, column by column, so that the window of the next pixel keeps
all but its first ``stride`` columns.
"""

import functools
import itertools
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from hdl.config import MvqError

__all__ = [
    "LayerShape",
    "Repeats",
    "Schedule",
    "Subset",
    "choose_repeats",
    "cycles",
    "end_entries",
    "estimate_cycles",
    "raw_row_words",
    "repeat_choices",
    "schedule",
    "word_load_cycles",
]

#: bytes of a partial sum, against one of an activation: weight of the traffic in the choice of repeats.
_PSUM_BYTES = 3


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Shape of a convolution, or of a linear layer as a 1x1 convolution of one pixel.

    Parameters
    ----------
    name : the layer, for errors.
    out_channels, in_channels, groups : K, C, and groups that the channels are split into.
    kernel, stride : (height, width).
    pixels : (height, width) of the ofmap; ``batch`` images follow each other.
    sources : for a layer that only moves channels, the input channel of each output channel (-1: none, all zeros);
        else None.
    """

    name: str
    out_channels: int
    in_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pixels: tuple[int, int] = (1, 1)
    groups: int = 1
    batch: int = 1
    sources: tuple[int, ...] | None = None

    @property
    def ofmap_pixels(self):
        """Ofmap pixels of all images."""
        return self.batch * math.prod(self.pixels)


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """A, B, D = ``tap_rows`` * ``tap_columns`` and P of the EWS loops."""

    out_channel_repeat: int = 1
    in_channel_repeat: int = 1
    tap_rows: int = 1
    tap_columns: int = 1
    passes: int = 1

    @property
    def tap_repeat(self):
        """D."""
        return self.tap_rows * self.tap_columns

    @property
    def entries(self):
        """WRF words: A*B*D*P."""
        return self.out_channel_repeat * self.in_channel_repeat * self.tap_repeat * self.passes

    def l1_bytes(self, config, stride):
        """Bytes of activations and partial sums that pass between L1 and the array in a cycle, on average.

        Parameters
        ----------
        config : :class:`~hdl.config.ArrayConfig`. ``stride`` : along an ofmap row.
        """
        fresh = min(stride, self.tap_columns) / self.tap_columns
        sums = _PSUM_BYTES * config.columns / (self.in_channel_repeat * self.tap_repeat * self.passes)
        return config.rows * fresh / (self.out_channel_repeat * self.passes) + sums


@dataclass(frozen=True, kw_only=True)
class Subset:
    """One weight subset: a command of the core.

    Parameters
    ----------
    out_groups : groups of L output channels (A of them). ``in_groups`` : groups of H input channels (B of them).
    taps : (ky, kx) of the D taps, in the order of the loop.
    dense_passes : numbers of the P dense passes; (0,) for a compressed layer or a dense tile.
    rows : array rows to load. ``fresh`` : vectors that a pixel needs anew, after the first of an ofmap row.
    pixels, row_pixels : ofmap pixels in all, and in an ofmap row.
    accumulate : partial sums of the subset before are added. ``final`` : sums are complete, to be requantised.
    raw : sums are complete, and wanted as they are.
    diagonal : int8 weights of a depthwise layer on a sparse tile, one in a row of the array.
    compressed : weights come as codebook indices. ``codewords``, ``scales`` : codewords and scale vectors to load
        first.
    """

    out_groups: range
    in_groups: range
    taps: tuple
    dense_passes: tuple
    rows: int
    fresh: int
    pixels: int
    row_pixels: int
    accumulate: bool
    final: bool
    raw: bool
    compressed: bool
    diagonal: bool = False
    codewords: int = 0
    scales: int = 0

    @property
    def vectors(self):
        """B*D: activation vectors of a pixel."""
        return len(self.in_groups) * len(self.taps)

    @property
    def entries(self):
        """WRF words."""
        return self.vectors * len(self.dense_passes) * len(self.out_groups)

    @property
    def compute_cycles(self):
        """Cycles in which the array works."""
        return self.pixels * self.entries

    @property
    def ifmap_vectors(self):
        """Activation vectors that enter the activation file."""
        rows = self.pixels // self.row_pixels
        return rows * (self.vectors + (self.row_pixels - 1) * self.fresh)

    def load_cycles(self, config):
        """Cycles from the first state of the loader to the hand-over, while weight words keep coming."""
        total = self.codewords * config.codeword_words
        total += self.scales * config.scale_words
        loaded_rows = self.entries * self.rows
        if not self.compressed:
            return total + loaded_rows * raw_row_words(config)
        turns = loaded_rows * (config.groups // config.crf_read_ports)
        bits = turns * config.crf_read_ports * config.entry_width
        return total + max(turns, -(-bits // config.stream_width)) + 1


def raw_row_words(config):
    """Words of the weight stream in one array row of int8 weights."""
    return config.groups // max(1, config.raw_vectors) * config.raw_words


@dataclass(frozen=True)
class Schedule:
    """The subsets of one layer, in order, and the repeats they were made with."""

    shape: LayerShape
    repeats: Repeats
    subsets: tuple


def _divided(total, size):
    """Ranges of at most ``size`` that cover ``range(total)``."""
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def _divided_rest_first(total, size):
    """The same with the smaller range in front: then the first weights of a layer load soon, and the computing of its
    last ones hides much of what the next layer loads."""
    rest = total % size
    return [range(rest)] * (rest > 0) + [range(start, start + size) for start in range(rest, total, size)]


def _tap_subsets(kernel, repeats):
    """Taps of each subset: blocks of the kernel, column by column inside a block."""
    rows, columns = (
        _divided_rest_first(*sizes) for sizes in zip(kernel, (repeats.tap_rows, repeats.tap_columns), strict=True)
    )
    return [[(ky, kx) for kx in block_columns for ky in block_rows] for block_rows in rows for block_columns in columns]


def _input_groups(shape, config, out_groups):
    """Groups of H input channels that the output-channel groups see: all of them, or the diagonal of a grouped
    convolution."""
    if shape.sources is not None:
        channels = shape.sources[out_groups.start * config.columns : out_groups.stop * config.columns]
        seen = [channel // config.rows for channel in channels if channel >= 0] or [0]
        return range(min(seen), max(seen) + 1)
    if shape.groups == 1:
        return range(-(-shape.in_channels // config.rows))
    per_out, per_in = shape.out_channels // shape.groups, shape.in_channels // shape.groups
    first = out_groups.start * config.columns // per_out
    last = (min(out_groups.stop * config.columns, shape.out_channels) - 1) // per_out
    return range(first * per_in // config.rows, ((last + 1) * per_in - 1) // config.rows + 1)


def _passes(config, compressed, diagonal):
    """Passes over the weights of a layer."""
    return 1 if compressed or diagonal else config.dense_passes


def schedule(shape, config, repeats=None, *, compressed, codewords=0, raw=False, diagonal=False):
    """Loops of a layer on an array.

    Parameters
    ----------
    shape : :class:`LayerShape`. ``config`` : :class:`~hdl.config.ArrayConfig`.
    repeats : :class:`Repeats`; chosen by :func:`choose_repeats` when None.
    compressed : weights come as codebook indices. ``codewords`` : codewords to load before the first subset (0: those
        of the layer before).
    raw : the layer's partial sums are wanted, not requantised values.
    diagonal : a depthwise layer's int8 weights on a sparse tile, one in a row of the array: a single pass.

    Raises
    ------
    MvqError : the repeats do not fit the array, or a size exceeds a command field; names layer, value and legal value.
    """
    repeats = repeats or choose_repeats(shape, config, compressed=compressed, diagonal=diagonal)
    passes = _passes(config, compressed, diagonal)
    try:
        config.check_repeats(repeats.out_channel_repeat, repeats.in_channel_repeat, repeats.tap_repeat, repeats.passes)
    except MvqError as error:
        raise MvqError(f"layer {shape.name!r}: {error}") from error
    for name, value in (("pixels", shape.ofmap_pixels), ("row_pixels", shape.pixels[1])):
        limit = (1 << dict(config.command_fields)[name]) - 1
        if value > limit:
            raise MvqError(f"layer {shape.name!r}: {name} = {value} exceeds the command field; the largest is {limit}")
    if passes % repeats.passes:
        raise MvqError(f"layer {shape.name!r}: passes = {repeats.passes} must divide the {passes} passes of the layer")

    subsets = []
    taps_of_subsets = _tap_subsets(shape.kernel, repeats)
    pass_subsets = [tuple(block) for block in _divided(passes, repeats.passes)]
    for out_groups in _divided(-(-shape.out_channels // config.columns), repeats.out_channel_repeat):
        inputs = _input_groups(shape, config, out_groups)
        blocks = [
            range(inputs.start + b.start, inputs.start + b.stop)
            for b in _divided_rest_first(len(inputs), repeats.in_channel_repeat)
        ]
        inner = list(itertools.product(blocks, taps_of_subsets, pass_subsets))
        for position, (in_groups, taps, dense_passes) in enumerate(inner):
            columns = len({kx for _, kx in taps})
            kept = columns > shape.stride[1]
            fresh = (shape.stride[1] if kept else columns) * (len(taps) // columns) * len(in_groups)
            final = position == len(inner) - 1
            subsets.append(
                Subset(
                    out_groups=out_groups,
                    in_groups=in_groups,
                    taps=tuple(taps),
                    dense_passes=dense_passes,
                    rows=min(config.rows, shape.in_channels - in_groups.start * config.rows),
                    fresh=fresh,
                    pixels=shape.ofmap_pixels,
                    row_pixels=shape.pixels[1],
                    accumulate=position > 0,
                    final=final and not raw,
                    raw=final and raw,
                    compressed=compressed,
                    diagonal=diagonal,
                    codewords=0 if subsets else codewords,
                    scales=len(out_groups) if final and not raw else 0,
                )
            )
    return Schedule(shape, repeats, tuple(subsets))


#: costs this close to the least count as equal where that buys a smaller first load.
_TOLERANCE = 1.01
#: cycles of a subset's load besides its words: its header, and the hand-over.
_SUBSET_CYCLES = 4


def _inner(shape, config, compressed, diagonal):
    """Sizes of the loops whose sums stay in the PRF: groups of input channels, kernel rows and columns, passes."""
    whole = shape.groups == 1 and shape.sources is None
    out_groups = range(1 if whole else -(-shape.out_channels // config.columns))
    in_groups = max(len(_input_groups(shape, config, range(g, g + 1))) for g in out_groups)
    return in_groups, *shape.kernel, _passes(config, compressed, diagonal)


@functools.lru_cache(maxsize=4096)
def _inner_entries(sizes, repeats):
    """WRF words for one group of output channels, of each subset that adds to the same sums."""
    parts = repeats.in_channel_repeat, repeats.tap_rows, repeats.tap_columns, repeats.passes
    entries = np.ones(1, int)
    for total, part in zip(sizes, parts, strict=True):
        entries = np.outer(entries, [len(block) for block in _divided_rest_first(total, part)]).ravel()
    return entries


def end_entries(shape, config, repeats, *, compressed, diagonal=False):
    """WRF words of a layer's first and of its last subset."""
    inner = _inner_entries(_inner(shape, config, compressed, diagonal), repeats)
    last = (-(-shape.out_channels // config.columns) - 1) % repeats.out_channel_repeat + 1
    return repeats.out_channel_repeat * int(inner[0]), last * int(inner[-1])


def word_load_cycles(shape, config, *, compressed):
    """Cycles to load a WRF word of a layer, while weight words keep coming: its rows and its bits, whichever take
    longer."""
    rows = min(config.rows, shape.in_channels)
    if not compressed:
        return rows * raw_row_words(config)
    return rows * config.groups * max(1 / config.crf_read_ports, config.entry_width / config.stream_width)


def estimate_cycles(shape, config, repeats, *, compressed, diagonal=False, pixels=None):
    """Cycles of a layer whose feature maps are always there, in closed form: each subset computes while the next one
    loads, where both fit the WRF.

    Parameters
    ----------
    shape, config, compressed, diagonal : as for :func:`schedule`. ``repeats`` : :class:`Repeats`.
    pixels : of the ofmap, or of a strip of it; those of ``shape`` when None.

    Returns
    -------
    float. :func:`cycles` has the exact number.
    """
    pixels = shape.ofmap_pixels if pixels is None else pixels
    inner = _inner_entries(_inner(shape, config, compressed, diagonal), repeats)
    load, found = word_load_cycles(shape, config, compressed=compressed), 0.0
    blocks, rest = divmod(-(-shape.out_channels // config.columns), repeats.out_channel_repeat)
    for count, groups in ((blocks, repeats.out_channel_repeat), (bool(rest), rest)):
        if not count:
            continue
        entries = inner * groups
        loads = load * entries + _SUBSET_CYCLES
        loads[-1] += groups * config.scale_words
        before = np.roll(entries, 1)
        computes, overlapped = pixels * before, (before + entries <= config.wrf_depth) | (config.wrf_depth == 1)
        found += count * float(np.where(overlapped, np.maximum(computes, loads), computes + loads).sum())
    return found


def choose_repeats(shape, config, *, compressed, diagonal=False, psum_vectors=None):
    """A, B, D and P with the fewest cycles (:func:`estimate_cycles`) and, among equals, the least traffic of
    activations and partial sums.

    Parameters
    ----------
    shape, config, compressed, diagonal : as for :func:`schedule`.
    psum_vectors : partial-sum vectors that can wait between subsets; any number when None.

    Returns
    -------
    Repeats, or None when the partial sums of no choice fit ``psum_vectors``.
    """
    return next(
        repeat_choices(shape, config, compressed=compressed, diagonal=diagonal, psum_vectors=psum_vectors), None
    )


def repeat_choices(shape, config, *, compressed, diagonal=False, psum_vectors=None):
    """Choices of A, B, D and P: the one of :func:`choose_repeats`, then the best that load half as many WRF words for
    their first subset, and so on, as long as they take hardly more cycles: the layer before hides less of a large first
    load.

    Yields
    ------
    Repeats.
    """
    whole = shape.groups == 1 and shape.sources is None
    out_groups = -(-shape.out_channels // config.columns)
    sizes = _inner(shape, config, compressed, diagonal)
    in_groups, kernel_rows, kernel_columns, passes = sizes
    options = itertools.product(
        range(1, min(out_groups if whole else 1, config.prf_depth) + 1),
        range(1, min(in_groups, config.arf_depth) + 1),
        range(1, kernel_rows + 1),
        range(1, kernel_columns + 1),
        [value for value in range(1, passes + 1) if passes % value == 0],
    )
    found = []
    for a, *inner in options:
        b, dy, dx, p = inner
        if a * math.prod(inner) > config.wrf_depth or b * dy * dx > config.arf_depth:
            continue
        if psum_vectors is not None and tuple(inner) != sizes and shape.ofmap_pixels * a > psum_vectors:
            continue
        repeats = Repeats(out_channel_repeat=a, in_channel_repeat=b, tap_rows=dy, tap_columns=dx, passes=p)
        cost = estimate_cycles(shape, config, repeats, compressed=compressed, diagonal=diagonal)
        found.append((cost, repeats.l1_bytes(config, shape.stride[1]), repeats))
    found.sort(key=lambda choice: choice[:2])
    most = config.wrf_depth
    while near := [
        repeats for cost, _, repeats in found if repeats.entries <= most and cost <= found[0][0] * _TOLERANCE
    ]:
        yield near[0]
        most = near[0].entries // 2


def cycles(subsets, config):
    """Cycles from the first command to the last ofmap vector, when no stream ever waits for the outside.

    Parameters
    ----------
    subsets : :class:`Subset` of one or more layers, in order.
    config : :class:`~hdl.config.ArrayConfig`.

    Returns
    -------
    Cycles, counted from the one in which the first command is taken to the one in which the last ofmap vector is taken,
    both included. The same recurrence as the RTL's: the loader takes a command when its WRF and scale words are free,
    loads, and hands over when the sequencer is idle or issues its last vector.
    """
    entries_used = scales_used = 0
    freed = deque()  # (cycle from which the words count as free, WRF words, scale words)
    taken, last_issue = -1, -1
    for subset in subsets:
        taken += 1
        while entries_used + subset.entries > config.wrf_depth or scales_used + subset.scales > config.scale_depth:
            if not freed:
                raise MvqError(f"a subset of {subset.entries} words never fits wrf_depth = {config.wrf_depth}")
            time, entries, scales = freed.popleft()
            taken = max(taken, time)
            entries_used -= entries
            scales_used -= scales
        while freed and freed[0][0] <= taken:
            _, entries, scales = freed.popleft()
            entries_used -= entries
            scales_used -= scales
        entries_used += subset.entries
        scales_used += subset.scales
        handed_over = max(taken + 1 + subset.load_cycles(config), last_issue)
        first_issue = handed_over + 1
        last_issue = first_issue + subset.compute_cycles - 1
        ends = last_issue + config.latency + 1
        if config.wrf_depth == 1:
            freed.append((first_issue + config.latency + 1, subset.entries, 0))
            freed.append((ends, 0, subset.scales))
        else:
            freed.append((ends, subset.entries, subset.scales))
        taken = handed_over
    return last_issue + config.latency + 2
