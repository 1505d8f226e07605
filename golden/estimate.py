"""Cycles, stalls, traffic and energy of a network on an accelerator, in closed form from layer shapes alone; those of a
compiled program are in :mod:`golden.exact`.

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
  least energy; for ``energy``, the one with the least energy; for ``edp``, the one with the least product of both (our
  decision).
"""

import dataclasses
from dataclasses import dataclass, replace

import numpy as np

from golden.mapping import (
    KERNEL,
    OBJECTIVES,
    Machine,
    Mapping,
    Situation,
    cost_of,
    layer_cycles,
    layouts,
    map_layer,
    stored_bytes,
    tensor_bytes,
)
from golden.networks import Layer
from golden.traffic import COSTS, LEVELS, Traffic
from hdl.config import MvqError

__all__ = ["L2_BYTES", "OBJECTIVES", "Estimate", "LayerEstimate", "Mapping", "estimate", "layer_cycles"]

#: bytes of L2 (paper section 7.1).
L2_BYTES = 2 << 20


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
    counters : of the hardware, where they are known exactly: name -> value.
    """

    layer: Layer
    mapping: Mapping
    cycles: int
    compute: int
    weight_stalls: int
    activation_stalls: int
    traffic: Traffic
    places: tuple[str, str]
    counters: dict | None = None

    def utilisation(self, array):
        """Multiplications of the dense layer, of those that H x L columns could do in its cycles."""
        return self.layer.macs / (self.cycles * array.rows * array.columns)


@dataclass(frozen=True)
class Estimate:
    """A network on an accelerator; ``memory`` : :class:`golden.timing.MemoryTiming` of cycles that are exact, else
    None."""

    network: str
    machine: object
    l2_bytes: int
    layers: tuple[LayerEstimate, ...]
    memory: object = None

    @property
    def exact(self):
        """True for the cycles of a compiled program (golden.exact)."""
        return self.memory is not None

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
                **({"counters": found.counters} if found.counters else {}),
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
            "exact": self.exact,
            "memory": self.memory and dataclasses.asdict(self.memory),
            "l2_bytes": self.l2_bytes,
            "costs": COSTS,
            "cycles": self.cycles,
            "utilisation": round(self.utilisation, 4),
            "traffic": self.traffic.to_dict(),
            "levels": {level: self.traffic[level] for level in LEVELS},
            "layers": layers,
        }


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
        self.sizes = {op.result: tensor_bytes(op.layer.ofmap, array, op.layer.raw) for op in self.operations}
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
        return Situation(op.source in in_l1, op.result in in_l1, residual, free, l2_free)

    def _mapped(self, place, in_l1):
        return map_layer(self.operations[place].layer, self.machine, self._situation(place, in_l1))

    def _cost(self, places, in_l1):
        """What some operations cost together, or None where one cannot run."""
        found = [self._mapped(place, in_l1) for place in places]
        return None if None in found else tuple(np.sum([cost_of(one, self.machine) for one in found], axis=0))

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
            array = self.machine.config.array
            source = dict(layouts(op.layer))[fields["mapping"].layout].ifmap
            reads = {op.source: stored_bytes(source, array)}
            if op.residual is not None:
                reads[op.residual] = stored_bytes(op.layer.ofmap, array)
            moved = sum(size for name, size in reads.items() if self._place(name) == "dram")
            if self._place(op.result) == "dram":
                moved += stored_bytes(op.layer.ofmap, array, op.layer.raw)
            spilled = Traffic({("dram", "activations"): moved, ("l2", "activations"): moved})
            places = (self._place(op.source), self._place(op.result))
            found.append(
                LayerEstimate(layer=op.layer, places=places, **{**fields, "traffic": fields["traffic"] + spilled})
            )
        return tuple(found)

    def _reason(self, layer):
        config = self.machine.config
        if layer.op == "conv" and max(layer.kernel) > KERNEL:
            return f"layer {layer.name!r}: kernel = {layer.kernel} exceeds the accelerator's {KERNEL} x {KERNEL}"
        return (
            f"layer {layer.name!r}: not even a tile of one ofmap row fits the {self.l1_bytes} bytes of activations and "
            f"{config.psum_vectors} partial-sum vectors of L1; give l1_banks, l1_bank_words or psum_vectors"
        )


def estimate(network, machine, *, l2_bytes=L2_BYTES, objective="cycles", preload=True):
    """Estimate a network.

    Parameters
    ----------
    network : :class:`golden.networks.Network`. ``machine`` : :class:`hdl.accelerator_config.AcceleratorConfig`.
    l2_bytes : of L2. ``objective`` : ``cycles``, ``energy`` or ``edp``, see Choice in the module's docstring.
    preload : weights load while others compute, see Subsets there.

    Returns
    -------
    Estimate

    Raises
    ------
    MvqError : a layer cannot run; names it and why.
    """
    planner = _Planner(network, Machine(machine, preload, objective), l2_bytes)
    planner.plan()
    return Estimate(network.name, machine, l2_bytes, planner.layers())
