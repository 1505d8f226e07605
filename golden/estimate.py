"""Cycles, stalls, traffic and energy of a network on an accelerator, from layer shapes alone.

The accelerator is the one of docs/accelerator.md; what the model takes from it, and what it decides:

* **Memories** (paper 7.1): L1 of 128 KB (16x16) or 256 KB, of which ``AcceleratorConfig`` keeps a part for partial
  sums; L2 of 2 MB; DRAM behind it, from which L2 is filled in time (the paper's throughput leaves DRAM out, too).
* **Bus** (paper 7.1): 64 bits between L2 and L1 and loader. Weights and loads share its read channel, stores have the
  write channel, as AXI has them; both carry a word a cycle.
* **Tensors** lie in planes of H channels, zeros beyond C (docs/accelerator.md).
* **Tiles**: a layer runs in strips of ofmap rows; each has the weights streamed anew. A strip's partial sums must fit
  the partial-sum buffer where several subsets follow each other. Its ifmap must fit L1 twice, to load the next one
  meanwhile, or once, to wait for it, or the whole ifmap is loaded first; two blocks of A*L output channels must fit,
  too.
* **Residency**: a tensor stays in L1 until its last reader where that costs no cycles, layer by layer in order (our
  decision); what does not fit L2 beside other live tensors is kept in DRAM.
* **Subsets** take max(compute, weight load) where two of them fit the WRF ring, and the sum elsewhere: the recurrence
  of :func:`golden.schedule.cycles` in its steady state. At WRF depth 1 (WS) the operand register holds the weight, so
  the WRF word is free for the next one; ``preload=False`` is an array without that, where loading and computing
  alternate.
* **Layers** follow each other without overlap: the first tile's ifmap is loaded before it begins, the last block is
  stored before it ends.
* **Fusion**: an addition or activation behind a convolution is done by the ofmap storer, as golden.program has it.
* **First layer**: the image may lie in memory as patches, with taps of the kernel as channels (golden.program).
* **Choice** of A, B, D, P, tiles and layout: for ``cycles``, of the mappings within 1 % of the fewest, the one with the
  least energy; for ``energy``, the one with the least energy (our decision).
"""

import dataclasses
import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np

from golden.networks import IMAGE, Layer
from golden.schedule import Repeats
from golden.traffic import (
    COSTS,
    LEVELS,
    Traffic,
    conv_traffic,
    count_loops,
    raw_row_words,
    vector_traffic,
    window_rows,
)
from hdl.config import MvqError

__all__ = ["L2_BYTES", "OBJECTIVES", "Estimate", "LayerEstimate", "Mapping", "estimate", "layer_cycles"]

#: bytes of L2 (paper section 7.1).
L2_BYTES = 2 << 20

#: what mappings are chosen for.
OBJECTIVES = ("cycles", "energy")

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


@dataclass(frozen=True)
class LayerEstimate:
    """What one layer takes.

    Parameters
    ----------
    layer : :class:`golden.networks.Layer`. ``mapping`` : :class:`Mapping`.
    cycles : in all: ``compute``, in which the array (or the pool) works, ``weight_stalls``, in which it waits for
        weights, and ``activation_stalls``, in which it waits for feature maps on the bus.
    traffic : :class:`golden.traffic.Traffic`.
    places : where ifmap and ofmap lie: ``l1``, ``l2`` or ``dram``.
    """

    layer: Layer
    mapping: Mapping
    cycles: int
    compute: int
    weight_stalls: int
    activation_stalls: int
    traffic: Traffic
    places: tuple[str, str]

    def utilisation(self, array):
        """Multiplications of the dense layer, of those that H x L columns could do in its cycles."""
        return self.layer.macs / (self.cycles * array.rows * array.columns)


