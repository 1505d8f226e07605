"""Cycles, stalls, traffic and energy of a compiled program, layer by layer: as the gateware has them.

* **Cycles** of a layer: from the cycle in which the last computation of the layer before it is complete to that of its
  own; the last layer's to the end of the run, the sum is the program's. Transfers overlap: what the next layer needs is
  loaded meanwhile.
* **Computing and stalls** are what the counters of :mod:`golden.timing` count in these cycles. In the others the array
  waits for a transfer, or has no convolution to run.
* **Bus, L1, partial sums**: each layer has what its own operations move, whenever they do. The sums over all layers are
  the counters' values.
* **Register files**: :mod:`golden.traffic`, of the subsets that are streamed.
* **DRAM**: a tensor that the program stores stays in L2 from its first transfer to its last where it fits beside the
  others; the network's input and result lie in DRAM. Weights and descriptors come from DRAM once; of a layer's weights
  that do not fit L2 beside the tensors, the rest comes again with each repetition. L2 is filled in time, as in
  :mod:`golden.estimate`: DRAM costs energy, not cycles.
"""

from pathlib import Path

import numpy as np

from golden.checkpoint import Checkpoint
from golden.estimate import L2_BYTES, Estimate, LayerEstimate
from golden.lower import lower
from golden.mapping import Mapping
from golden.network import Calibration
from golden.program import compile_program
from golden.synthetic import any_calibration, random_network
from golden.timing import COUNTERS, MemoryTiming, decode, simulate
from golden.traffic import Traffic, multiplications, register_accesses
from golden.work import count_work

__all__ = ["compile_network", "exact_estimate", "load_weights"]

#: counters that time decides; the others are counted operation by operation.
_TIMED = ("busy_cycles", "weight_stalls", "activation_stalls")


def load_weights(folder):
    """(Checkpoint, Calibration) of a folder; where it has no ``calibration.json``, any calibration, as cycles do not
    depend on it."""
    folder = Path(folder)
    checkpoint, path = Checkpoint.load(folder), folder / "calibration.json"
    return checkpoint, Calibration.load(path) if path.exists() else any_calibration(checkpoint)


def compile_network(network, machine, weights=None, progress=None):
    """Program of a network.

    Parameters
    ----------
    network : :class:`golden.networks.Network`. ``machine`` : :class:`hdl.accelerator_config.AcceleratorConfig`.
    weights : (Checkpoint, Calibration); random ones of these shapes when None.
    progress : called with (layers that are planned, all).

    Returns
    -------
    :class:`golden.program.Program`; raises MvqError for a network that cannot be planned.
    """
    checkpoint, calibration = weights or random_network(network, machine.array)
    return compile_program(lower(checkpoint, calibration, machine.array), machine, progress=progress)


def exact_estimate(network, program, *, l2_bytes=L2_BYTES, memory=None, progress=None):
    """:class:`golden.estimate.Estimate` of a program, exact.

    Parameters
    ----------
    network : :class:`golden.networks.Network` of the program. ``program`` : :class:`golden.program.Program`.
    l2_bytes : of L2. ``memory`` : :class:`golden.timing.MemoryTiming` behind the bus.
    progress : called with (operations that are complete, all) while the cycles are counted.
    """
    memory, config = memory or MemoryTiming(), program.config
    tables = decode(program.memory(), program.program_address, config, program.base)
    timing = simulate(*tables, program.program_address, config, memory, progress=progress)
    layers = _Layers(program)
    cycles, timed = layers.windows(timing)
    work = {name: layers.total(numbers) for name, numbers in count_work(*tables, config).items()}
    dram = _Dram(layers, l2_bytes)
    shapes, found = {layer.name: layer for layer in network.layers}, []
    for row, name in enumerate(layers.names):
        own = {key: int(numbers[row]) for key, numbers in work.items()}
        counters = {key: int(timed[row, place]) if key in _TIMED else own[key] for place, key in enumerate(COUNTERS)}
        found.append(
            LayerEstimate(
                layer=shapes[name],
                mapping=layers.mapping(row),
                cycles=int(cycles[row]),
                compute=counters["busy_cycles"],
                weight_stalls=counters["weight_stalls"],
                activation_stalls=counters["activation_stalls"],
                traffic=_traffic(shapes[name], own, dram.accesses(row, own, config), config),
                places=dram.places(row),
                counters=counters,
            )
        )
    return Estimate(network.name, config, l2_bytes, tuple(found), memory)


