"""From layers to operations: what :mod:`golden.program.choice` decided, as loads, computes and stores in order.

What passes through L1 tile by tile has two buffers there, so that loads and stores run beside the array.
"""

from dataclasses import dataclass

from golden.integer import Requantisation
from golden.program.choice import BUFFERS, Chooser
from golden.program.layers import Tensor
from golden.program.operations import Operation, Span, Timeline
from golden.program.tiling import IN_PLACE, TILES, WHOLE, ifmap_rows
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
    """How a layer was planned: :class:`golden.program.tiling.Tiling`, number of tiles, L1 words in use, and the tensors
    that left L1 before it."""

    name: str
    tiling: object
    tiles: int
    l1_words: int
    spilled: tuple


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
        self.timeline = Timeline(config)
        self.weights, self.codebook = bytearray(), None
        self.stored, self.in_memory = {}, set()
        self.address = base
        self.plans = []

    def plan(self, progress=None):
        """Plan every layer; returns :class:`Plan`, raises LoweringError. ``progress`` : called with (layers that are
        planned, all)."""
        first = next(iter(self.network.tensors))
        self._region(first)
        self.in_memory.add(first)
        chooser, places = Chooser(self.network, self.config, keep_all=self.keep_all), {}
        for number, (layer, choice) in enumerate(zip(self.network.layers, chooser.choose(), strict=True)):
            for name in choice.spilled:
                self._store(number, name, places)
            run, name, places = _LayerRun(self, number, layer, choice), layer.result.name, dict(choice.space.places)
            run.run()
            if choice.tiling.modes[2] == IN_PLACE:
                places[name] = places[layer.residual]
            if choice.tiling.modes[2] == TILES:
                self.in_memory.add(name)
            elif chooser.must_store(name):
                self._store(number, name, places)
            self.plans.append(LayerPlan(layer.name, choice.tiling, len(run.tiles), choice.space.used, choice.spilled))
            if progress:
                progress(number + 1, len(self.network.layers))
        return Plan(self.timeline.operations, self.stored, bytes(self.weights), self.plans)

    def _store(self, number, name, places):
        """Store a tensor that lies in L1, unless it is in memory."""
        if name not in self.in_memory:
            self.transfer_whole("store", number, name, places[name].start)
            self.in_memory.add(name)

    # ---- transfers
    # ------------------------------------------------------------------------------------------------------

    def _region(self, name):
        """:class:`StoredTensor` of ``name``, with a place in memory from now on."""
        if name not in self.stored:
            tensor, config = self.network.tensors[name], self.config
            plane = tensor.plane_words(config) * tensor.word_beats(config) * config.bus_bytes
            alignment = max(64, config.word_bytes)
            self.address += -self.address % alignment
            self.stored[name] = StoredTensor(tensor, self.address, plane, tensor.groups(config) * plane)
            self.address += self.stored[name].size
        return self.stored[name]

    def transfer(self, opcode, number, name, rows, groups, word):
        """Load or store ``rows`` and ``groups`` (ranges) of a tensor, in L1 from ``word`` on without gaps.

        Returns the :class:`_View` of them.
        """
        config, region = self.config, self._region(name)
        lanes, tensor = config.word_vectors, region.tensor
        row = tensor.columns * tensor.pixel_vectors
        skipped, lane = divmod(rows.start * row, lanes)
        words, beats = -(-(lane + len(rows) * row) // lanes), tensor.word_beats(config)
        word_bytes = beats * config.bus_bytes
        address = region.address + groups.start * region.plane_bytes + skipped * word_bytes
        chunks, stride = len(groups), region.plane_bytes
        if words * word_bytes == stride:
            words, chunks = words * chunks, 1
        fields = {
            "memory_address": address,
            "memory_stride": 0 if chunks == 1 else stride,
            "l1_address": word,
            "l1_stride": 0 if chunks == 1 else words,
            "chunk_words": words,
            "chunks": chunks,
            "word_beats": beats,
        }
        memory = Span(address, words * word_bytes, fields["memory_stride"], chunks)
        place = Span(word * lanes, words * chunks * lanes)
        spans = {"memory_read": memory, "result": place}
        if opcode == "store":
            spans = {"memory_written": memory, "source": place}
        self.timeline.append(Operation(opcode=opcode, layer=number, fields=fields, **spans))
        plane = words * chunks // len(groups) * lanes
        return _View(word * lanes + lane, plane, rows.start, groups.start)

    def transfer_whole(self, opcode, number, name, word):
        """Load or store a tensor, in L1 from ``word`` on."""
        tensor = self.network.tensors[name]
        rows, groups = range(tensor.rows), range(tensor.groups(self.config))
        self.transfer(opcode, number, name, rows, groups, word)


class _LayerRun:
    """The operations of one layer."""

    def __init__(self, planner, number, layer, choice):
        self.planner, self.config = planner, planner.config
        self.number, self.layer, self.tiling = number, layer, choice.tiling
        self.places = choice.space.places
        self.source = planner.network.tensors[layer.source]
        self.modes = dict(zip(("source", "residual", "result"), self.tiling.modes, strict=True))
        self.views, self.loads = {}, 0
        for role, name in (("source", layer.source), ("residual", layer.residual), ("result", layer.result.name)):
            if self.modes[role] not in (None, TILES):
                plane = planner.network.tensors[name].plane_words(self.config) * self.config.word_vectors
                place = self.places[layer.residual if self.modes[role] == IN_PLACE else name]
                self.views[role] = _View(place.start * self.config.word_vectors, plane)
        self.loaded, self.segments = {}, {}
        groups = layer.result.groups(self.config)
        #: (rows, groups) of every tile: strips, and in each its blocks of channels.
        self.tiles = [
            (
                range(row, min(row + self.tiling.rows, layer.result.rows)),
                range(group, min(group + self.tiling.groups, groups)),
            )
            for row in range(0, layer.result.rows, self.tiling.rows)
            for group in range(0, groups, self.tiling.groups)
        ]
        self.strips = len({rows.start for rows, _ in self.tiles})
        self.weights = None
        if layer.conv:
            self.weights = LayerWeights(layer, self.tiling.repeats, self.config, planner.weights)

    def run(self):
        """Append all operations."""
        for name, mode in zip(self.layer.reads, self.tiling.modes, strict=False):
            if mode == WHOLE:
                self.planner.transfer_whole("load", self.number, name, self.places[name].start)
        self._load_tile(0)
        for tile in range(len(self.tiles)):
            self._compute(tile)
            self._load_tile(tile + 1)
            self._store(tile + 1 - self.tiling.buffers)
        if self.tiling.buffers == 2:
            self._store(len(self.tiles) - 1)

    def _buffer(self, role, turn):
        """First word of the buffer for a tile."""
        place = self.places[BUFFERS[role]]
        return place.start + turn % self.tiling.buffers * (len(place) // self.tiling.buffers)

    def _load_tile(self, tile):
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
        self.loaded[role, tile] = self.planner.transfer("load", self.number, name, rows, groups, word)

    def _store(self, tile):
        """Store the tile's result."""
        if tile < 0 or self.modes["result"] != TILES:
            return
        rows, groups = self.tiles[tile]
        name = self.layer.result.name
        self.planner.transfer("store", self.number, name, rows, groups, self._buffer("result", tile))

    def _compute(self, tile):
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
