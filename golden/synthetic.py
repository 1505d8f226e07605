"""Networks of given layer shapes with random weights, and calibrations without images: for cycles and traffic, which
depend on neither."""

import math

import numpy as np

from golden.checkpoint import Checkpoint, Codebook, DenseLayer, MvqLayer
from golden.graph import WEIGHTED, Graph, Node
from golden.network import Calibration
from hdl.config import MvqError

__all__ = ["any_calibration", "random_network"]

#: magnitude of random weights: small enough for the sums of any layer.
_LARGEST_WEIGHT = 16
#: magnitude of the values of a layer without scales.
_SMALLEST_RANGE = 1e-100


def _windowed(layer):
    return {"kernel": list(layer.kernel), "stride": list(layer.stride), "padding": list(layer.padding)}


def _node(layer, network):
    """The graph's node for ``layer``: the last is the network's raw result."""
    if layer.op == "conv":
        last = layer is network.layers[-1]
        channels = {"in_channels": layer.ifmap[0], "out_channels": layer.ofmap[0], "groups": layer.groups}
        return Node(
            layer.name,
            "conv",
            layer.inputs,
            {**channels, **_windowed(layer), "activation": "none" if last else "relu"},
        )
    if layer.op == "add":
        return Node(layer.name, "add", layer.inputs, {"activation": "relu"})
    if layer.op == "pool":
        if tuple(layer.kernel) == tuple(layer.ifmap[1:]):
            return Node(layer.name, "global_avg_pool", layer.inputs, {})
        return Node(layer.name, "max_pool", layer.inputs, _windowed(layer))
    raise MvqError(f"layer {layer.name!r}: {layer.op} cannot be drawn with random weights")


def _affine(channels):
    return {"channel_scale": np.full(channels, 1e-3, np.float32), "channel_bias": np.zeros(channels, np.float32)}


def _masked(rng, shape, name, config):
    """A random layer in the format of ``config``'s codebook path."""
    d = config.vector_length
    count = -(-shape[0] // d) * int(np.prod(shape[1:]))
    values = rng.integers(-_LARGEST_WEIGHT, _LARGEST_WEIGHT + 1, (min(config.codewords, count), d)).astype(np.int8)
    codes, n, m = None, 1, 1
    if config.has_masks:
        n, m = config.n, config.m
        codes = rng.integers(0, math.comb(m, n), (count, d // m)).astype(np.uint32)
    index = rng.integers(0, len(values), count).astype(np.uint32)
    return MvqLayer(
        codebook=Codebook(name, values, np.float32(0.01)),
        index=index,
        mask_codes=codes,
        n=n,
        m=m,
        **_affine(shape[0]),
    )


def random_network(network, config, seed=0):
    """A checkpoint and its calibration.

    Parameters
    ----------
    network : :class:`golden.networks.Network` of convolutions, pools and additions.
    config : :class:`~hdl.config.ArrayConfig`: layers that may be compressed have its format, the others are int8.

    Returns
    -------
    (Checkpoint, Calibration)
    """
    rng = np.random.default_rng(seed)
    nodes = [Node(network.layers[0].inputs[0], "input", (), {"shape": list(network.layers[0].ifmap)})]
    nodes += [_node(layer, network) for layer in network.layers]
    graph = Graph(nodes, nodes[-1].name)
    compressed = {layer.name for layer in network.layers if layer.op == "conv" and layer.compressed}
    layers = {}
    for node in graph.layers:
        shape = node.weight_shape
        if node.name in compressed and config.has_codebook:
            layers[node.name] = _masked(rng, shape, node.name, config)
        else:
            weight = rng.integers(-_LARGEST_WEIGHT, _LARGEST_WEIGHT + 1, shape).astype(np.int8)
            layers[node.name] = DenseLayer(weight=weight, **_affine(shape[0]))
    calibration = Calibration({node.name: 4.0 for node in graph.nodes})
    return Checkpoint(graph, layers, {}, {}), calibration


def any_calibration(checkpoint):
    """A calibration with which the network can be lowered, whatever it computes: no multiplier is above 1."""
    amax = {}
    for node in checkpoint.graph.nodes:
        before = max((amax[name] for name in node.inputs), default=1.0)
        if node.op in WEIGHTED:
            before *= float(np.abs(checkpoint.layers[node.name].channel_scale).max(initial=0.0))
        amax[node.name] = max(before, _SMALLEST_RANGE)
    largest = max(amax.values())  # relu6 would end larger ones
    return Calibration({name: value / largest for name, value in amax.items()})
