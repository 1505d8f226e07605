"""Networks as layer shapes: the paper's five, graphs of checkpoints, and users' files."""

import json

import pytest

from golden.checkpoint import CheckpointError
from golden.networks import IMAGE, NETWORKS, NetworkError, from_graph, load_network, read_network


@pytest.mark.parametrize(
    ("name", "layers", "millions_of_macs", "weights"),
    [  # multiplications and weights without biases and BN, of the papers' and torchvision's models
        ("resnet18", 31, 1814.1, 11_678_912),
        ("resnet50", 72, 4089.2, 25_502_912),
        ("vgg16", 21, 15470.3, 138_344_128),
        ("mobilenet_v1", 29, 568.7, 4_209_088),
        ("alexnet", 11, 714.2, 61_090_496),
    ],
)
def test_the_papers_networks(name, layers, millions_of_macs, weights):
    network = NETWORKS[name]()
    assert len(network.layers) == layers
    assert network.macs / 1e6 == pytest.approx(millions_of_macs, abs=0.1)
    assert network.weights == weights
    shapes = {IMAGE: (3, 224, 224)}
    for layer in network.layers:
        assert all(shapes[source] == layer.ifmap for source in layer.inputs)
        shapes[layer.name] = layer.ofmap
    assert layer.ofmap == (1000, 1, 1)
    assert layer.raw


def test_what_stays_dense():
    """First convolution, depthwise convolutions, last classifier: as algo.compress chooses."""
    dense = {layer.name for layer in NETWORKS["mobilenet_v1"]().layers if layer.op == "conv" and not layer.compressed}
    assert dense == {"conv1", "fc", *(f"dw{number}" for number in range(1, 14))}


def test_resnet_sizes():
    by_name = {layer.name: layer for layer in NETWORKS["resnet50"]().layers}
    assert by_name["layer3.0.conv2"].ifmap == (256, 28, 28)
    assert by_name["layer3.0.conv2"].stride == (2, 2)
    assert by_name["layer3.0.downsample"].ofmap == (1024, 14, 14)
    assert by_name["layer3.0.add"].inputs == ("layer3.0.conv3", "layer3.0.downsample")


def test_graph(networks):
    network = from_graph(networks.graph(), {"conv2", "point"})
    by_name = {layer.name: layer for layer in network.layers}
    assert by_name["conv1"].inputs == (IMAGE,)
    assert "flat" not in by_name
    assert by_name["fc"].inputs == ("mean",)
    assert by_name["fc"].raw
    assert by_name["mean"].kernel == by_name["avg"].ofmap[1:]
    assert by_name["depthwise"].depthwise
    assert {layer.name for layer in network.layers if layer.compressed} == {"conv2", "point"}
    assert {layer.name for layer in network.layers if layer.op == "move"} == {"crop", "widen", "late"}


def test_padding_before_a_convolution_is_the_convolutions(networks):
    from golden.graph import Graph, Node

    graph = Graph(
        [
            Node("image", "input", (), {"shape": [3, 8, 8]}),
            Node("pad", "pad", ("image",), {"channels": [0, 0], "spatial": [0, 1, 0, 1]}),
            networks.conv("conv", "pad", (3, 8), stride=2, padding=0),
        ],
        "conv",
    )
    [layer] = from_graph(graph, set()).layers
    assert (layer.inputs, layer.ifmap, layer.ofmap, layer.padding) == ((IMAGE,), (3, 8, 8), (8, 4, 4), (0, 1, 0, 1))


def test_checkpoint(networks, tmp_path):
    networks.checkpoint().save(tmp_path / "net")
    assert load_network(tmp_path / "net") == from_graph(networks.graph(), {"conv2", "point"}, "net")


