"""How a layer lies on the array: cycles of every choice in closed form, and the search for the best one.

The assumptions are those of :mod:`golden.estimate`.
"""

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np

from golden.networks import IMAGE
from golden.schedule import Repeats, raw_row_words
from golden.traffic import conv_traffic, count_loops, multiplications, vector_traffic, window_rows

__all__ = ["KERNEL", "OBJECTIVES", "Machine", "Mapping", "Situation", "cost_of", "layer_cycles", "layouts", "map_layer"]
__all__ += ["stored_bytes", "tensor_bytes"]

#: what mappings are chosen for.
OBJECTIVES = ("cycles", "energy", "edp")

#: largest kernel of a convolution (hdl.accelerator_config: three bits for a tap).
KERNEL = 7

#: cycles of a layer's tile beyond its subsets: descriptors, first and last vector (our allowance).
_TILE_CYCLES = 16
#: mappings this close to the fewest cycles count as equal.
_TOLERANCE = 1.01
#: numbers of tiles along an ofmap's rows that are tried: the fewest that fit, and some more.
_ROW_TILES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 19, 23, 28, 32, 38, 45, 56, 75, 112, 224)
_CANDIDATE_TILES = 3


@dataclass(frozen=True)
class Mapping:
    """How a layer lies on the array.

    Parameters
    ----------
    repeats : :class:`golden.schedule.Repeats`, or None without weights.
    tile : (rows, columns) of an ofmap tile. ``tiles`` : their number.
    layout : ``planes``, or ``patches of N`` rows for an image with taps of the kernel as channels.
    """

    repeats: Repeats | None
    tile: tuple[int, int]
    tiles: int
    layout: str = "planes"


# ---- cycles of a layer
# -------------------------------------------------------------------------------------------------


