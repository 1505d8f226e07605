"""A network as the accelerator has it in memory: descriptors, weights, and a place for every tensor."""

from dataclasses import dataclass

import numpy as np

from golden.lower import LoweringError
from golden.program.formats import descriptor_bytes
from golden.program.layers import InputLayout, network_layers
from golden.program.planner import Planner, StoredTensor
from hdl.config import MvqError

__all__ = ["MismatchError", "Program", "compile_program"]


class MismatchError(MvqError):
    """A stored tensor that differs from what the network says; the text names layer, channel, row and column.

    Parameters
    ----------
    name : node. ``place`` : (channel, row, column), or (feature,). ``stored``, ``golden`` : the two values.
    count, size : values that differ, of how many.
    """

    def __init__(self, name, place, stored, golden, count, size):
        self.name, self.place, self.stored, self.golden, self.count = name, place, stored, golden, count
        where = zip(("channel", "row", "column") if len(place) == 3 else ("feature",), place, strict=True)
        super().__init__(
            f"layer {name!r}, {', '.join(f'{what} {number}' for what, number in where)}: memory has {stored}, but the "
            f"network {golden} ({count} of {size} values differ)"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """What :func:`compile_program` makes. All addresses are bytes.

    Memory from ``base`` on: the network's input, the tensors that the program stores, weights, descriptors.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    base, size : the memory that the program needs.
    program_address, program_length : first descriptor, and how many there are, ``end`` among them.
    weights_address : first byte of the weights.
    output_window : (first byte, first byte beyond) of everything that the program writes.
    image : weights and descriptors; they lie from ``weights_address`` on.
    operations : :class:`golden.program.operations.Operation` in order, without ``end``.
    layers : names, by the layer number in a descriptor. ``plans`` : :class:`golden.program.planner.LayerPlan` of each.
    input, output : names of the nodes. ``input_layout`` : :class:`golden.program.layers.InputLayout`.
    stored : tensor name -> :class:`golden.program.planner.StoredTensor`.
    nodes : node name -> (name of the stored tensor that holds its value, shape of the value).
    """

    config: object
    base: int
    size: int
    program_address: int
    program_length: int
    weights_address: int
    output_window: tuple[int, int]
    image: bytes
    operations: list
    layers: list[str]
    plans: list
    input: str
    output: str
    input_layout: InputLayout
    stored: dict[str, StoredTensor]
    nodes: dict[str, tuple]

    @property
    def memory_window(self):
        """(first byte, first byte beyond) of everything that the program reads and writes."""
        return self.base, self.base + self.size

    def memory(self):
        """uint8 (size,): memory from ``base`` on with weights and descriptors, the rest zero."""
        memory = np.zeros(self.size, np.uint8)
        start = self.weights_address - self.base
        memory[start : start + len(self.image)] = np.frombuffer(self.image, np.uint8)
        return memory

    def write_input(self, memory, x):
        """Put one image into ``memory`` (uint8, from ``base`` on).

        Parameters
        ----------
        x : int8 (C, H, W), as :meth:`golden.network.IntegerNetwork.quantise_input` gives it for a batch.
        """
        x = np.asarray(x)
        if x.dtype != np.int8 or x.shape != self.input_layout.shape:
            raise MvqError(f"the image must be int8 {self.input_layout.shape}, not {x.dtype} {x.shape}")
        place, planes = self._planes(memory, self.stored[self.input])
        values = np.zeros((planes.shape[0] * planes.shape[2], *self.input_layout.arrange(x).shape[1:]), np.int8)
        values[: place.tensor.channels] = self.input_layout.arrange(x)
        vectors = values.reshape(planes.shape[0], planes.shape[2], -1).transpose(0, 2, 1)
        planes[:, : vectors.shape[1]] = vectors.view(np.uint8)

    def read(self, memory, name=None):
        """Value of node ``name`` (the output when None): int8 or int32, shaped as the graph has it, without batch."""
        tensor_name, shape = self._node(name or self.output)
        place, planes = self._planes(memory, self.stored[tensor_name])
        tensor = place.tensor
        vectors = planes[:, : tensor.pixels * tensor.pixel_vectors]
        if tensor.raw:
            vectors = np.ascontiguousarray(vectors).view("<i4").reshape(len(planes), tensor.pixels, -1)
        else:
            vectors = vectors.view(np.int8)
        return vectors.transpose(0, 2, 1).reshape(-1, tensor.pixels)[: tensor.channels].reshape(shape)

    def compare(self, memory, values):
        """Compare stored tensors with ``values`` (node -> array without batch, as
        :meth:`golden.network.IntegerNetwork.run` gives it with).

        Returns
        -------
        Names of the nodes that were compared: those in ``values`` whose tensor the program stores.

        Raises
        ------
        MismatchError : at the first node that differs, in the order of ``values``.
        """
        compared = [name for name in values if name in self.nodes]
        for name in compared:
            stored, golden = self.read(memory, name), np.asarray(values[name])
            if not np.array_equal(stored, golden):
                differ = np.argwhere(stored != golden)
                place = tuple(int(i) for i in differ[0])
                raise MismatchError(name, place, int(stored[place]), int(golden[place]), len(differ), golden.size)
        return compared

    def layer_name(self, number):
        """Name of the layer with the number that the error register reports."""
        return self.layers[number] if number < len(self.layers) else f"number {number}"

    def _node(self, name):
        if name not in self.nodes:
            raise MvqError(f"the program does not store {name!r}; it stores {', '.join(self.nodes)}")
        return self.nodes[name]

    def _planes(self, memory, place):
        """(place, uint8 (groups, vectors, bytes of a vector in memory) view of ``memory``)."""
        start = place.address - self.base
        vectors = place.tensor.plane_words(self.config) * self.config.word_vectors
        return place, memory[start : start + place.size].reshape(-1, vectors, place.plane_bytes // vectors)


def compile_program(lowered, config, *, base=0, keep=None, progress=None):
    """Plan a network for the accelerator, one image a run.

    Parameters
    ----------
    lowered : :class:`golden.lower.LoweredNetwork` for ``config.array``.
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    base : first byte of the program's memory; a multiple of 64 and of an L1 word.
    keep : "all" stores the result of every layer, to be checked; None only what L1 cannot hold, and the output.
    progress : called with (layers that are planned, all).

    Returns
    -------
    Program

    Raises
    ------
    LoweringError : a layer cannot run; names the layer, the reason, and what would be legal.
    """
    if lowered.config != config.array:
        raise MvqError(f"the network was lowered for {lowered.config.name}, not for the array of this accelerator")
    alignment = max(config.descriptor_bytes, config.word_bytes)
    if base % alignment or keep not in (None, "all"):
        raise MvqError(f"base = {base} must be a multiple of {alignment}, and keep = {keep!r} None or 'all'")
    network = network_layers(lowered, config)
    plan = Planner(network, config, base=base, keep_all=keep == "all").plan(progress)

    graph, shapes = lowered.network.graph, lowered.network.graph.shapes()
    names = [layer.name for layer in network.layers]
    output_start = min(place.address for name, place in plan.stored.items() if name != graph.input.name)
    end = max(place.address + place.size for place in plan.stored.values())
    weights_address = end + -end % alignment
    image = bytearray(plan.weights)
    image.extend(bytes(-len(image) % alignment))
    program_address = weights_address + len(image)
    for operation in plan.operations:
        if operation.opcode == "conv":
            operation.fields["weights_address"] += weights_address
        try:
            image += operation.to_bytes(config)
        except ValueError as error:
            raise LoweringError(names[operation.layer], f"has a descriptor whose {error}", "a smaller layer") from None
    image += descriptor_bytes("end", {"layer": len(names) - 1}, config)
    return Program(
        config=config,
        base=base,
        size=weights_address + len(image) - base,
        program_address=program_address,
        program_length=len(plan.operations) + 1,
        weights_address=weights_address,
        output_window=(output_start, end),
        image=bytes(image),
        operations=plan.operations,
        layers=names,
        plans=plan.layers,
        input=graph.input.name,
        output=graph.output,
        input_layout=network.input_layout,
        stored=plan.stored,
        nodes={
            node: (tensor, shapes[node])
            for node, tensor in network.tensor_of.items()
            if tensor in plan.stored and tensor != graph.input.name and node in shapes
        },
    )