@dataclass(frozen=True)
class Estimate:
    """A network on an accelerator."""

    network: str
    machine: object
    l2_bytes: int
    layers: tuple[LayerEstimate, ...]

    @property
    def cycles(self):
        """Of all layers."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def traffic(self):
        """:class:`golden.traffic.Traffic` of all layers."""
        return sum((layer.traffic for layer in self.layers), Traffic({}))

    @property
    def utilisation(self):
        """As :meth:`LayerEstimate.utilisation`, of the whole."""
        array = self.machine.array
        return sum(layer.layer.macs for layer in self.layers) / (self.cycles * array.rows * array.columns)

    def select(self, wanted):
        """The estimate of the layers for which ``wanted(layer)`` is true."""
        return replace(self, layers=tuple(layer for layer in self.layers if wanted(layer.layer)))

    def to_dict(self):
        """Plain JSON form."""
        array = self.machine.array
        layers = [
            {
                "name": found.layer.name,
                "op": found.layer.op,
                "ifmap": list(found.layer.ifmap),
                "ofmap": list(found.layer.ofmap),
                "kernel": list(found.layer.kernel),
                "compressed": found.layer.compressed and array.has_codebook,
                "repeats": found.mapping.repeats and dataclasses.asdict(found.mapping.repeats),
                "tile": list(found.mapping.tile),
                "tiles": found.mapping.tiles,
                "layout": found.mapping.layout,
                "places": list(found.places),
                "cycles": found.cycles,
                "compute": found.compute,
                "weight_stalls": found.weight_stalls,
                "activation_stalls": found.activation_stalls,
                "utilisation": round(found.utilisation(array), 4),
                "traffic": found.traffic.to_dict(),
            }
            for found in self.layers
        ]
        return {
            "format": "mvq-estimate",
            "format_version": 1,
            "network": self.network,
            "config": self.machine.to_dict(),
            "config_name": self.machine.name,
            "l2_bytes": self.l2_bytes,
            "costs": COSTS,
            "cycles": self.cycles,
            "utilisation": round(self.utilisation, 4),
            "traffic": self.traffic.to_dict(),
            "levels": {level: self.traffic[level] for level in LEVELS},
            "layers": layers,
        }


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
    begin = (
        load[0, 0, 0, 0, 0, 0] - (cycles - compute)[0, 0, 0, 0, 0, 0]
    )  # the first loads alone, the last only computes
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
class _Situation:
    """Where a layer's tensors are: ``l1`` or not, and bytes of L1 and L2 that others leave free."""

    ifmap: bool
    ofmap: bool
    residual: bool | None  # None: there is no second tensor
    l1_bytes: int
    l2_bytes: int


@dataclass(frozen=True)
class _Machine:
    """Everything but the layer: a key of the search's cache."""

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


