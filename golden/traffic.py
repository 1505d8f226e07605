"""Accesses of a layer to every memory, and their energy by the paper's costs, in closed form.

All counts are exact sums over the loops of :mod:`golden.schedule` for the given A, B, D, P and ofmap tiles; sizes may
be numpy arrays, one element for each choice of them, so that a search looks at all choices at once.

What is counted, and why:

* **Unit.** DRAM, L2 and L1: one byte. A partial sum there is ``psum_width`` / 8 bytes, and a compressed weight what the
  packed stream holds for it. Register files: one word, whatever its width (our decision: Tab. 8 gives the wide PRF word
  twice the cost of an ARF byte, so its costs are for the word; for the memories it says nothing).
* **Both ends.** A transfer is a read at one level and a write at the next, and both count (our decision).
* **Weights** go DRAM -> L2 -> loader -> WRF and never pass L1 (Fig. 6). DRAM is read once for each inference; of a
  layer that does not fit L2, the rest is read again for each ofmap tile. Every codeword that is rebuilt is d CRF reads.
* **Activations** are read from L1 as whole vectors of H bytes, new ones only (ARF), and stay A*P cycles: reads fall by
  A*D where the window is kept along the row (section 5.1). The ARF is read once for each vector of each pixel.
* **Partial sums** are written to and read from L1 between the subsets of a layer: accesses fall by B*D (section 5.1).
  The PRF is read and written once for each WRF word and column.
* **WRF**: one read for each multiplier and WRF word that issues. The MRF shares its address and enable (Tab. 2) and is
  not counted again.
* **Feature maps** that do not stay in L1 are stored to L2 and loaded from it, tile by tile, rows that two tiles share
  twice; those that do not fit L2 go on to DRAM (section 7.2: "VGG early ifmaps spill to DRAM").
* **MAC**: one for each multiplication of the layer; a sparse tile multiplies only by the N of M weights that survive.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["COSTS", "LEVELS", "Loops", "Traffic", "conv_traffic", "count_loops", "multiplications"]
__all__ += ["register_accesses", "vector_traffic", "window_rows"]

#: energy of one access, a multiplication being 1 (paper Tab. 8).
COSTS = {"dram": 200.0, "l2": 15.0, "l1": 6.0, "prf": 0.22, "arf": 0.11, "wrf": 0.02, "crf": 0.02}

LEVELS = tuple(COSTS)


@dataclass(frozen=True)
class Traffic:
    """Accesses by level and by what moves.

    Parameters
    ----------
    counts : (level, kind) -> accesses; kinds are ``weights``, ``activations``, ``psums``.
    macs : multiplications.
    """

    counts: dict
    macs: float = 0

    def __add__(self, other):
        keys = {**self.counts, **other.counts}
        counts = {key: self.counts.get(key, 0) + other.counts.get(key, 0) for key in keys}
        return Traffic(counts, self.macs + other.macs)

    def __getitem__(self, level):
        """Accesses to ``level``."""
        return sum(value for (where, _), value in self.counts.items() if where == level)

    @property
    def access_energy(self):
        """Energy of all accesses, in multiplications."""
        return sum(COSTS[level] * value for (level, _), value in self.counts.items())

    @property
    def energy(self):
        """Energy of accesses and multiplications, in multiplications."""
        return self.access_energy + self.macs

    def pick(self, index):
        """The traffic of one choice."""
        counts = {key: _number(value, index) for key, value in self.counts.items()}
        return Traffic(counts, _number(self.macs, index))

    def to_dict(self):
        """Plain JSON form: level -> kind -> accesses, multiplications, energy."""
        levels = {level: {} for level in LEVELS}
        for (level, kind), value in self.counts.items():
            if value:
                levels[level][kind] = value
        return {**levels, "macs": self.macs, "access_energy": round(self.access_energy)}


def _number(value, index):
    value = value[index] if np.ndim(value) else value
    return int(value) if float(value).is_integer() else float(value)


def _blocks(total, part, axis, apart=False):
    """Sizes and numbers of the blocks that ``part`` cuts ``total`` into: all but the last, and the last if it is
    smaller, or in any case with ``apart``.

    Returns
    -------
    (sizes, numbers) of shape (1 or 2, 1, ..., n) with the kinds of blocks along ``axis`` of six.
    """
    part = np.minimum(part, total)
    full, rest = total // part, total % part
    if apart:
        sizes, numbers = np.stack([part, np.where(rest, rest, part)]), np.stack([full - (rest == 0), full * 0 + 1])
    else:
        sizes, numbers = np.stack([part, rest]), np.stack([full, rest > 0])
        if not rest.any():
            sizes, numbers = sizes[:1], numbers[:1]
    shape = [1] * 6
    shape[axis] = len(sizes)
    return sizes.reshape(*shape, -1), numbers.reshape(*shape, -1)


@dataclass(frozen=True)
class Loops:
    """The weight subsets of a layer, those of one kind together.

    The arrays broadcast over the kinds of (out blocks, in blocks, tap rows, tap columns, tile rows, tile columns), two
    each, and over n choices.

    Parameters
    ----------
    count : subsets of each kind. ``entries`` : WRF words of one. ``pixels`` : ofmap pixels of one.
    rows : array rows that one loads. ``vectors`` : ARF vectors of a pixel. ``window`` : L1 vectors that one reads.
    inner : (n,) subsets that follow each other for one block of output channels and one tile.
    inside : axis of the in blocks, tap rows and tap columns -> (n,) subsets for one block of that axis.
    tiles : (n,) ofmap tiles. ``out_repeat`` : A of each kind. ``outer`` : number of sequences of ``inner`` subsets,
        over the kinds of out blocks and tiles.
    """

    count: np.ndarray
    entries: np.ndarray
    pixels: np.ndarray
    rows: np.ndarray
    vectors: np.ndarray
    window: np.ndarray
    inner: np.ndarray
    inside: dict
    tiles: np.ndarray
    out_repeat: np.ndarray
    outer: np.ndarray

    def total(self, values):
        """Sum of ``values`` of one subset over all subsets, (n,)."""
        return (self.count * values).sum(axis=tuple(range(6)))

    @property
    def issued(self):
        """WRF words that issue: cycles in which the array works."""
        return self.total(self.entries * self.pixels)


def count_loops(shape, config, choice, passes):
    """Subsets of a layer.

    Parameters
    ----------
    shape : :class:`golden.schedule.LayerShape`. ``config`` : :class:`hdl.config.ArrayConfig`.
    choice : (A, B, tap rows, tap columns, P, rows and columns of an ofmap tile), integer arrays (n,).
    passes : passes over the weights of the whole layer, a multiple of every P.

    Returns
    -------
    Loops
    """
    a, b, dy, dx, p, tile_rows, tile_columns = (np.asarray(value) for value in choice)
    out_groups, in_groups = -(-shape.out_channels // config.columns), -(-shape.in_channels // config.rows)
    if shape.groups > 1:  # the blocks that a group of L output channels sees
        per_out, per_in = shape.out_channels // shape.groups, shape.in_channels // shape.groups
        seen = -(-min(config.columns, shape.out_channels) // per_out) * per_in
        in_groups = min(in_groups, -(-seen // config.rows))
    parts = ((out_groups, a), (in_groups, b), *zip(shape.kernel, (dy, dx), strict=True))
    parts += tuple(zip(shape.pixels, (tile_rows, tile_columns), strict=True))
    odd = shape.groups == 1 and shape.in_channels % config.rows > 0 and in_groups > 1  # the last group is smaller
    kinds = [_blocks(total, part, axis, odd and axis == 1) for axis, (total, part) in enumerate(parts)]
    sizes, numbers = zip(*kinds, strict=True)
    out_size, in_size, y_size, x_size, row_size, column_size = sizes
    rows = np.full_like(in_size, min(config.rows, shape.in_channels))
    if odd:
        start = (in_groups - in_size[:, 1:]) * config.rows
        rows[:, 1:] = np.minimum(config.rows, shape.in_channels - start)
    blocks = [number.sum(axis=tuple(range(6))) for number in numbers]
    stride = shape.stride[1]
    vectors = in_size * y_size * x_size
    fresh = in_size * y_size * np.where(x_size > stride, stride, x_size)
    outer = numbers[0] * numbers[4] * numbers[5]
    inside = {3: passes // p}
    inside[2] = inside[3] * blocks[3]
    inside[1] = inside[2] * blocks[2]
    return Loops(
        count=outer * numbers[1] * numbers[2] * numbers[3] * (passes // p),
        entries=out_size * vectors * p,
        pixels=row_size * column_size,
        rows=rows,
        vectors=vectors,
        window=row_size * (vectors + (column_size - 1) * fresh),
        inner=inside[1] * blocks[1],
        inside=inside,
        tiles=blocks[4] * blocks[5],
        out_repeat=out_size,
        outer=outer,
    )


def window_rows(extent, kernel, stride, padding, outputs, tiles):
    """Input rows (or columns) that the tiles of an ofmap read, those that two of them share counted twice.

    Parameters
    ----------
    extent, kernel, stride, padding : of the input; ``padding`` before its first row.
    outputs : ofmap rows. ``tiles`` : rows of a tile, an array.

    Returns
    -------
    (rows of all tiles together, rows of the largest tile), arrays.
    """
    totals, largest = [], []
    for tile in np.atleast_1d(tiles):
        starts = np.arange(0, outputs, tile)
        ends = np.minimum(starts + tile, outputs)
        first = np.clip(starts * stride - padding, 0, extent)
        last = np.clip((ends - 1) * stride + kernel - padding, 0, extent)
        totals.append((last - first).sum())
        largest.append((last - first).max())
    return np.array(totals), np.array(largest)


def conv_traffic(layer, loops, array, *, stream_bytes, from_dram, loaded, stored, residual, compressed, macs):
    """Accesses of a convolution, feature maps in DRAM left out.

    Parameters
    ----------
    layer : :class:`golden.networks.Layer`. ``loops`` : :class:`Loops`. ``array`` : :class:`hdl.config.ArrayConfig`.
    stream_bytes : (n,) bytes of the weight stream over all ofmap tiles.
    from_dram : (n,) bytes of it that come from DRAM.
    loaded, stored : bytes of feature maps from L2 to L1 and back; 0 for those that stay in L1.
    residual : a second tensor is added. ``compressed`` : weights are codebook entries. ``macs`` : multiplications.
    """
    width = array.columns
    out_vectors = -(-layer.ofmap[0] // width) * layer.ofmap[1] * layer.ofmap[2]
    psum_bytes = width * array.psum_width // 8
    spills = out_vectors * (loops.inner - 1)
    loaded_rows, windows = loops.total(loops.entries * loops.rows), loops.total(loops.window)
    result = 4 * out_vectors if layer.raw else out_vectors
    counts = {
        ("dram", "weights"): from_dram,
        ("l2", "weights"): stream_bytes + from_dram,
        ("l2", "activations"): loaded + stored,
        ("l1", "activations"): windows * array.rows + (result + residual * out_vectors) * width + loaded + stored,
        ("l1", "psums"): 2 * spills * psum_bytes,
        **register_accesses(
            array,
            issued=loops.issued,
            loaded_rows=loaded_rows,
            windows=windows,
            pixel_vectors=loops.total(loops.pixels * loops.vectors),
            rebuilt_rows=loaded_rows if compressed else 0,
            codewords=array.codewords if compressed else 0,
        ),
    }
    return Traffic(counts, macs)


def register_accesses(array, *, issued, loaded_rows, windows, pixel_vectors, rebuilt_rows, codewords):
    """Accesses of a convolution to ARF, PRF, WRF and CRF, (level, kind) -> words.

    Parameters
    ----------
    array : :class:`hdl.config.ArrayConfig`. ``issued`` : WRF words that issue.
    loaded_rows : array rows of WRF words that are loaded; ``rebuilt_rows`` of them from the codebook.
    windows : vectors that enter the ARF. ``pixel_vectors`` : vectors that it gives, one for each vector of each pixel.
    codewords : that are loaded.
    """
    multipliers = array.columns // array.vector_length * array.multipliers_per_vector
    return {
        ("arf", "activations"): (windows + pixel_vectors) * array.rows,
        ("prf", "psums"): 2 * issued * array.columns,
        ("wrf", "weights"): issued * array.rows * multipliers + loaded_rows * multipliers,
        ("crf", "weights"): rebuilt_rows * array.columns + codewords * array.vector_length,
    }


def multiplications(layer, array):
    """Of a layer: a sparse tile multiplies only by the weights of a compressed layer that survive."""
    if layer.compressed and array.has_codebook and array.tile == "sparse":
        return layer.macs * array.n // array.m
    return layer.macs


def vector_traffic(layer, array, loaded, stored):
    """Accesses of a pool, an addition or a move: a window of vectors in, one out."""
    vectors = -(-layer.ofmap[0] // array.columns) * layer.ofmap[1] * layer.ofmap[2]
    reads = vectors * (layer.kernel[0] * layer.kernel[1] if layer.op == "pool" else len(layer.inputs))
    return Traffic(
        {
            ("l2", "activations"): loaded + stored,
            ("l1", "activations"): (reads + vectors) * array.columns + loaded + stored,
        }
    )
