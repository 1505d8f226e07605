import json

import numpy as np
import pytest

from golden.graph import Graph, GraphError, Node

CONV = {
    "in_channels": 4,
    "out_channels": 8,
    "kernel": [3, 3],
    "stride": [2, 1],
    "padding": [1, 1, 0, 2],
    "groups": 2,
    "activation": "relu",
}


def graph(*nodes, shape=(4, 8, 6)):
    return Graph([Node("x", "input", (), {"shape": shape}), *nodes], nodes[-1].name)


def test_shapes_of_every_operation():
    window = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}
    net = graph(
        Node("conv", "conv", ("x",), CONV),
        Node("relu", "activation", ("conv",), {"kind": "relu6"}),
        Node("add", "add", ("conv", "relu"), {"activation": "none"}),
        Node("pad", "pad", ("add",), {"channels": [1, 2], "spatial": [1, 0, 0, 2]}),
        Node("slice", "slice", ("pad",), {"channels": [2, 10, 3], "rows": [0, 5, 1], "columns": [1, 8, 2]}),
        Node("max", "max_pool", ("pad",), {**window, "padding": (1, 1, 0, 0)}),
        Node("avg", "avg_pool", ("max",), window),
        Node("global", "global_avg_pool", ("avg",)),
        Node("flat", "flatten", ("global",)),
        Node("fc", "linear", ("flat",), {"in_features": 11, "out_features": 10, "activation": "none"}),
    )
    assert net.shapes() == {
        "x": (4, 8, 6),
        "conv": (8, 4, 6),
        "relu": (8, 4, 6),
        "add": (8, 4, 6),
        "pad": (11, 5, 8),
        "slice": (3, 5, 4),
        "max": (11, 3, 4),
        "avg": (11, 1, 2),
        "global": (11, 1, 1),
        "flat": (11,),
        "fc": (10,),
    }
    assert [node.name for node in net.layers] == ["conv", "fc"]
    assert net["conv"].weight_shape == (8, 2, 3, 3)
    assert net["fc"].weight_shape == (10, 11)
    assert [node.name for node in net.users("pad")] == ["slice", "max"]


def test_json_round_trip_and_canonical_attributes():
    net = graph(Node("conv", "conv", ["x"], {**CONV, "kernel": (np.int64(3), 3), "groups": np.int32(2)}))
    assert Graph.from_dict(json.loads(json.dumps(net.to_dict()))) == net
    assert net["conv"].attrs == CONV


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 6}, "node 'c': in_channels = 6, but its input has 4 channels"),
        ({"out_channels": 7}, "node 'c': out_channels = 7 must be a multiple of groups = 2"),
        ({"kernel": [11, 3]}, "kernel of 11 rows exceeds the padded input of 10"),
        ({"kernel": [3]}, r"kernel = \[3\] must be 2 integers of at least 1"),
        ({"stride": [0, 1]}, r"stride = \[0, 1\] must be 2 integers of at least 1"),
        ({"padding": [0, 0, -1, 0]}, "must be 4 integers of at least 0"),
        ({"activation": "gelu"}, "activation = 'gelu' must be 'none' or 'relu' or 'relu6'"),
        ({"groups": True}, "groups = True must be an integer"),
        ({"dilation": [2, 2]}, "node 'c': conv has no attribute 'dilation'"),
    ],
)
def test_illegal_convolutions(change, message):
    with pytest.raises(GraphError, match=message):
        graph(Node("c", "conv", ("x",), {**CONV, **change}))


def test_illegal_nodes():
    with pytest.raises(GraphError, match="unknown operation 'lstm'; the operations are input, conv"):
        Node("a", "lstm", ("x",))
    with pytest.raises(GraphError, match="node 'a': add has 2 inputs, not 1"):
        Node("a", "add", ("x",), {"activation": "none"})
    with pytest.raises(GraphError, match="conv needs the attribute 'activation'"):
        Node("a", "conv", ("x",), {key: value for key, value in CONV.items() if key != "activation"})
    with pytest.raises(GraphError, match="avg_pool cannot pad"):
        graph(Node("a", "avg_pool", ("x",), {"kernel": [2, 2], "stride": [2, 2], "padding": [1, 1, 1, 1]}))
    with pytest.raises(GraphError, match="must be below the kernel"):
        graph(Node("a", "max_pool", ("x",), {"kernel": [2, 2], "stride": [2, 2], "padding": [2, 0, 0, 0]}))
    with pytest.raises(GraphError, match=r"rows = \[3, 9, 1\] must be \[start, stop, step\], start < stop <= 8"):
        graph(Node("a", "slice", ("x",), {"channels": [0, 4, 1], "rows": [3, 9, 1], "columns": [0, 6, 1]}))
    with pytest.raises(GraphError, match="in_features = 5, but its input has the shape"):
        graph(Node("a", "linear", ("x",), {"in_features": 5, "out_features": 1, "activation": "none"}))


def test_illegal_graphs():
    image, flat = Node("x", "input", (), {"shape": [1, 2, 2]}), Node("f", "flatten", ("x",))
    with pytest.raises(GraphError, match="exactly one input node, as its first"):
        Graph([], "x")
    with pytest.raises(GraphError, match="exactly one input node, as its first"):
        Graph([image, Node("y", "input", (), {"shape": [1, 2, 2]})], "x")
    with pytest.raises(GraphError, match="'f' appears twice"):
        Graph([image, flat, flat], "f")
    with pytest.raises(GraphError, match="'f' reads 'g', which no node before it"):
        Graph([image, Node("f", "flatten", ("g",))], "f")
    with pytest.raises(GraphError, match="the output 'g' is not a node"):
        Graph([image, flat], "g")
    with pytest.raises(GraphError, match="the output 'x' is also read by 'f'"):
        Graph([image, flat], "x")
    with pytest.raises(GraphError, match=r"adds the shapes \(1, 2, 2\) and \(4,\)"):
        Graph([image, flat, Node("a", "add", ("x", "f"), {"activation": "none"})], "a")
    with pytest.raises(GraphError, match="flatten needs an input"):
        Graph([image, flat, Node("g", "flatten", ("f",))], "g")
    with pytest.raises(GraphError, match="a graph needs nodes and output"):
        Graph.from_dict({"nodes": []})
