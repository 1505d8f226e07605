"""What the core's streams carry for a layer: commands, the packed weight image, activation vectors, partial sums.

The packed image is a sequence of words of ``stream_width`` bits. For each subset it holds, each from a word boundary,

* its codewords (first subset of a layer only): d int8 from the low byte on, padded to whole words;
* its scales (last subset of a group of output channels only): for each of the A groups, one 32-bit word for each of L
  columns;
* its weights: for each WRF word (taps, then input-channel groups, then dense passes, then output-channel groups,
  innermost last) the array rows
  from the top. Compressed: L/d entries {index, mask codes} a row, without gaps over the whole subset. Uncompressed:
  int8, ``raw_vectors`` subvectors a word or ``raw_words`` words a subvector.
"""

import copy

import numpy as np

from golden import integer
from golden.masks import decode_masks
from golden.packing import pack_bits, pack_entries

__all__ = ["WeightImage", "command_fields", "gather_ifmap", "pack_command", "pack_fields", "partial_sums"]


def command_fields(subset, config, requantisation=None):
    """Field name -> value of the command for ``subset``; ``requantisation`` gives the limits of a final one."""
    return {
        "codewords": subset.codewords,
        "compressed": int(subset.compressed),
        "pass_offset": _pass_offset(subset.dense_passes[0], config),
        "diagonal": int(subset.diagonal),
        "scales": subset.scales,
        "rows": subset.rows,
        "entries": subset.entries,
        "out_channel_repeat": len(subset.out_groups),
        "passes": len(subset.dense_passes),
        "vectors": subset.vectors,
        "fresh": subset.fresh,
        "row_pixels": subset.row_pixels,
        "pixels": subset.pixels,
        "accumulate": int(subset.accumulate),
        "final": int(subset.final),
        "raw": int(subset.raw),
        "relu": int(subset.final and requantisation.low == 0),
        "high": requantisation.high if subset.final else 127,
    }


def pack_fields(values, fields):
    """``values`` (field -> integer) as one integer, the first of ``fields`` (name, width) in the low bits; ValueError
    where a value does not fit."""
    word, position = 0, 0
    for name, width in fields:
        value = int(values[name])
        if not 0 <= value < 1 << width:
            raise ValueError(f"{name} = {value} does not fit its {width} bits")
        word |= value << position
        position += width
    return word


def pack_command(values, config):
    """``values`` (field -> integer) as the core's command; ValueError where a value does not fit."""
    return pack_fields(values, config.command_fields)


def _pass_offset(dense_pass, config):
    """Offset of the first weight of each M-group in a dense pass."""
    return min(dense_pass * config.n, config.m - config.n)


def _fit(array, axis, size):
    """``array`` padded with zeros at the end of ``axis`` to ``size``."""
    if array.shape[axis] == size:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths)


def _as_words(array):
    """Array whose last axis holds a multiple of 8 bytes, as uint64 in order."""
    return np.ascontiguousarray(array).reshape(-1).view("<u8").astype(np.uint64)