def _stream_words(array, entries, rows, compressed):
    """(words of the weight stream, cycles to load them) for WRF words of ``rows`` array rows each."""
    if not compressed:
        words = entries * rows * raw_row_words(array)
        return words, words
    turns = entries * rows * (array.groups // array.crf_read_ports)
    words = -(-turns * array.crf_read_ports * array.entry_width // array.stream_width)
    return words, np.maximum(turns, words) + 1


def _subset_cycles(array, before, entries, load, preload):
    """Cycles from the hand-over of a subset to that of the next (golden.schedule.cycles).

    Parameters
    ----------
    before : (WRF words, cycles of computing) of the subset that runs. ``entries``, ``load`` : of the next one.
    """
    running, compute = before
    freed = array.latency + 3  # from the last issue of a subset until other words may take the place of its own
    if array.wrf_depth == 1:
        return np.maximum(compute, load + freed) if preload else compute + load + freed
    behind = np.where(2 * running + entries <= array.wrf_depth, load + 2, load + freed)
    return np.where(running + entries <= array.wrf_depth, np.maximum(compute, behind), compute + load + freed)


#: axes of the kinds of :class:`golden.traffic.Loops`, in the order of the loops from the innermost on.
_INNER_AXES = (3, 2, 1)


def layer_cycles(machine, loops, *, compressed, codewords, raw, moved, preload=True):
    """Cycles of a convolution.

    Parameters
    ----------
    machine : :class:`hdl.accelerator_config.AcceleratorConfig`. ``loops`` : :class:`golden.traffic.Loops`.
    compressed : weights are codebook entries, ``codewords`` of them loaded first. ``raw`` : no scales are loaded.
    moved : words of the bus that feature maps take, (n,) each: ``first`` before the layer begins, ``loaded`` in all,
        ``stored`` in all, ``last`` after it ends.
    preload : weights load while others compute.

    Returns
    -------
    (cycles, compute, cycles without feature maps, words of the weight stream), (n,) each.
    """
    array, kinds = machine.array, tuple(range(6))
    words, load = _stream_words(array, loops.entries, loops.rows, compressed)
    entries, load = np.broadcast_arrays(loops.entries, load + machine.subset_words)
    compute = entries * loops.pixels
    load = np.broadcast_to(load, compute.shape)
    entries = np.broadcast_to(entries, compute.shape)
    count = np.broadcast_to(loops.count, compute.shape)

    def step(before, after, extra=0):
        """Cycles from a subset of kind ``before`` to the next of kind ``after``."""
        cycles = _subset_cycles(array, (entries[before], compute[before]), entries[after], load[after] + extra, preload)
        chained = np.maximum(cycles, array.latency + 6)  # a partial sum returns to the array no sooner
        return np.where(loops.inner > 1, chained, cycles)

    cycles = step(..., ...)
    total = (count * cycles).sum(axis=kinds)
    # The smaller subset at the end of a loop stands between two of the larger kind: the innermost such loop counts.
    open_choices = np.ones(total.shape, bool)
    for axis in _INNER_AXES:
        if compute.shape[axis] == 2:
            large, small = (tuple(slice(i, i + 1) if at == axis else slice(None) for at in range(7)) for i in range(2))
            change = step(large, small) + step(small, large) - cycles[large] - cycles[small]
            blocks = count[small] // loops.inside[axis]
            total = total + open_choices * (blocks * change).sum(axis=kinds)
            open_choices &= count[small].sum(axis=kinds) == 0
    stream = loops.total(words + machine.subset_words)
    # The first subset loads alone, and behind the last one there is nothing to load.
    begin = load[0, 0, 0, 0, 0, 0] - (cycles - compute)[0, 0, 0, 0, 0, 0]
    if not raw:
        scales = loops.out_repeat * array.scale_words
        outer = np.broadcast_to(loops.outer, loops.out_repeat.shape[:1] + (1,) * 3 + loops.pixels.shape[4:])
        added = outer * (step(..., ..., scales) - cycles)[:, :1, :1, :1]
        total, stream = total + added.sum(axis=kinds), stream + (outer * scales).sum(axis=kinds)
    if compressed:
        begin, stream = begin + codewords * array.codeword_words, stream + codewords * array.codeword_words
    total = total + begin + loops.tiles * (array.latency + _TILE_CYCLES)
    bus = np.maximum(moved["loaded"] - moved["first"] + stream, moved["stored"] - moved["last"])
    return moved["first"] + np.maximum(total, bus) + moved["last"], loops.issued, total, stream


# ---- the search
# -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """Where a layer's tensors lie.

    Parameters
    ----------
    ifmap, ofmap, residual : in L1; ``residual`` is None without a second tensor.
    l1_bytes, l2_bytes : that other tensors leave free.
    """

    ifmap: bool
    ofmap: bool
    residual: bool | None
    l1_bytes: int
    l2_bytes: int


@dataclass(frozen=True)
class Machine:
    """An accelerator as the search sees it.

    Parameters
    ----------
    config : :class:`hdl.accelerator_config.AcceleratorConfig`. ``preload`` : weights load while others compute.
    objective : one of :data:`OBJECTIVES`.
    """

    config: object
    preload: bool
    objective: str


@cache
def _repeat_choices(array, out_groups, in_groups, kernel, passes, depth, whole):
    """(A, B, tap rows, tap columns, P) of every choice that the register files allow, arrays."""
    divisors = [value for value in range(1, passes + 1) if passes % value == 0]
    axes = (
        range(1, min(out_groups if whole else 1, array.prf_depth) + 1),
        range(1, min(in_groups, array.arf_depth) + 1),
        range(1, kernel[0] + 1),
        range(1, kernel[1] + 1),
        divisors,
    )
    grid = np.array(np.meshgrid(*axes, indexing="ij"), np.int64).reshape(5, -1)
    a, b, dy, dx, p = grid
    return grid[:, (a * b * dy * dx * p <= depth) & (b * dy * dx <= array.arf_depth)]


def tensor_bytes(shape, array, raw=False):
    """Bytes of a tensor in L1, in planes of H channels."""
    return -(-shape[0] // array.rows) * array.rows * shape[1] * shape[2] * (4 if raw else 1)


def _pixel_bytes(channels, array):
    """Bytes of a pixel in memory: a single plane has no more beats than its channels need."""
    if channels > array.rows:
        return -(-channels // array.rows) * array.rows
    return min(array.rows, -(-channels * 8 // array.stream_width) * array.stream_width // 8)


def stored_bytes(shape, array, raw=False):
    """Bytes of a tensor in memory."""
    return tensor_bytes(shape, array, raw) if raw else _pixel_bytes(shape[0], array) * shape[1] * shape[2]


def _sources(layer, array, situation, rows):
    """Ways in which the ifmap comes to L1 for strips of ``rows`` ofmap rows.

    Returns
    -------
    list of (bytes of L1 that it needs, bytes that are loaded, bytes of them before the layer begins).
    """
    if situation.ifmap:
        return [(0, 0, 0)]
    channels, height, width = layer.ifmap
    total, most = window_rows(height, layer.kernel[0], layer.stride[0], layer.padding[0], layer.ofmap[1], rows)
    row, parts = _pixel_bytes(channels, array) * width, -(-channels // array.rows) if layer.depthwise else 1
    whole, loaded, first = row * height, row * int(total[0]), row * int(most[0]) // parts
    place = tensor_bytes(layer.ifmap, array)
    strip = place // height * int(most[0]) // parts
    ways = [(place, whole, whole)]
    if rows < layer.ofmap[1] or layer.depthwise:
        ways += [(2 * strip, loaded, first), (strip, loaded, loaded)]
    return ways


def _conv_choices(layer, machine, situation, passes):
    """Every legal (A, B, tap rows, tap columns, P, tile rows, tile columns), and the bytes that its tiles load, load
    before the layer begins, and store after it ends; None where there is none."""
    array = machine.config.array
    out_groups, in_groups = -(-layer.ofmap[0] // array.columns), -(-layer.ifmap[0] // array.rows)
    repeats = _repeat_choices(array, out_groups, in_groups, layer.kernel, passes, array.wrf_depth, layer.groups == 1)
    parts = (in_groups if layer.groups == 1 else 1, *layer.kernel, passes)
    inner = math.prod(-(-total // repeats[place]) for place, total in enumerate(parts, 1))
    result = 4 if layer.raw else 1
    out_share = 4 * array.columns if layer.raw else min(array.columns, _pixel_bytes(layer.ofmap[0], array))
    tried, found = np.zeros(repeats.shape[1], int), []
    for rows in dict.fromkeys(-(-layer.ofmap[1] // number) for number in (*_ROW_TILES, layer.ofmap[1])):
        pixels = rows * layer.ofmap[2]
        block = repeats[0] * array.columns * pixels
        blocks = (0 if situation.ofmap else 2 * result) * block + (2 if situation.residual is False else 0) * block
        possible = ((inner == 1) | (pixels * repeats[0] <= machine.config.psum_vectors)) & (tried < _CANDIDATE_TILES)
        for needed, loaded, first in _sources(layer, array, situation, rows):
            fits = possible & (needed + blocks <= situation.l1_bytes)
            if first < loaded or situation.ifmap:
                tried += fits
            last = np.zeros_like(block) if situation.ofmap else block * out_share // array.columns
            same = np.array([[rows], [layer.ofmap[2]], [loaded], [first]])
            found.append(np.vstack([repeats, np.broadcast_to(same, (4, len(last))), last])[:, fits])
    found = np.hstack(found)
    return found if found.size else None


def layouts(layer):
    """(name, layer) of each way in which the first layer's image may lie in memory (golden.program.layers): as it is,
    or as patches that hold some rows and all columns of the kernel as channels."""
    yield "planes", layer
    if layer.op != "conv" or layer.inputs[0] != IMAGE or layer.groups > 1 or layer.kernel == (1, 1):
        return
    channels, kernel, stride = layer.ifmap[0], layer.kernel, layer.stride[0]
    for rows in sorted({kernel[0], *(rows for rows in range(1, stride + 1) if stride % rows == 0)}):
        taps = -(-kernel[0] // rows)
        advance = 1 if taps == 1 else stride // rows
        ifmap = (channels * rows * kernel[1], (layer.ofmap[1] - 1) * advance + taps, layer.ofmap[2])
        fields = {"kernel": (taps, 1), "stride": (advance, 1), "padding": (0, 0, 0, 0)}
        yield f"patches of {rows}", replace(layer, ifmap=ifmap, **fields)


def _best(cycles, energy, objective):
    """Index of the best choice: see Choice in the module's docstring."""
    if objective != "cycles":
        return int(np.lexsort((cycles, energy if objective == "energy" else energy * cycles))[0])
    near = cycles <= cycles.min() * _TOLERANCE
    return int(np.lexsort((cycles, np.where(near, energy, np.inf)))[0])


@lru_cache(maxsize=4096)
def _map_conv(layer, machine, situation):
    """Best mapping of a convolution whose name does not matter: (LayerEstimate fields), or None."""
    config = machine.config
    array = config.array
    compressed = layer.compressed and array.has_codebook
    diagonal = layer.depthwise and array.tile == "sparse"
    passes = 1 if compressed or diagonal else array.dense_passes
    choices = _conv_choices(layer, machine, situation, passes)
    if choices is None:
        return None
    *loops, loaded, first, last = choices
    counted = count_loops(layer.shape, array, loops, passes)
    stored = 0 if situation.ofmap else stored_bytes(layer.ofmap, array, layer.raw)
    extra = stored_bytes(layer.ofmap, array) if situation.residual is False else 0
    beat = config.bus_bytes
    moved = {
        "first": -(-first // beat),
        "loaded": -(-(loaded + extra) // beat),
        "stored": -(-stored // beat),
        "last": -(-last // beat),
    }
    cycles, compute, core, stream = layer_cycles(
        config,
        counted,
        compressed=compressed,
        codewords=array.codewords if compressed else 0,
        raw=layer.raw,
        moved=moved,
        preload=machine.preload,
    )
    stream_bytes = stream * beat
    weights = stream_bytes // counted.tiles
    traffic = conv_traffic(
        layer,
        counted,
        array,
        stream_bytes=stream_bytes,
        from_dram=weights + (counted.tiles - 1) * np.maximum(0, weights - situation.l2_bytes),
        loaded=loaded + extra,
        stored=stored,
        residual=situation.residual is not None,
        compressed=compressed,
        macs=multiplications(layer, array),
    )
    index = _best(cycles, traffic.energy, machine.objective)
    a, b, dy, dx, p, tile_rows, tile_columns = (int(value[index]) for value in loops)
    repeats = Repeats(out_channel_repeat=a, in_channel_repeat=b, tap_rows=dy, tap_columns=dx, passes=p)
    return {
        "mapping": Mapping(repeats, (tile_rows, tile_columns), int(counted.tiles[index])),
        "cycles": int(cycles[index]),
        "compute": int(compute[index]),
        "weight_stalls": int(core[index] - compute[index]),
        "activation_stalls": int(cycles[index] - core[index]),
        "traffic": traffic.pick(index),
    }


@lru_cache(maxsize=4096)
def _map_vector(layer, machine, situation):
    """A pool, addition or move, tile by tile of rows: (LayerEstimate fields), or None."""
    config = machine.config
    array = config.array
    window = layer.kernel if layer.op == "pool" else (1, 1)
    groups = -(-layer.ofmap[0] // array.columns)
    for number in (*_ROW_TILES, layer.ofmap[1]):
        rows = -(-layer.ofmap[1] // min(number, layer.ofmap[1]))
        number = -(-layer.ofmap[1] // rows)
        height, stride = layer.ifmap[1:], layer.stride
        total, most = window_rows(height[0], window[0], stride[0], layer.padding[0], layer.ofmap[1], rows)
        if layer.op == "move":  # any rows of the input may be wanted
            total, most = np.array([height[0]]), np.array([-(-height[0] // number)])
        tile = int(most[0]) * height[1] * array.rows  # one plane after the other
        needed = (0 if situation.ifmap else 2 * tile) + (
            0 if situation.ofmap else 2 * rows * layer.ofmap[2] * array.rows
        )
        needed += 2 * tile if situation.residual is False else 0
        if needed <= situation.l1_bytes:
            break
    else:
        return None
    pixel, out_pixel = _pixel_bytes(layer.ifmap[0], array), _pixel_bytes(layer.ofmap[0], array)
    loaded = 0 if situation.ifmap else pixel * int(total[0]) * height[1]
    loaded += stored_bytes(layer.ofmap, array) if situation.residual is False else 0
    stored = 0 if situation.ofmap else stored_bytes(layer.ofmap, array)
    compute = groups * layer.ofmap[1] * layer.ofmap[2] * math.prod(window)
    beat = config.bus_bytes
    first = 0 if situation.ifmap else -(-int(most[0]) * height[1] * min(pixel, array.rows) // beat)
    last = 0 if situation.ofmap else -(-rows * layer.ofmap[2] * min(out_pixel, array.rows) // beat)
    core = compute + number * _TILE_CYCLES
    cycles = first + max(core, -(-loaded // beat) - first, -(-stored // beat) - last) + last
    return {
        "mapping": Mapping(None, (rows, layer.ofmap[2]), number),
        "cycles": cycles,
        "compute": compute,
        "weight_stalls": 0,
        "activation_stalls": cycles - compute,
        "traffic": vector_traffic(layer, array, loaded, stored),
    }


def _anonymous(layer):
    """The layer without what does not change its mapping, so that equal layers are searched once."""
    inputs = (IMAGE if layer.inputs[0] == IMAGE else "", *("" for _ in layer.inputs[1:]))
    return replace(layer, name="", inputs=inputs)


def map_layer(layer, machine, situation):
    """Best mapping of a layer.

    Parameters
    ----------
    layer : :class:`golden.networks.Layer`. ``machine`` : :class:`Machine`. ``situation`` : :class:`Situation`.

    Returns
    -------
    dict with ``mapping``, ``cycles``, ``compute``, ``weight_stalls``, ``activation_stalls`` and ``traffic`` as
    :class:`golden.estimate.LayerEstimate` has them, or None where L1 is too small.
    """
    if layer.op != "conv":
        return _map_vector(_anonymous(layer), machine, situation)
    best = None
    for layout, variant in layouts(_anonymous(layer)):
        if max(variant.kernel) > KERNEL:
            continue
        found = _map_conv(variant, machine, situation)
        if found and (best is None or cost_of(found, machine) < cost_of(best, machine)):
            best = {**found, "mapping": replace(found["mapping"], layout=layout)}
    return best


def cost_of(found, machine):
    """What is to be small, first things first."""
    cycles, energy = found["cycles"], found["traffic"].energy
    return {"cycles": (cycles, energy), "energy": (energy, cycles), "edp": (energy * cycles, cycles)}[machine.objective]
