"""Which tensors lie in L1 and when, and how each layer is cut into tiles: of all ways the one with the fewest cycles.

A tensor stays in L1 as a whole from the layer that makes it to the last that reads it, or passes through it tile by
tile. What is good for one layer may cost the next ones more, so the search goes through the layers with several states
side by side: for each set of tensors that may lie in L1 and in memory, the cheapest way to get there.

Tensors that are read, or written, at the same time get banks of their own: the source, the residual and what is stored;
the result and what is loaded. Where L1 is too small for that, :mod:`golden.program.operations` lets them wait.
"""

import math
from dataclasses import dataclass

import numpy as np

from golden.lower import LoweringError
from golden.program.l1 import L1Space
from golden.program.tiling import IN_PLACE, PRESENT, TILES, WHOLE, ifmap_rows, tilings

__all__ = ["BUFFERS", "Choice", "Chooser"]

#: role of a tensor in a layer -> name of its buffer in L1, which is none that a tensor can have.
BUFFERS = {role: (role,) for role in ("source", "residual", "result")}
#: states that go on from layer to layer.
_STATES = 8


@dataclass(frozen=True, eq=False)
class Choice:
    """How a layer runs.

    Parameters
    ----------
    spilled : tensors that leave L1 before it, for others or because they pass through it in tiles.
    tiling : :class:`~golden.program.tiling.Tiling`.
    space : :class:`~golden.program.l1.L1Space` while it runs. A tensor that is there as a whole has its own name;
        the others have :data:`BUFFERS`.
    """

    spilled: tuple
    tiling: object
    space: L1Space

    def part(self, role, turn):
        """Place of the ``turn``-th tile in the buffer of ``role``."""
        place = self.space.places[BUFFERS[role]]
        size = len(place) // self.tiling.buffers
        start = place.start + turn % self.tiling.buffers * size
        return range(start, start + size)


@dataclass(frozen=True, eq=False)
class _State:
    """After some layers: what lies in L1, what in memory, cycles until then, the choices that led there, and ``late``:
    places that the last tile uses."""

    space: L1Space
    in_memory: frozenset
    cost: float = 0.0
    choice: Choice | None = None
    before: "_State | None" = None
    late: tuple = ()

    @property
    def choices(self):
        """Of all layers until here."""
        found, state = [], self
        while state.choice is not None:
            found.append(state.choice)
            state = state.before
        return found[::-1]


def _overlap(one, other):
    return one.start < other.stop and other.start < one.stop