class WeightImage:
    """The weights of one layer as the core reads them.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.
    weight : int8 (K, C/groups, kh, kw). ``groups`` : groups of the convolution.
    assignments : None for an uncompressed layer, else (codebook int8 (k, d), index (K', C, kh, kw), mask codes (K', C,
        kh, kw, d/M) or None) with K' = ceil(K/d).
    requantisation : :class:`golden.integer.Requantisation`, or None for a layer whose partial sums stay raw.
    """

    def __init__(self, config, weight, groups=1, assignments=None, requantisation=None):
        self.config, self.requantisation = config, requantisation
        if groups > 1:  # block diagonal
            per_out, per_in = weight.shape[0] // groups, weight.shape[1]
            expanded = np.zeros((weight.shape[0], per_in * groups, *weight.shape[2:]), np.int8)
            for group in range(groups):
                block = slice(group * per_out, (group + 1) * per_out)
                expanded[block, group * per_in : (group + 1) * per_in] = weight[block]
            weight = expanded
        self.out_channels = weight.shape[0]
        out_groups, in_groups = -(-weight.shape[0] // config.columns), -(-weight.shape[1] // config.rows)
        self.codebook, self.entries = None, None
        if assignments is None:
            self.weight = _fit(_fit(weight, 0, out_groups * config.columns), 1, in_groups * config.rows)
            return
        codebook, index, codes = assignments
        order = np.argsort(codebook[:, 0], kind="stable")  # the order in which the CRF wants them
        self.codebook, index = codebook[order], np.argsort(order)[index]
        index = _fit(_fit(index, 0, out_groups * config.groups), 1, in_groups * config.rows)
        vectors, entries = self.codebook[index], index.astype(np.uint64)
        if codes is not None:
            codes = _fit(_fit(codes, 0, out_groups * config.groups), 1, in_groups * config.rows)
            vectors = vectors * decode_masks(codes, config.n, config.m).reshape(vectors.shape)
            entries = pack_entries(index, codes, config.index_width, config.mask_code_width)
        self.entries = entries
        # Where there are no channels the array still works on entry 0: columns that nobody reads.
        self.weight = np.moveaxis(vectors, -1, 1).reshape(out_groups * config.columns, *index.shape[1:])

    def rearranged(self, in_channels, change):
        """This image with other input channels and taps.

        Parameters
        ----------
        in_channels : C, of which the weights may hold more.
        change : from (..., C, kh, kw) to (..., C', kh', kw'), for any first axis.
        """
        image = copy.copy(self)
        for name in ("weight", "entries"):
            values = getattr(self, name)
            if values is not None:
                values = change(values[:, :in_channels])
                groups = -(-values.shape[1] // self.config.rows)
                setattr(image, name, _fit(values, 1, groups * self.config.rows))
        return image

    def block(self, subset):
        """Weights of a subset, int8 (D, B, P, A, H, L): what the array multiplies by, dense passes separated."""
        config = self.config
        out_channels = slice(subset.out_groups.start * config.columns, subset.out_groups.stop * config.columns)
        in_channels = slice(subset.in_groups.start * config.rows, subset.in_groups.stop * config.rows)
        taps = np.stack([self.weight[out_channels, in_channels, ky, kx] for ky, kx in subset.taps])  # (D, K, C)
        shape = (len(subset.taps), len(subset.out_groups), config.columns, len(subset.in_groups), config.rows)
        block = taps.reshape(shape).transpose(0, 3, 1, 4, 2)[:, :, None]  # (D, B, 1, A, H, L)
        if config.tile == "dense" or subset.compressed or subset.diagonal:
            return block
        passes = np.zeros((len(subset.dense_passes), config.columns), bool)
        position = np.arange(config.columns) % config.m
        for row, number in enumerate(subset.dense_passes):
            passes[row] = position // config.n == number
        return block * passes[None, None, :, None, None, :]

    def scale_words(self, subset):
        """uint32 (A, L): scale words of a final subset; 0 where there is no output channel."""
        words = _fit(self.requantisation.words(), 0, self.weight.shape[0]).reshape(-1, self.config.columns)
        return words[subset.out_groups.start : subset.out_groups.stop]

    def words(self, subset):
        """uint64 words of the weight stream for ``subset``."""
        config = self.config
        parts = []
        if subset.codewords:
            parts.append(_as_words(_fit(self.codebook, 1, config.codeword_words * config.stream_width // 8)))
        if subset.scales:
            parts.append(_as_words(_fit(self.scale_words(subset), 1, config.scale_words * config.stream_width // 32)))
        parts.append(self._entries(subset) if subset.compressed else self._raw(subset))
        return np.concatenate(parts)

    def _entries(self, subset):
        config = self.config
        out_vectors = slice(subset.out_groups.start * config.groups, subset.out_groups.stop * config.groups)
        in_channels = slice(subset.in_groups.start * config.rows, subset.in_groups.stop * config.rows)
        entries = np.stack([self.entries[out_vectors, in_channels, ky, kx] for ky, kx in subset.taps])
        shape = (len(subset.taps), len(subset.out_groups), config.groups, len(subset.in_groups), config.rows)
        ordered = entries.reshape(shape).transpose(0, 3, 1, 4, 2)[..., : subset.rows, :]  # (D, B, A, rows, L/d)
        words = pack_bits(ordered.reshape(-1), config.entry_width)
        return _fit(words, 0, len(words) + -len(words) % (config.stream_width // 64))

    def _raw(self, subset):
        config = self.config
        block = self.block(subset)[..., : subset.rows, :]  # (D, B, P, A, rows, L)
        vectors = block.reshape(*block.shape[:-1], config.groups, config.vector_length)
        if config.tile == "sparse":
            grouped = vectors.reshape(*vectors.shape[:-1], config.vector_length // config.m, config.m)
            # first weight that each pass (or, on the diagonal, each row) reads of every group: (D, B, P, A, rows, ...)
            offsets = np.array([_pass_offset(number, config) for number in subset.dense_passes]).reshape(-1, 1, 1)
            if subset.diagonal:
                offsets = np.minimum(np.arange(subset.rows) % config.m, config.m - config.n)
            offsets = offsets[..., None, None, None] + np.arange(config.n)
            vectors = np.take_along_axis(grouped, np.broadcast_to(offsets, (*grouped.shape[:-1], config.n)), axis=-1)
            vectors = vectors.reshape(*vectors.shape[:-2], config.multipliers_per_vector)
        if config.raw_vectors:
            turns = vectors.reshape(*vectors.shape[:-2], -1, config.raw_vectors * config.multipliers_per_vector)
            return _as_words(_fit(turns, turns.ndim - 1, config.stream_width // 8))
        return _as_words(_fit(vectors, vectors.ndim - 1, config.raw_words * config.stream_width // 8))


def _windows(x, subset, shape, padding, config):
    """Activation vectors of every pixel, int8 (ofmap rows, row pixels, D, B, H)."""
    channels = -(-x.shape[1] // config.rows) * config.rows
    x = _fit(integer.pad(x, padding), 1, channels)
    x = x.reshape(len(x), -1, config.rows, *x.shape[2:])[:, subset.in_groups.start : subset.in_groups.stop]
    (height, width), (sy, sx) = shape.pixels, shape.stride
    taps = [
        x[:, :, :, ky : ky + (height - 1) * sy + 1 : sy, kx : kx + (width - 1) * sx + 1 : sx] for ky, kx in subset.taps
    ]
    return np.stack(taps).transpose(1, 4, 5, 0, 2, 3).reshape(len(x) * height, width, len(taps), -1, config.rows)


def gather_ifmap(x, subset, shape, padding, config):
    """Activation vectors in the order of the ifmap stream.

    Parameters
    ----------
    x : int8 (N, C, height, width). ``padding`` : [top, bottom, left, right] zeros.
    subset, shape, config : :class:`golden.schedule.Subset`, :class:`golden.schedule.LayerShape`, array.

    Returns
    -------
    int8 (vectors, H): all of the first pixel of an ofmap row, then what each further pixel needs anew.
    """
    windows = _windows(x, subset, shape, padding, config)
    windows = windows.reshape(*windows.shape[:2], -1, config.rows)
    needed = np.ones(windows.shape[1:3], bool)
    needed[1:, : subset.vectors - subset.fresh] = False
    return windows[:, needed].reshape(-1, config.rows)


def partial_sums(x, subset, shape, padding, image):
    """What ``subset`` alone adds to the partial sums, int64 (pixels, A, L)."""
    windows = _windows(x, subset, shape, padding, image.config)
    block = image.block(subset).astype(np.float64).sum(axis=2)  # (D, B, A, H, L); exact: the passes are disjoint
    block = block.transpose(0, 1, 3, 2, 4).reshape(-1, len(subset.out_groups) * image.config.columns)
    sums = windows.reshape(subset.pixels, -1).astype(np.float64) @ block
    return sums.astype(np.int64).reshape(subset.pixels, len(subset.out_groups), image.config.columns)