TOML = """
name = "mine"
image = [3, 32, 32]

[[layers]]
name = "conv1"
out_channels = 32
kernel = 3
padding = 1

[[layers]]
name = "conv2"
out_channels = 32
kernel = [3, 5]
padding = [1, 2]

[[layers]]
name = "sum"
op = "add"
inputs = ["conv1", "conv2"]

[[layers]]
name = "pool"
op = "max_pool"
kernel = 2
stride = 2

[[layers]]
name = "depthwise"
out_channels = 32
kernel = 3
padding = [0, 1, 0, 1]
stride = 2
groups = 32

[[layers]]
name = "mean"
op = "global_avg_pool"

[[layers]]
name = "fc"
op = "linear"
out_channels = 10
"""


def test_toml(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    network = load_network(path)
    assert network.name == "mine"
    shapes = {layer.name: layer.ofmap for layer in network.layers}
    assert shapes["sum"] == (32, 32, 32)
    assert shapes["pool"] == (32, 16, 16)
    assert shapes["depthwise"] == (32, 8, 8)
    assert shapes["fc"] == (10, 1, 1)
    assert [layer.name for layer in network.layers if layer.compressed] == ["conv2"]


def test_json_list_of_layers_by_themselves(tmp_path):
    path = tmp_path / "layers.json"
    layers = [{"name": name, "input": [64, 14, 14], "out_channels": 128, "kernel": 3, "padding": 1} for name in "ab"]
    path.write_text(json.dumps([*layers, {"name": "c", "out_channels": 16, "compressed": False}]))
    first, second, third = read_network(path).layers
    assert (first.inputs, second.inputs, third.inputs) == (("a.input",), ("b.input",), ("b",))
    assert (first.compressed, second.compressed, third.compressed) == (False, True, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": 0}, "layers.1.kernel = 0: input should be greater than or equal to 1"),
        ({"kernle": 3}, "layers.1.kernle = 3: extra inputs are not permitted"),
        ({"op": "deconv"}, "layers.1.op = 'deconv': input should be 'conv'"),
        ({"out_channels": None}, "layer 'two': conv needs 'out_channels'"),
        ({"op": "max_pool", "out_channels": None}, "layer 'two': max_pool needs 'kernel'"),
        ({"op": "linear", "stride": 2}, "layer 'two': linear has no 'stride'"),
        ({"kernel": 9}, "layer 'two': kernel of 9 rows exceeds the padded input of 8"),
        ({"groups": 3}, "layer 'two': 4 input channels must be a multiple of groups = 3"),
        ({"inputs": ["three"]}, "layer 'two' reads 'three', which is neither the image nor a layer before it"),
        ({"inputs": ["one", "one"]}, "layer 'two': conv reads 1 tensors, not 2"),
        ({"inputs": ["one"], "input": [1, 1, 1]}, "layer 'two': give either 'input' (a shape) or 'inputs' (names)"),
        ({"name": "one"}, "layer 'one' appears twice"),
        ({"op": "add", "inputs": ["one", "image"], "out_channels": None}, "adds the shapes (4, 8, 8) and (3, 8, 8)"),
    ],
)
def test_bad_layers_are_one_sentence(tmp_path, change, message):
    path = tmp_path / "net.json"
    entry = {key: value for key, value in {"name": "two", "out_channels": 4, **change}.items() if value is not None}
    path.write_text(json.dumps({"image": [3, 8, 8], "layers": [{"name": "one", "out_channels": 4}, entry]}))
    with pytest.raises(NetworkError) as error:
        read_network(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("net.json", "{", "is not valid JSON"),
        ("net.toml", "x", "is not valid TOML"),
        ("net.json", "{}", "layers: field required"),
        ("net.json", '{"layers": []}', "layers = []: list should have at least 1 item"),
        ("net.json", '[{"name": "a", "out_channels": 1}]', "give the shape of its 'input', or that of the 'image'"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(NetworkError, match=r"^.*: ") as error:
        load_network(path)
    assert message in str(error.value)


def test_no_such_network(tmp_path):
    with pytest.raises(NetworkError, match=r"network = 'resnet19': must be one of resnet18, .* or the folder"):
        load_network("resnet19")
    with pytest.raises(NetworkError, match=r"nothing\.toml: cannot be read"):
        load_network(tmp_path / "nothing.toml")
    with pytest.raises(CheckpointError):
        load_network(tmp_path)