class _Layers:
    """The layers of a program by name, and which of them each descriptor belongs to; ``end`` to the last."""

    def __init__(self, program):
        self.program, self.names = program, list(dict.fromkeys(program.layers))
        numbers = [self.names.index(name) for name in program.layers]
        self.rows = np.array([numbers[operation.layer] for operation in program.operations] + numbers[-1:])

    def total(self, numbers):
        """Sums by layer of ``numbers``, one for each descriptor."""
        sums = np.zeros(len(self.names), np.int64)
        np.add.at(sums, self.rows, numbers)
        return sums

    def windows(self, timing):
        """(cycles, counts of :data:`golden.timing.COUNTERS`) of each layer's time."""
        last = {row: at for at, (row, operation) in enumerate(self.operations()) if operation.kind == "compute"}
        last = [last[row] for row in range(len(self.names))]
        ends, counted = timing.completed[last], timing.counted[last]
        ends[-1], counted[-1] = timing.cycles, list(timing.counters.values())
        return np.diff(ends, prepend=0), np.diff(counted, axis=0, prepend=0)

    def mapping(self, row):
        """:class:`golden.mapping.Mapping` of a layer: its largest tile."""
        program, name = self.program, self.names[row]
        plan = [plan for plan in program.plans if plan.name == name][-1]
        computes = [op.fields for at, op in self.operations() if at == row and op.kind == "compute"]
        tile = tuple(max(fields[key] for fields in computes) for key in ("ofmap_rows", "ofmap_columns"))
        patches = program.input_layout.patch_rows if row == 0 else 0
        return Mapping(plan.tiling.repeats, tile, plan.tiles, f"patches of {patches}" if patches else "planes")

    def operations(self):
        """(row, operation) in order, without ``end``."""
        return zip(self.rows.tolist(), self.program.operations, strict=False)


def _traffic(layer, own, dram, config):
    """:class:`golden.traffic.Traffic` of a layer that does the work ``own``, DRAM and L2 behind it in ``dram``."""
    bus, array = config.bus_bytes, config.array
    registers = ("loaded_rows", "windows", "pixel_vectors", "rebuilt_rows", "codewords")
    psum_bytes = array.columns * array.psum_width // 8
    near = {
        ("l2", "weights"): own["weight_beats"] * bus,
        ("l2", "activations"): own["map_beats"] * bus,
        ("l2", "descriptors"): own["descriptor_beats"] * bus,
        ("l1", "activations"): own["l1_bytes"],
        ("l1", "psums"): (own["psum_reads"] + own["psum_writes"]) * psum_bytes,
        **register_accesses(array, issued=own["busy_cycles"], **{name: own[name] for name in registers}),
    }
    behind = {(level, kind): moved for level in ("dram", "l2") for kind, moved in dram.items()}
    return Traffic(near, multiplications(layer, array)) + Traffic(behind)


class _Dram:
    """Which stored tensors stay in L2, and what passes between L2 and DRAM.

    Parameters
    ----------
    layers : :class:`_Layers`. ``l2_bytes`` : of L2.
    """

    def __init__(self, layers, l2_bytes):
        program = layers.program
        self.l2_bytes, self.stored = l2_bytes, program.stored
        rows = range(len(layers.names))
        self.moved = [{"load": {}, "store": {}} for _ in rows]  # of a layer -> tensor -> bytes
        self.weights = [set() for _ in rows]  # (first byte, first byte beyond) of what a layer streams
        starts = {place.address: name for name, place in self.stored.items()}
        addresses = np.sort(list(starts))
        for row, operation in layers.operations():
            fields = operation.fields
            if operation.opcode in ("load", "store"):
                name = starts[int(addresses[np.searchsorted(addresses, fields["memory_address"], "right") - 1])]
                moved = self.moved[row][operation.opcode]
                size = fields["chunks"] * fields["chunk_words"] * fields["word_beats"] * program.config.bus_bytes
                moved[name] = moved.get(name, 0) + size
            elif operation.opcode == "conv":
                start = fields["weights_address"]
                self.weights[row].add((start, start + fields["weight_words"] * program.config.bus_bytes))
        self.live = self._lives()
        self.in_l2 = set()
        for name in sorted(self.live, key=lambda name: self.live[name].start):
            ends = name in (program.input, program.nodes[program.output][0])
            if not ends and all(self._used(row) + self.stored[name].size <= l2_bytes for row in self.live[name]):
                self.in_l2.add(name)

    def _lives(self):
        """Tensor -> range of the layers from its first transfer to its last."""
        lives = {}
        for row, moved in enumerate(self.moved):
            for name in moved["load"] | moved["store"]:
                lives[name] = range(lives[name].start if name in lives else row, row + 1)
        return lives

    def _used(self, row):
        """Bytes of L2 that tensors take during a layer."""
        return sum(self.stored[name].size for name in self.in_l2 if row in self.live[name])

    def places(self, row):
        """Where a layer loads from and stores to: ``l1`` where it does not."""
        found = []
        for names in self.moved[row].values():
            found.append("l1" if not names else "l2" if names.keys() <= self.in_l2 else "dram")
        return tuple(found)

    def accesses(self, row, own, config):
        """Bytes between L2 and DRAM of a layer that does the work ``own``: by kind."""
        maps = sum(
            min(size, self.stored[name].size)
            for moved in self.moved[row].values()
            for name, size in moved.items()
            if name not in self.in_l2
        )
        weights, streamed = 0, own["weight_beats"] * config.bus_bytes
        if self.weights[row]:
            weights = max(end for _, end in self.weights[row]) - min(start for start, _ in self.weights[row])
            weights = min(weights, streamed)
            missing = max(0, weights - max(0, self.l2_bytes - self._used(row)))
            weights += (streamed - weights) * missing // weights
        return {"weights": weights, "activations": maps, "descriptors": own["descriptor_beats"] * config.bus_bytes}