class Chooser:
    """Chooses for a whole network.

    Parameters
    ----------
    network : :class:`golden.program.layers.NetworkLayers`. ``config`` :
        :class:`~hdl.accelerator_config.AcceleratorConfig`. ``keep_all`` : every result is stored.
    """

    def __init__(self, network, config, *, keep_all=False):
        self.network, self.config, self.keep_all = network, config, keep_all
        self.last_use, self.partners = {}, {name: set() for name in network.tensors}
        #: words behind a tensor that a layer which begins at a column of it may touch.
        self.slack = dict.fromkeys(network.tensors, 0)
        for number, layer in enumerate(network.layers):
            slack = -(-layer.offset[1] // config.word_vectors)
            self.slack[layer.source] = max(self.slack[layer.source], slack)
            for name in layer.reads:
                self.last_use[name] = number
                self.partners[name] |= set(layer.reads) - {name}
        #: cycles to load the codebook of each layer, 0 where the layer before has it.
        self.codebooks, codebook = [], None
        for layer in network.layers:
            new = layer.compressed and not np.array_equal(codebook, layer.image.codebook)
            codebook = layer.image.codebook if layer.compressed else codebook
            self.codebooks.append(len(codebook) * config.array.codeword_words if new else 0)
        self.codebooks.append(0)  # nothing follows the last layer

    def choose(self):
        """:class:`Choice` of each layer; raises LoweringError where there is none."""
        first = next(iter(self.network.tensors))
        states = [_State(L1Space(self.config), frozenset([first]))]
        for number, layer in enumerate(self.network.layers):
            ways, found = self._ways(number, layer, self.config.l1_words), {}
            for state in states:
                for after in self._options(number, layer, ways, state):
                    key = frozenset(after.space.places), after.in_memory
                    if key not in found or self._rank(number, after) < self._rank(number, found[key]):
                        found[key] = after
            if not found:
                raise self._no_room(number, layer)
            states = sorted(found.values(), key=lambda state: self._rank(number, state))[:_STATES]
        return states[0].choices

    def must_store(self, name):
        """True for a tensor that must be in memory at the end."""
        return self.keep_all or name == self.network.output

    # ---- one layer
    # ------------------------------------------------------------------------------------------------------

    def _ways(self, number, layer, room):
        """Tilings of the layer that take up to ``room`` words, whatever lies in L1, cheapest first."""
        source, residual = layer.source, layer.residual
        result = [WHOLE, TILES]
        if residual is not None and self.last_use[residual] == number and not self.slack[layer.result.name]:
            result = [IN_PLACE, *result]
        return tilings(
            layer,
            self.network.tensors[source],
            self.network.tensors.get(residual),
            [[PRESENT, WHOLE, TILES], [None] if residual is None else [PRESENT, WHOLE, TILES], result],
            self.config,
            stored=self.must_store(layer.result.name),
            room=room,
        )

    def _options(self, number, layer, ways, state):
        """States after the layer: for each way to treat its tensors, and to make room, the cheapest tiling."""
        places = state.space.places
        legal = [
            {None} if name is None else {PRESENT if name in places else WHOLE, TILES}
            for name in (layer.source, layer.residual)
        ]
        ways = [way for way in ways if way.modes[0] in legal[0] and way.modes[1] in legal[1]]
        ways.sort(key=lambda way: way.cost + self._waits(number, state, way) + self._exposed(number, way))
        others = sorted(places.keys() - set(layer.reads), key=lambda name: self._next_use(name, number))
        for count in range(len(others) + 1):
            evicted, done = tuple(others[len(others) - count :]), set()
            for tiling in ways:
                if tiling.modes in done:
                    continue
                reads = zip(layer.reads, tiling.modes, strict=False)
                spilled = (*evicted, *(name for name, mode in reads if mode == TILES and name in places))
                free = state.space.without(spilled)
                space = self._allocate(layer, tiling, free, state.late) or self._allocate(layer, tiling, free)
                if space is not None:
                    done.add(tiling.modes)
                    yield self._after(number, layer, state, Choice(spilled, tiling, space))

    def _after(self, number, layer, state, choice):
        tiling, places = choice.tiling, dict(choice.space.places)
        written = [name for name in choice.spilled if name not in state.in_memory]
        cost = sum(self.network.tensors[name].beats(self.config) for name in written)
        cost += tiling.cost
        if state.choice is not None:
            before = state.choice.tiling
            cost -= min(tiling.first, before.idle) if self._loads_ahead(number, layer, state, choice) else 0
            cost += self._waits(number, state, tiling)
        name, mode = layer.result.name, tiling.modes[2]
        if mode == IN_PLACE:
            places[name] = places[layer.residual]
        if mode == TILES or self.must_store(name):
            written.append(name)
        live = {name for name, last in self.last_use.items() if last > number}
        return _State(
            L1Space(self.config, {name: place for name, place in places.items() if name in live}),
            (state.in_memory | set(written)) & live,
            state.cost + cost,
            choice,
            state,
            self._late(layer, choice),
        )

    def _waits(self, number, state, tiling):
        """Cycles for which the array waits for codebook and first weights, behind the last ones of the layer before."""
        before, behind = None if state.choice is None else state.choice.tiling, 0
        if before and before.last_entries + tiling.first_entries <= self.config.array.wrf_depth:
            behind = before.behind
        return max(0, self.codebooks[number] + tiling.ahead - behind)

    def _rank(self, number, after):
        """Cost of a state, with what the next layer would wait for."""
        return after.cost + self._exposed(number, after.choice.tiling)

    def _exposed(self, number, tiling):
        """Cycles of the next layer's codebook that the last weights of this one do not hide."""
        return max(0, self.codebooks[number + 1] - tiling.behind)

    def _loads_ahead(self, number, layer, state, choice):
        """True when what the first tile needs can be loaded during the last tile of the layer before."""
        before, tiling = self.network.layers[number - 1], state.choice.tiling
        for role, name, mode in zip(BUFFERS, layer.reads, choice.tiling.modes, strict=False):
            if mode == PRESENT:
                continue
            if name == before.result.name:  # rows of its last tile come too late
                source = self.network.tensors[name]
                rows = range(choice.tiling.rows if mode == TILES else layer.result.rows)
                first, count, _ = ifmap_rows(layer, rows, source)
                if first + count > (source.rows - 1) // tiling.rows * tiling.rows:
                    return False
            place = choice.part(role, 0) if mode == TILES else choice.space.places[name]
            if name in choice.spilled or any(_overlap(place, late) for late in state.late):
                return False
        return True

    def _late(self, layer, choice):
        """Places that the last tile of the layer reads and writes."""
        tiling, found = choice.tiling, []
        strips = -(-layer.result.rows // tiling.rows)
        tiles = strips * -(-layer.result.groups(self.config) // tiling.groups)
        turns = (tiles if layer.channelwise else strips, tiles, tiles)
        names = (layer.source, layer.residual, layer.result.name)
        for role, name, mode, turn in zip(BUFFERS, names, tiling.modes, turns, strict=True):
            if mode == TILES:
                found.append(choice.part(role, turn - 1))
            elif mode in (PRESENT, WHOLE):
                found.append(choice.space.places[name])
        return tuple(found)

    def _next_use(self, name, number):
        return next(i for i, layer in enumerate(self.network.layers) if i > number and name in layer.reads)

    def _allocate(self, layer, tiling, space, late=()):
        """``space`` with places for the tensors of the layer, or None where there is no room. What is loaded first
        keeps out of ``late`` where it can."""
        if sum(tiling.words) > self.config.l1_words - space.used:
            return None
        names = (layer.source, layer.residual, layer.result.name)
        space = space.without(())
        keys = [
            buffer if mode == TILES else name
            for buffer, mode, name in zip(BUFFERS.values(), tiling.modes, names, strict=True)
        ]
        moving = [key for key, mode in zip(keys, tiling.modes, strict=True) if mode == TILES]
        for position, (key, mode, words) in enumerate(zip(keys, tiling.modes, tiling.words, strict=True)):
            if mode in (None, PRESENT):
                continue
            apart = set() if mode == TILES else set(self.partners[key])
            if mode == IN_PLACE:
                if any(space.banks(layer.residual) & space.banks(other) for other in apart):
                    return None
                continue
            words += 0 if mode == TILES else self.slack[key]
            if position < 2:
                apart |= set(keys[:2])
            elif tiling.buffers == 2:
                apart |= {key for key in keys[:2] if key in moving or mode == TILES}
            soon = 0 if position == 2 else words if mode == WHOLE else words // tiling.buffers
            if not space.place(key, words, apart - {key}, busy=late, soon=soon):
                return None
        return space

    def _no_room(self, number, layer):
        config, ways = self.config, self._ways(number, layer, math.inf)
        if not ways:
            return LoweringError(
                layer.name,
                f"has {layer.result.columns} pixels in an ofmap row, and partial sums of {config.psum_vectors} at most",
                f"psum_vectors of {layer.result.columns} or more",
            )
        least = min(sum(tiling.words) for tiling in ways if PRESENT not in tiling.modes)
        return LoweringError(
            layer.name,
            f"needs {least} words of L1 for its smallest tile, in banks apart from what must stay; L1 has "
            f"{config.l1_words} in {config.l1_banks} banks",
            "more or larger banks of L1",
        )
