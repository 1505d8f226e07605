"""A small network that has every operation, with random weights."""

from types import SimpleNamespace

import numpy as np
import pytest

from golden.checkpoint import Checkpoint, Codebook, DenseLayer, MvqLayer
from golden.graph import Graph, Node
from golden.masks import encode_masks


def conv(name, source, channels, kernel=3, stride=1, padding=1, groups=1, activation="relu"):
    return Node(
        name,
        "conv",
        (source,),
        {
            "in_channels": channels[0],
            "out_channels": channels[1],
            "kernel": [kernel] * 2,
            "stride": [stride] * 2,
            "padding": [padding] * 4,
            "groups": groups,
            "activation": activation,
        },
    )


def graph():
    """Convolutions (dense, compressed, with padded channels, depthwise), a padded and sliced shortcut, every pool, a
    classifier."""
    pool = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0, 0, 0]}
    return Graph(
        [
            Node("image", "input", (), {"shape": [3, 10, 8]}),
            conv("conv1", "image", (3, 8)),
            Node("max", "max_pool", ("conv1",), {**pool, "kernel": [3, 3], "padding": [1, 1, 1, 1]}),
            conv("conv2", "max", (8, 20), stride=2, activation="none"),
            Node("crop", "slice", ("max",), {"channels": [0, 8, 1], "rows": [0, 5, 2], "columns": [0, 4, 2]}),
            Node("widen", "pad", ("crop",), {"channels": [4, 8], "spatial": [0, 0, 0, 0]}),
            Node("sum", "add", ("conv2", "widen"), {"activation": "relu"}),
            conv("depthwise", "sum", (20, 20), groups=20, activation="relu6"),
            conv("point", "depthwise", (20, 16), kernel=1, padding=0, activation="none"),
            Node("late", "activation", ("point",), {"kind": "relu"}),
            Node("avg", "avg_pool", ("late",), {**pool, "stride": [1, 1]}),
            Node("mean", "global_avg_pool", ("avg",), {}),
            Node("flat", "flatten", ("mean",), {}),
            Node("fc", "linear", ("flat",), {"in_features": 16, "out_features": 10, "activation": "none"}),
        ],
        "fc",
    )


def affine(rng, channels):
    scale, bias = rng.uniform(0.0005, 0.004, channels), rng.normal(0, 0.2, channels)
    return {"channel_scale": scale.astype(np.float32), "channel_bias": bias.astype(np.float32)}


def mvq_layer(rng, shape, name, d=16, n=4, m=16, k=32, codebook=None):
    count = -(-shape[0] // d) * int(np.prod(shape[1:]))
    codebook = codebook or Codebook(name, rng.integers(-128, 128, (k, d)).astype(np.int8), np.float32(0.01))
    masks = np.argsort(rng.random((count, d // m, m)), axis=-1) < n
    return MvqLayer(
        codebook=codebook,
        index=rng.integers(0, codebook.codewords, count).astype(np.uint32),
        mask_codes=None if n == m else encode_masks(masks, n),
        n=n,
        m=m,
        **affine(rng, shape[0]),
    )


def checkpoint(seed=0):
    """conv2 with 12 padded channels of 16, point and conv2 on one shared codebook, the rest dense."""
    rng = np.random.default_rng(seed)
    net, layers, shared = graph(), {}, None
    for node in net.layers:
        if node.name in ("conv2", "point"):
            layers[node.name] = mvq_layer(rng, node.weight_shape, "shared", codebook=shared)
            shared = layers[node.name].codebook
        else:
            weight = rng.integers(-127, 128, node.weight_shape).astype(np.int8)
            layers[node.name] = DenseLayer(weight=weight, **affine(rng, node.weight_shape[0]))
    return Checkpoint(net, layers, {"seed": seed, "n": np.int64(4)}, {"sse": {"conv2": np.float32(0.5)}})


@pytest.fixture
def networks():
    """``checkpoint(seed)``, ``graph()``, ``mvq_layer(rng, shape, name, ...)`` and ``conv(...)`` of this file."""
    return SimpleNamespace(checkpoint=checkpoint, graph=graph, mvq_layer=mvq_layer, conv=conv, affine=affine)