def _tensor_bytes(shape, array, raw=False):
    """Bytes of a tensor in planes of H channels."""
    return -(-shape[0] // array.rows) * array.rows * shape[1] * shape[2] * (4 if raw else 1)


def _padded(channels, array):
    return -(-channels // array.rows) * array.rows


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
    plane_row, planes = array.rows * width, -(-channels // array.rows)
    whole, loaded = planes * plane_row * height, planes * plane_row * int(total[0])
    strip = (1 if layer.depthwise else planes) * plane_row * int(most[0])
    ways = [(whole, whole, whole)]
    if rows < layer.ofmap[1] or layer.depthwise:
        ways += [(2 * strip, loaded, strip), (strip, loaded, loaded)]
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
            last = np.zeros_like(block) if situation.ofmap else result * block
            same = np.array([[rows], [layer.ofmap[2]], [loaded], [first]])
            found.append(np.vstack([repeats, np.broadcast_to(same, (4, len(last))), last])[:, fits])
    found = np.hstack(found)
    return found if found.size else None


def _layouts(layer):
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
    if objective == "energy":
        return int(np.lexsort((cycles, energy))[0])
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
    out_bytes = _tensor_bytes(layer.ofmap, array, layer.raw)
    stored = 0 if situation.ofmap else out_bytes
    extra = _tensor_bytes(layer.ofmap, array) if situation.residual is False else 0
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
    macs = layer.macs
    if compressed and array.tile == "sparse":
        macs = macs * array.n // array.m
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
        macs=macs,
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
    loaded = 0 if situation.ifmap else _padded(layer.ifmap[0], array) * int(total[0]) * height[1]
    loaded += _tensor_bytes(layer.ofmap, array) if situation.residual is False else 0
    stored = 0 if situation.ofmap else _tensor_bytes(layer.ofmap, array)
    compute = groups * layer.ofmap[1] * layer.ofmap[2] * math.prod(window)
    beat = config.bus_bytes
    first = 0 if situation.ifmap else -(-tile // beat)
    last = 0 if situation.ofmap else -(-rows * layer.ofmap[2] * array.rows // beat)
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


def _map(layer, machine, situation):
    """Best mapping over the image's layouts, or None."""
    if layer.op != "conv":
        return _map_vector(_anonymous(layer), machine, situation)
    best = None
    for layout, variant in _layouts(_anonymous(layer)):
        if max(variant.kernel) > _KERNEL:
            continue
        found = _map_conv(variant, machine, situation)
        if found and (best is None or _cost(found, machine) < _cost(best, machine)):
            best = {**found, "mapping": replace(found["mapping"], layout=layout)}
    return best


def _cost(found, machine):
    """What is to be small, first things first."""
    cost = found["cycles"], found["traffic"].energy
    return cost if machine.objective == "cycles" else cost[::-1]


#: largest kernel of a convolution (hdl.accelerator_config: three bits for a tap).
_KERNEL = 7


# ---- the network
# -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Operation:
    """A layer with what the ofmap storer does behind it: ``source`` and ``residual`` are the tensors it reads."""

    layer: Layer
    source: str
    residual: str | None
    result: str


def _operations(network):
    """Layers in order, additions and activations inside the convolutions before them."""
    layers = {layer.name: layer for layer in network.layers}
    order = {name: place for place, name in enumerate(layers)}
    users = {name: [layer for layer in network.layers if name in layer.inputs] for name in layers}
    into = {}
    for layer in network.layers:
        joins = layer.op == "add" or (layer.op == "move" and layer.ifmap == layer.ofmap)
        for name in sorted(layer.inputs, key=lambda name: order.get(name, -1), reverse=True) if joins else ():
            others = [other for other in layer.inputs if other != name]
            if (
                name in layers
                and layers[name].op == "conv"
                and name not in into
                and len(users[name]) == 1
                and len(others) == len(layer.inputs) - 1
                and layers[name].inputs[0] not in others
                and all(order.get(other, -1) < order[name] for other in others)
            ):
                into[name] = layer
                break
    inside = {layer.name for layer in into.values()}
    operations = []
    for layer in network.layers:
        if layer.name in inside:
            continue
        after = into.get(layer.name)
        others = [name for name in after.inputs if name != layer.name] if after else list(layer.inputs[1:])
        result = after.name if after else layer.name
        operations.append(_Operation(layer, layer.inputs[0], others[0] if others else None, result))
    return operations


class _Planner:
    """Decides where each tensor lies, and maps the layers."""

    def __init__(self, network, machine, l2_bytes):
        self.machine, self.l2_bytes = machine, l2_bytes
        self.operations = _operations(network)
        array = machine.config.array
        self.l1_bytes = machine.config.l1_words * machine.config.word_bytes
        made = {op.result: place for place, op in enumerate(self.operations)}
        self.last_use = dict(made)
        for place, op in enumerate(self.operations):
            self.last_use.update({name: place for name in (op.source, op.residual) if name is not None})
        self.sizes = {op.result: _tensor_bytes(op.layer.ofmap, array, op.layer.raw) for op in self.operations}
        self.made, self.in_l1, self.in_l2 = made, set(), set()

    def _live(self, tensors, place):
        """Bytes of ``tensors`` that exist while operation ``place`` runs."""
        return sum(self.sizes[name] for name in tensors if self.made[name] <= place <= self.last_use[name])

    def _situation(self, place, in_l1):
        op = self.operations[place]
        residual = None if op.residual is None else op.residual in in_l1
        free = self.l1_bytes - self._live(in_l1, place)
        elsewhere = [name for name in self.in_l2 if name not in in_l1]
        l2_free = max(0, self.l2_bytes - self._live(elsewhere, place))
        return _Situation(op.source in in_l1, op.result in in_l1, residual, free, l2_free)

    def _mapped(self, place, in_l1):
        return _map(self.operations[place].layer, self.machine, self._situation(place, in_l1))

    def _cost(self, places, in_l1):
        """What some operations cost together, or None where one cannot run."""
        found = [self._mapped(place, in_l1) for place in places]
        return None if None in found else tuple(np.sum([_cost(one, self.machine) for one in found], axis=0))

    def plan(self):
        """Choose the tensors that stay in L1, then those that stay in L2."""
        for place, op in enumerate(self.operations):
            last = self.last_use[op.result]
            if last == place:
                continue  # the network's result goes to memory
            places = range(place, last + 1)
            if any(self._live(self.in_l1 | {op.result}, at) > self.l1_bytes for at in places):
                continue
            kept, left = self._cost(places, self.in_l1 | {op.result}), self._cost(places, self.in_l1)
            if kept is not None and (left is None or kept <= left):
                self.in_l1.add(op.result)
        for place, op in enumerate(self.operations):
            places = range(place, self.last_use[op.result] + 1)
            if len(places) == 1:
                continue
            fits = all(self._live(self.in_l2 | {op.result}, at) <= self.l2_bytes for at in places)
            if op.result not in self.in_l1 and fits:
                self.in_l2.add(op.result)

    def _place(self, name):
        return "l1" if name in self.in_l1 else "l2" if name in self.in_l2 else "dram"

    def layers(self):
        """:class:`LayerEstimate` of every operation."""
        found = []
        for place, op in enumerate(self.operations):
            fields = self._mapped(place, self.in_l1)
            if fields is None:
                raise MvqError(self._reason(op.layer))
            reads = [name for name in (op.source, op.residual) if name is not None]
            shapes = {name: self.sizes.get(name, 0) for name in reads}
            external = [name for name in reads if name not in self.made]
            if external:
                shapes[external[0]] = self._external_bytes(op.layer, fields["mapping"].layout)
            moved = sum(size for name, size in shapes.items() if self._place(name) == "dram")
            if self._place(op.result) == "dram":
                moved += self.sizes[op.result]
            spilled = Traffic({("dram", "activations"): moved, ("l2", "activations"): moved})
            places = (self._place(op.source), self._place(op.result))
            found.append(
                LayerEstimate(layer=op.layer, places=places, **{**fields, "traffic": fields["traffic"] + spilled})
            )
        return tuple(found)

    def _external_bytes(self, layer, layout):
        array = self.machine.config.array
        variant = dict(_layouts(_anonymous(layer)))[layout] if layer.op == "conv" else layer
        return _tensor_bytes(variant.ifmap, array)

    def _reason(self, layer):
        config = self.machine.config
        if layer.op == "conv" and max(layer.kernel) > _KERNEL:
            return f"layer {layer.name!r}: kernel = {layer.kernel} exceeds the accelerator's {_KERNEL} x {_KERNEL}"
        return (
            f"layer {layer.name!r}: not even a tile of one ofmap row fits the {self.l1_bytes} bytes of activations and "
            f"{config.psum_vectors} partial-sum vectors of L1; give l1_banks, l1_bank_words or psum_vectors"
        )


def estimate(network, machine, *, l2_bytes=L2_BYTES, objective="cycles", preload=True):
    """Estimate a network.

    Parameters
    ----------
    network : :class:`golden.networks.Network`. ``machine`` : :class:`hdl.accelerator_config.AcceleratorConfig`.
    l2_bytes : of L2. ``objective`` : ``cycles`` or ``energy``, see Choice in the module's docstring.
    preload : weights load while others compute, see Subsets there.

    Returns
    -------
    Estimate

    Raises
    ------
    MvqError : a layer cannot run; names it and why.
    """
    planner = _Planner(network, _Machine(machine, preload, objective), l2_bytes)
    planner.plan()
    return Estimate(network.name, machine, l2_bytes, planner.layers())
