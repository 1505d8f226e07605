"""From layers to operations: what lies in L1 and when, how layers are cut into tiles, and in which order it all runs.

Layers run one after another. A tensor stays in L1 as a whole from the layer that makes it to the last that reads it,
where there is room; else it passes through two buffers, tile by tile, so that loads and stores run beside the array
(:mod:`golden.program.tiling`). Of all ways that find room in L1, each layer takes the one with the fewest estimated
cycles; a tensor that is needed later only may be stored to make room.

Tensors that are read, or written, at the same time get banks of their own: the source, the residual and what is stored;
the result and what is loaded. Where L1 is too small for that, :mod:`golden.program.operations` lets them wait.
"""

from dataclasses import dataclass

from golden.integer import Requantisation
from golden.lower import LoweringError
from golden.program.l1 import L1Space
from golden.program.layers import Tensor
from golden.program.operations import Operation, Span, Timeline
from golden.program.tiling import PRESENT, TILES, WHOLE, ifmap_rows, tilings
from golden.program.weights import LayerWeights

__all__ = ["LayerPlan", "Plan", "Planner", "StoredTensor"]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in memory.

    Parameters
    ----------
    tensor : :class:`golden.program.layers.Tensor`. ``address`` : first byte. ``plane_bytes`` : from plane to plane.
    size : bytes.
    """

    tensor: Tensor
    address: int
    plane_bytes: int
    size: int


@dataclass(frozen=True)
class LayerPlan:
    """How a layer was planned: :class:`golden.program.tiling.Tiling`, number of tiles, L1 words in use, and what had to
    be stored to make room."""

    name: str
    tiling: object
    tiles: int
    l1_words: int
    evicted: tuple


@dataclass(frozen=True)
class Plan:
    """Operations in order, :class:`StoredTensor` by name, bytes of all weights, and :class:`LayerPlan` of each layer.

    Tensors have their addresses; ``weights_address`` of the operations counts from the start of the weights.
    """

    operations: list
    stored: dict
    weights: bytes
    layers: list


@dataclass(frozen=True)
class _View:
    """Rows of a tensor in L1: ``address`` and ``plane`` in vectors, first row and first group that are there."""

    address: int
    plane: int
    row: int = 0
    group: int = 0


def _scale(rescale):
    """Scale word of a descriptor: mantissa, shift and sign."""
    return int(rescale.words()[0]) & 0x7FFF


class Planner:
    """Plans a whole network.

    Parameters
    ----------
    network : :class:`golden.program.layers.NetworkLayers`. ``config`` :
        :class:`~hdl.accelerator_config.AcceleratorConfig`.
    base : address of the network's input; stored tensors follow it. ``keep_all`` : store every result.
    """

    def __init__(self, network, config, *, base=0, keep_all=False):
        self.network, self.config, self.keep_all = network, config, keep_all
        self.l1, self.timeline = L1Space(config), Timeline(config)
        self.weights, self.codebook = bytearray(), None
        self.stored, self.in_memory = {}, set()
        self.address = base
        self.plans = []
        self.last_use, self.partners = {}, {name: set() for name in network.tensors}
        #: words behind a tensor that a layer which begins at a column of it may touch.
        self.slack = dict.fromkeys(network.tensors, 0)
        for number, layer in enumerate(network.layers):
            slack = -(-layer.offset[1] // config.word_vectors)
            self.slack[layer.source] = max(self.slack[layer.source], slack)
            for name in layer.reads:
                self.last_use[name] = number
                self.partners[name] |= set(layer.reads) - {name}

    def plan(self, progress=None):
        """Plan every layer; returns :class:`Plan`, raises LoweringError. ``progress`` : called with (layers that are
        planned, all)."""
        first = next(iter(self.network.tensors))
        self._region(first)
        self.in_memory.add(first)
        for number, layer in enumerate(self.network.layers):
            evicted, tiling = self._choose(number, layer)
            for name in evicted:
                self._spill(number, name)
            self._run(number, layer, tiling, evicted)
            for name in [name for name in self.l1.places if self.last_use.get(name, -1) <= number]:
                del self.l1.places[name]
            if progress:
                progress(number + 1, len(self.network.layers))
        return Plan(self.timeline.operations, self.stored, bytes(self.weights), self.plans)

    # ---- choice
    # ---------------------------------------------------------------------------------------------------------

    def _must_store(self, name):
        return self.keep_all or name == self.network.output

    def _choose(self, number, layer):
        """(tensors to store first, tiling) of the layer: the fewest cycles that fit L1."""
        modes = [self._modes(layer.source), self._modes(layer.residual), [WHOLE, TILES]]
        if all(mode[0] != WHOLE for mode in modes[:2]):  # nothing has to be loaded: best without transfers, if it fits
            for tiling in self._tilings(layer, [mode[:1] for mode in modes]):
                if self._allocate(layer, tiling, self.l1) is not None:
                    return (), tiling
        ways = self._tilings(layer, modes)
        candidates = [tiling for tiling in ways if sum(tiling.words) <= self.config.l1_words]
        others = sorted(set(self.l1.places) - set(layer.reads), key=lambda name: self._next_use(name, number))
        best = None
        for count in range(len(others) + 1):
            evicted = tuple(others[len(others) - count :])
            price = sum(self.network.tensors[name].words(self.config) * self._transfers(name) for name in evicted)
            price *= self.config.word_beats
            for tiling in candidates:
                cost = price + tiling.cost + self._price(layer, tiling)
                if best is not None and cost >= best[0]:
                    continue
                if self._allocate(layer, tiling, self.l1.without(evicted)) is not None:
                    best = (cost, evicted, tiling)
                    break
        if best is None:
            raise self._no_room(layer, ways)
        return best[1:]

    def _tilings(self, layer, modes):
        return tilings(
            layer,
            self.network.tensors[layer.source],
            self.network.tensors.get(layer.residual),
            modes,
            self.config,
            wanted=layer.result.name in self.last_use,
            stored=self._must_store(layer.result.name),
        )

    def _modes(self, name):
        if name is None:
            return [None]
        return [PRESENT if name in self.l1.places else WHOLE, TILES]

    def _next_use(self, name, number):
        return next(i for i, layer in enumerate(self.network.layers) if i > number and name in layer.reads)

    def _transfers(self, name):
        """Transfers of a tensor that leaves L1 and comes back."""
        return 1 if name in self.in_memory else 2

    def _price(self, layer, tiling):
        """Cycles to store what lies in L1 only, and is to pass through it in tiles."""
        return sum(
            self.network.tensors[name].words(self.config) * self.config.word_beats
            for name, mode in zip(layer.reads, tiling.modes, strict=False)
            if mode == TILES and name not in self.in_memory
        )

    def _allocate(self, layer, tiling, space):
        """``space`` with places for the tensors of the layer, or None where there is no room.

        A tensor that is there as a whole has its own name; buffers are called "source", "residual" and "result".
        """
        names = (layer.source, layer.residual, layer.result.name)
        space = space.without([name for name, mode in zip(names, tiling.modes, strict=True) if mode == TILES])
        keys = [
            role if mode == TILES else name
            for role, mode, name in zip(("source", "residual", "result"), tiling.modes, names, strict=True)
        ]
        moving = [key for key, mode in zip(keys, tiling.modes, strict=True) if mode == TILES]
        for position, (key, mode, words) in enumerate(zip(keys, tiling.modes, tiling.words, strict=True)):
            if mode in (None, PRESENT):
                continue
            apart = set() if mode == TILES else set(self.partners[key])
            words += 0 if mode == TILES else self.slack[key]
            if position < 2:
                apart |= set(keys[:2])
            elif tiling.buffers == 2:
                apart |= {key for key in keys[:2] if key in moving or mode == TILES}
            if not space.place(key, words, apart - {key}):
                return None
        return space

    def _no_room(self, layer, ways):
        config = self.config
        if not ways:
            return LoweringError(
                layer.name,
                f"has {layer.result.columns} pixels in an ofmap row, and partial sums of {config.psum_vectors} at most",
                f"psum_vectors of {layer.result.columns} or more",
            )
        least = min(sum(tiling.words) for tiling in ways)
        return LoweringError(
            layer.name,
            f"needs {least} words of L1 for its smallest tile, in banks apart from what must stay; L1 has "
            f"{config.l1_words} in {config.l1_banks} banks",
            "more or larger banks of L1",
        )

    # ---- transfers
    # ------------------------------------------------------------------------------------------------------

    def _region(self, name):
        """:class:`StoredTensor` of ``name``, with a place in memory from now on."""
        if name not in self.stored:
            tensor, config = self.network.tensors[name], self.config
            plane = tensor.plane_words(config) * config.word_bytes
            alignment = max(64, config.word_bytes)
            self.address += -self.address % alignment
            self.stored[name] = StoredTensor(tensor, self.address, plane, tensor.groups(config) * plane)
            self.address += self.stored[name].size
        return self.stored[name]

    def _transfer(self, opcode, number, name, rows, groups, word):
        """Load or store ``rows`` and ``groups`` (ranges) of a tensor, in L1 from ``word`` on without gaps.

        Returns the :class:`_View` of them.
        """
        config, region = self.config, self._region(name)
        lanes, tensor = config.word_vectors, region.tensor
        row = tensor.columns * tensor.pixel_vectors
        skipped, lane = divmod(rows.start * row, lanes)
        words = -(-(lane + len(rows) * row) // lanes)
        address = region.address + groups.start * region.plane_bytes + skipped * config.word_bytes
        chunks, stride = len(groups), region.plane_bytes
        if words * config.word_bytes == stride:
            words, chunks = words * chunks, 1
        fields = {
            "memory_address": address,
            "memory_stride": 0 if chunks == 1 else stride,
            "l1_address": word,
            "l1_stride": 0 if chunks == 1 else words,
            "chunk_words": words,
            "chunks": chunks,
        }
        memory = Span(address, words * config.word_bytes, fields["memory_stride"], chunks)
        place = Span(word * lanes, words * chunks * lanes)
        spans = {"memory_read": memory, "result": place}
        if opcode == "store":
            spans = {"memory_written": memory, "source": place}
        self.timeline.append(Operation(opcode=opcode, layer=number, fields=fields, **spans))
        plane = words * chunks // len(groups) * lanes
        return _View(word * lanes + lane, plane, rows.start, groups.start)

    def _transfer_whole(self, opcode, number, name):
        tensor = self.network.tensors[name]
        rows, groups = range(tensor.rows), range(tensor.groups(self.config))
        self._transfer(opcode, number, name, rows, groups, self.l1.places[name].start)

    def _spill(self, number, name):
        """Free the place of a tensor in L1; it is in memory afterwards."""
        if name not in self.in_memory:
            self._transfer_whole("store", number, name)
            self.in_memory.add(name)
        del self.l1.places[name]

    # ---- a layer
    # --------------------------------------------------------------------------------------------------------

    def _run(self, number, layer, tiling, evicted):
        for name, mode in zip(layer.reads, tiling.modes, strict=False):
            if mode == TILES and name in self.l1.places:
                self._spill(number, name)
        before = set(self.l1.places)
        self.l1 = self._allocate(layer, tiling, self.l1)
        used = self.l1.used
        for name, mode in zip(layer.reads, tiling.modes, strict=False):
            if mode == WHOLE:
                self._transfer_whole("load", number, name)
        tiles = self._tiles(layer, tiling)
        run = _LayerRun(self, number, layer, tiling, tiles)
        run.load(0)
        for tile in range(len(tiles)):
            run.compute(tile)
            run.load(tile + 1)
            run.store(tile + 1 - tiling.buffers)
        if tiling.buffers == 2:
            run.store(len(tiles) - 1)
        for buffer in {"source", "residual", "result"} & (set(self.l1.places) - before):
            del self.l1.places[buffer]
        name = layer.result.name
        if tiling.modes[2] == TILES:
            self.in_memory.add(name)
        elif self._must_store(name):
            self._transfer_whole("store", number, name)
            self.in_memory.add(name)
        self.plans.append(LayerPlan(layer.name, tiling, len(tiles), used, evicted))

    def _tiles(self, layer, tiling):
        """(rows, groups) of every tile: strips, and in each its blocks of channels."""
        groups = layer.result.groups(self.config)
        return [
            (range(row, min(row + tiling.rows, layer.result.rows)), range(group, min(group + tiling.groups, groups)))
            for row in range(0, layer.result.rows, tiling.rows)
            for group in range(0, groups, tiling.groups)
        ]


class _LayerRun:
    """The operations of one layer: ``load(tile)``, ``compute(tile)`` and ``store(tile)``."""

    def __init__(self, planner, number, layer, tiling, tiles):
        self.planner, self.config = planner, planner.config
        self.number, self.layer, self.tiling, self.tiles = number, layer, tiling, tiles
        self.source = planner.network.tensors[layer.source]
        self.modes = dict(zip(("source", "residual", "result"), tiling.modes, strict=True))
        self.views, self.loads = {}, 0
        for role, name in (("source", layer.source), ("residual", layer.residual), ("result", layer.result.name)):
            if self.modes[role] in (PRESENT, WHOLE):
                plane = planner.network.tensors[name].plane_words(self.config) * self.config.word_vectors
                self.views[role] = _View(planner.l1.places[name].start * self.config.word_vectors, plane)
        self.loaded, self.segments = {}, {}
        self.strips = len({rows.start for rows, _ in tiles})
        self.weights = None
        if layer.conv:
            self.weights = LayerWeights(layer, tiling.repeats, self.config, planner.weights)

    def _buffer(self, role, turn):
        """First word of the buffer for a tile."""
        place = self.planner.l1.places[role]
        return place.start + turn % self.tiling.buffers * (len(place) // self.tiling.buffers)

    def load(self, tile):
        """Load what the tile reads, unless the tile before has it."""
        if tile >= len(self.tiles):
            return
        rows, groups = self.tiles[tile]
        if self.modes["source"] == TILES and (self.layer.channelwise or groups.start == 0):
            first, count, _ = ifmap_rows(self.layer, rows, self.source)
            wanted = groups if self.layer.channelwise else range(self.source.groups(self.config))
            self._load("source", self.layer.source, tile, range(first, first + count), wanted, self.loads)
            self.loads += 1
        elif self.modes["source"] == TILES:
            self.loaded["source", tile] = self.loaded["source", tile - 1]
        if self.modes["residual"] == TILES:
            self._load("residual", self.layer.residual, tile, rows, groups, tile)

    def _load(self, role, name, tile, rows, groups, turn):
        word = self._buffer(role, turn)
        self.loaded[role, tile] = self.planner._transfer("load", self.number, name, rows, groups, word)

    def store(self, tile):
        """Store the tile's result."""
        if tile < 0 or self.modes["result"] != TILES:
            return
        rows, groups = self.tiles[tile]
        name = self.layer.result.name
        self.planner._transfer("store", self.number, name, rows, groups, self._buffer("result", tile))

    def compute(self, tile):
        """The descriptors of the tile: one, or two for the first strip of a layer that loads its codebook."""
        rows, groups = self.tiles[tile]
        if self.weights is None:
            self._append("vector", rows, groups, tile, {})
            return
        if groups not in self.segments:
            codebook = self._new_codebook()
            self.segments[groups] = self.weights.block(groups, codebook=codebook, strips=self.strips)
        first, others = self.segments[groups]
        for segment in first if rows.start == 0 else others:
            limits = self.layer.image.requantisation
            weights = {
                "weights_address": segment.address,
                "weight_words": segment.words,
                "relu": int(limits is not None and limits.low == 0),
                "high": 127 if limits is None else limits.high,
                "raw": int(self.layer.result.raw),
            }
            self._append("conv", rows, segment.groups, tile, weights)

    def _new_codebook(self):
        """True when the layer reads another codebook than the array has."""
        if not self.layer.compressed:
            return False
        wanted = self.layer.image.codebook.tobytes()
        new, self.planner.codebook = self.planner.codebook != wanted, wanted
        return new

    def _view(self, role, tile):
        """Where the tile's part of a tensor lies; a result in tiles is laid out as its store reads it."""
        if role in self.views:
            return self.views[role]
        if role == "result":
            rows, groups = self.tiles[tile]
            lanes, result = self.config.word_vectors, self.layer.result
            plane = -(-len(rows) * result.columns * result.pixel_vectors // lanes) * lanes
            return _View(self._buffer(role, tile) * lanes, plane, rows.start, groups.start)
        return self.loaded[role, tile]

    def _append(self, opcode, rows, groups, tile, fields):
        """Append the compute of ``rows`` and ``groups`` of the tile."""
        layer, source, result, config = self.layer, self.source, self.layer.result, self.config
        first, count, pad_top = ifmap_rows(layer, rows, source)
        view = self._view("source", tile)
        ifmap = view.address + (first - view.row) * source.columns + layer.offset[1]
        read = source.groups(config)
        if layer.channelwise:
            ifmap += (groups.start - view.group) * view.plane
            read = len(groups)
        pixels = len(rows) * result.columns
        fields = {
            **fields,
            "pixels": pixels,
            "ifmap_address": ifmap,
            "ifmap_plane": view.plane,
            "ifmap_rows": count,
            "ifmap_columns": source.columns,
            "pad_top": pad_top,
            "pad_left": layer.padding[1],
            "stride_y": layer.stride[0],
            "stride_x": layer.stride[1],
            "ofmap_rows": len(rows),
            "ofmap_columns": result.columns,
            "ofmap_groups": len(groups),
            "last_columns": min(config.vector_bytes, result.channels - (groups.stop - 1) * config.vector_bytes),
        }
        if opcode == "vector":
            fields |= dict(zip(("kernel_rows", "kernel_columns"), layer.kernel, strict=True))
            fields["maximum"] = int(layer.maximum)
        spans = {"ifmap": Span(ifmap, count * source.columns, view.plane, read)}
        for role, name in (("ofmap", "result"), ("residual", "residual")):
            if self.modes[name] is None:
                continue
            view, vectors = self._view(name, tile), result.pixel_vectors
            start = view.address + (groups.start - view.group) * view.plane
            start += (rows.start - view.row) * result.columns * vectors
            fields |= {f"{role}_address": start, f"{role}_plane": view.plane}
            spans[name] = Span(start, pixels * vectors, view.plane, len(groups))
        if layer.rescale is not None:
            fields |= self._rescaling(layer.rescale)
        if layer.residual is not None:
            fields |= {"residual": 1, "residual_scale": _scale(layer.residual_rescale)}
        self.planner.timeline.append(Operation(opcode=opcode, layer=self.number, fields=fields, **spans))

    @staticmethod
    def _rescaling(rescale: Requantisation):
        return {
            "rescale": 1,
            "scale": _scale(rescale),
            "rescale_relu": int(rescale.low == 0),
            "rescale_high": rescale.high,
        }
