"""How a layer is cut into tiles, and what each way costs.

A tile is a strip of ofmap rows and a block of groups of output channels. Tensors are either whole in L1, or pass
through it tile by tile, between memory and one or two buffers.
"""

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass

from golden.schedule import end_entries, estimate_cycles, raw_row_words, repeat_choices, word_load_cycles

__all__ = ["IN_PLACE", "PRESENT", "TILES", "WHOLE", "Tiling", "ifmap_rows", "tilings"]

#: a tensor that lies in L1 as a whole, one that is loaded as a whole first, or one that passes through by tiles; and a
#: result that takes the place of the residual.
PRESENT, WHOLE, TILES, IN_PLACE = "present", "whole", "tiles", "in place"
#: cycles that a descriptor takes besides its work: filling and emptying the pipeline.
_DESCRIPTOR_CYCLES = 60


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """One way to run a layer.

    Parameters
    ----------
    rows, groups : ofmap rows and groups of output channels of a tile.
    modes : what becomes of source, residual and result: "present", "whole", "tiles", "in place" (None: no residual).
    buffers : tiles that each tensor in tiles has room for in L1.
    words : L1 words of source, residual and result; 0 for what is present.
    repeats : of the array; None for a vector operation. ``first_entries``, ``last_entries`` : WRF words of the first
        and the last weight subset.
    cost : estimated cycles. ``first`` : of these, those to load what the first tile needs.
    idle : cycles of the last tile in which the bus has nothing to read.
    ahead : cycles to load the first weights. ``behind`` : cycles of the array behind the load of the last ones.
    """

    rows: int
    groups: int
    modes: tuple
    buffers: int
    words: tuple
    repeats: object
    first_entries: int
    last_entries: int
    cost: float
    first: float
    idle: float
    ahead: float
    behind: float


def ifmap_rows(layer, rows, source):
    """(first row, rows, pad_top) of ``source`` that the ofmap rows ``rows`` (a range) need."""
    begin = rows.start * layer.stride[0] - layer.padding[0] + layer.offset[0]
    extent = (len(rows) - 1) * layer.stride[0] + layer.kernel[0]
    if begin >= source.rows:  # only padding below the image, which a descriptor can say as padding above it
        return source.rows - 1, 1, extent
    first = max(begin, 0)
    return first, max(min(begin + extent, source.rows) - first, 1), first - begin


