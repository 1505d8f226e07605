"""Networks of given layer shapes with random weights, and calibrations without images: for cycles and traffic, which
depend on neither."""

import math

import numpy as np

from golden.checkpoint import Checkpoint, Codebook, DenseLayer, MvqLayer
from golden.graph import WEIGHTED, Graph, Node
from golden.network import Calibration
from hdl.config import MvqError

__all__ = ["any_calibration", "random_checkpoint", "random_network"]

#: magnitude of random weights, where that is small enough for the sums.
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


def _weights(rng, size, inputs, config):
    """int8 weights of a layer that sums ``inputs`` products."""
    largest = min(_LARGEST_WEIGHT, max(1, (1 << config.psum_width - 1) // (128 * inputs)))
    return rng.integers(-largest, largest + 1, size, np.int8)


def _codebook(rng, name, words, inputs, config):
    return Codebook(name, _weights(rng, (words, config.vector_length), inputs, config), np.float32(0.01))


def _masked(rng, shape, name, config, codebook):
    """A random layer in the format of ``config``'s codebook path; with a codebook of its own when None."""
    d = config.vector_length
    inputs = math.prod(shape[1:])
    count = -(-shape[0] // d) * inputs
    codebook = codebook or _codebook(rng, name, min(config.codewords, count), inputs, config)
    codes, n, m = None, 1, 1
    if config.has_masks:
        n, m = config.n, config.m
        codes = rng.integers(0, math.comb(m, n), (count, d // m)).astype(np.uint32)
    index = rng.integers(0, len(codebook.values), count).astype(np.uint32)
    return MvqLayer(
        codebook=codebook,
        index=index,
        mask_codes=codes,
        n=n,
        m=m,
        **_affine(shape[0]),
    )


def random_network(network, config, seed=0, *, shared=False):
    """A checkpoint and its calibration.

    Parameters
    ----------
    network : :class:`golden.networks.Network` of convolutions, pools and additions.
    config : :class:`~hdl.config.ArrayConfig`: layers that may be compressed have its format, the others are int8.
    shared : one codebook for all layers instead of one for each.

    Returns
    -------
    (Checkpoint, Calibration)
    """
    nodes = [Node(network.layers[0].inputs[0], "input", (), {"shape": list(network.layers[0].ifmap)})]
    nodes += [_node(layer, network) for layer in network.layers]
    compressed = {layer.name for layer in network.layers if layer.op == "conv" and layer.compressed}
    return random_checkpoint(Graph(nodes, nodes[-1].name), compressed, config, seed, shared=shared)


def random_checkpoint(graph, compressed, config, seed=0, *, shared=False):
    """The same for a graph.

    Parameters
    ----------
    graph : :class:`golden.graph.Graph`. ``compressed`` : names of the layers that may be compressed.
    config, seed, shared : as for :func:`random_network`.

    Returns
    -------
    (Checkpoint, Calibration)
    """
    rng, layers = np.random.default_rng(seed), {}
    inputs = max((math.prod(node.weight_shape[1:]) for node in graph.layers), default=1)
    shared = shared and config.has_codebook
    codebook = _codebook(rng, "shared", config.codewords, inputs, config) if shared else None
    for node in graph.layers:
        shape = node.weight_shape
        if node.name in compressed and config.has_codebook:
            layers[node.name] = _masked(rng, shape, node.name, config, codebook)
        else:
            weight = _weights(rng, shape, math.prod(shape[1:]), config)
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