def _parts(total):
    """Sizes of equal parts, largest first, without those that need as many parts as a smaller one."""
    return sorted({-(-total // parts) for parts in range(1, total + 1)}, reverse=True)


def _words(pixels, config):
    """L1 words of ``pixels`` vectors from any lane of a word on."""
    return -(-(pixels + config.word_vectors - 1) // config.word_vectors)


@functools.lru_cache(maxsize=4096)
def _repeats(shape, config, compressed, diagonal):
    return tuple(
        repeat_choices(shape, config.array, compressed=compressed, diagonal=diagonal, psum_vectors=config.psum_vectors)
    )


class _Cost:
    """Estimated cycles of a layer, tile by tile.

    Parameters
    ----------
    layer : :class:`golden.program.layers.Layer`. ``config`` : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    """

    def __init__(self, layer, config):
        self.layer, self.config = layer, config
        self.groups = layer.result.groups(config)
        if layer.conv:
            self.words = self._words()

    def _words(self):
        """Words of the bus in the weights of all WRF words."""
        layer, array, shape = self.layer, self.config.array, self.layer.shape
        passes = 1 if layer.compressed or layer.diagonal else array.dense_passes
        inputs = -(-shape.in_channels // array.rows)
        if shape.groups > 1:
            inputs = -(-inputs // shape.groups)
        elif shape.sources is not None:
            inputs = min(inputs, 2)
        rows = min(array.rows, shape.in_channels)
        entry_words = rows * raw_row_words(array)
        if layer.compressed:
            entry_words = rows * array.groups * array.entry_width / array.stream_width
        return self.groups * inputs * math.prod(layer.kernel) * passes * entry_words

    def blocks(self, rows):
        """(groups of output channels in a block, :class:`golden.schedule.Repeats`) for strips of ``rows``, without
        those whose partial sums do not fit. A block holds a multiple of A groups."""
        layer, sizes = self.layer, _parts(self.groups)
        if not layer.conv:
            return [(size, None) for size in sizes]
        shape = dataclasses.replace(layer.shape, name="", pixels=(rows, layer.result.columns))
        if layer.channelwise or layer.shape.sources is not None:
            return list(itertools.product(sizes, _repeats(shape, self.config, layer.compressed, layer.diagonal)))
        if rows != layer.result.rows:
            sizes = [*sizes[:: max(1, len(sizes) // 3)], 1]
        found = {}
        for size in sizes:
            channels = min(size * self.config.vector_bytes, layer.shape.out_channels)
            block = dataclasses.replace(shape, out_channels=channels) if shape.groups == 1 else shape
            for repeats in _repeats(block, self.config, layer.compressed, layer.diagonal):
                whole = min(-(-size // repeats.out_channel_repeat) * repeats.out_channel_repeat, self.groups)
                found.setdefault((whole, repeats.entries), repeats)
        return [(size, repeats) for (size, _), repeats in found.items()]

    def compute(self, rows, repeats):
        """(cycles of the array, words of the weight stream, vectors between L1 and array), all tiles, where strips have
        ``rows``."""
        layer = self.layer
        heights = [rows] * (layer.result.rows // rows) + [layer.result.rows % rows] * (layer.result.rows % rows > 0)
        pixels = [height * layer.result.columns for height in heights]
        if not layer.conv:
            return sum(pixels) * self.groups * math.prod(layer.kernel), 0, 0
        cycles = sum(
            estimate_cycles(
                layer.shape,
                self.config.array,
                repeats,
                compressed=layer.compressed,
                diagonal=layer.diagonal,
                pixels=count,
            )
            for count in pixels
        )
        vectors = cycles * repeats.l1_bytes(self.config.array, layer.stride[1]) / self.config.vector_bytes
        return cycles, self.words * len(pixels), vectors


def tilings(layer, source, residual, modes, config, *, stored, room=math.inf):
    """Ways to run a layer, the one with the fewest cycles first.

    Parameters
    ----------
    layer : :class:`golden.program.layers.Layer`. ``source``, ``residual`` : its tensors.
    modes : legal modes of source, residual and result, each a list.
    stored : True when the result must be in memory at the end. ``room`` : words that a way may take of L1.

    Returns
    -------
    list of :class:`Tiling`, empty where not even the partial sums of a row fit.
    """
    cost, result, found = _Cost(layer, config), layer.result, []
    groups = result.groups(config)
    tensors = source, residual, result
    beats = [tensor.word_beats(config) if tensor else 0 for tensor in tensors]
    whole = [tensor.words(config) if tensor else 0 for tensor in tensors]
    modes = [mode for mode in itertools.product(*modes) if mode[1:] != (TILES, IN_PLACE)]
    for rows in _parts(result.rows):
        aligned = rows == result.rows or rows * result.columns * result.pixel_vectors % config.word_vectors == 0
        strips = [range(start, min(start + rows, result.rows)) for start in range(0, result.rows, rows)]
        needed = max(ifmap_rows(layer, strip, source)[1] for strip in strips) * source.columns
        for size, repeats in cost.blocks(rows):
            work = cost.compute(rows, repeats)
            first_entries, last, weights_ahead, behind = 0, 0, 0, math.inf
            if repeats:
                kind = {"compressed": layer.compressed, "diagonal": layer.diagonal}
                first_entries, last = end_entries(layer.shape, config.array, repeats, **kind)
                weights_ahead = first_entries * word_load_cycles(layer.shape, config.array, compressed=layer.compressed)
                behind = len(strips[-1]) * result.columns * last
            tile = (
                (size if layer.channelwise else source.groups(config)) * _words(needed, config)
                + -(-layer.offset[1] // config.word_vectors),
                size * _words(rows * result.columns, config),
                size * -(-rows * result.columns * result.pixel_vectors // config.word_vectors),
            )
            count = len(strips) * -(-groups // size)
            times = (count if layer.channelwise else len(strips), count, count)
            for mode, buffers in itertools.product(modes, (1, 2)):
                split_loads = layer.channelwise and TILES in mode[:2]
                words = [{TILES: buffers * tile[i], WHOLE: whole[i]}.get(m, 0) for i, m in enumerate(mode)]
                if (
                    (mode[2] == TILES and not aligned)
                    or (mode[2] != TILES and size != groups and not split_loads)
                    or (buffers == 2 and (TILES not in mode or count == 1))
                    or sum(words) > room
                ):
                    continue
                moved = [times[i] * tile[i] * beats[i] if mode[i] == TILES else 0 for i in range(3)]
                ahead = [whole[i] * beats[i] if mode[i] == WHOLE else moved[i] // times[i] for i in range(2)]
                loads = sum(moved[i] or ahead[i] for i in range(2))
                kept = whole[2] * beats[2] if stored and mode[2] != TILES else 0
                found.append(
                    Tiling(
                        rows=rows,
                        groups=size,
                        modes=mode,
                        buffers=buffers,
                        words=tuple(words),
                        repeats=repeats,
                        first_entries=first_entries,
                        last_entries=last,
                        cost=_total(work, (loads, moved[2], kept), sum(ahead), buffers, count),
                        first=sum(ahead),
                        idle=max(0, work[0] - work[1]) / count,
                        ahead=weights_ahead,
                        behind=behind,
                    )
                )
    return sorted(found, key=lambda tiling: tiling.cost)


def _total(work, traffic, first, buffers, tiles):
    """Cycles of a layer; fewer transfers win among equals.

    Parameters
    ----------
    work : as :meth:`_Cost.compute` has it. ``traffic`` : beats of loads, and of stores by tile and of
        the whole result. ``first`` : of the loads, those before the first tile.
    buffers, tiles : two buffers let the tiles' transfers run beside the array.
    """
    (cycles, weights, vectors), (loads, stores, stored) = work, traffic
    if buffers == 2:
        last = cycles / tiles
        time = max(first + cycles + stores / tiles, weights + loads + last, first + last + stores)
    else:
        time = max(first + cycles, weights + first) + loads - first + stores
    return time + stored + tiles * _DESCRIPTOR_CYCLES + (weights + loads + stores + vectors) / 64
