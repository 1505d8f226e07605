import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from golden.checkpoint import Checkpoint, DenseLayer
from golden.graph import Graph, Node
from golden.network import Calibration, CalibrationError, quantise
from hdl.config import MvqError


def windows(x, node, fill=0.0):
    """(N, C, H', W', kh, kw)."""
    top, bottom, left, right = node.attrs["padding"]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    rows, columns = node.attrs["stride"]
    return sliding_window_view(x, node.attrs["kernel"], axis=(2, 3))[:, :, ::rows, ::columns]


def real_run(checkpoint, images):
    """The network in float64, written as directly as possible."""
    values = {}
    for node in checkpoint.graph.nodes:
        x, attrs = [values[name] for name in node.inputs], node.attrs
        if node.op == "input":
            y = images
        elif node.op == "conv":
            weight, groups = checkpoint.weights(node.name).astype(float), attrs["groups"]
            x = windows(x[0], node)
            x = x.reshape(len(x), groups, -1, *x.shape[2:])
            weight = weight.reshape(groups, -1, *weight.shape[1:])
            y = np.einsum("ngchwyx,gkcyx->ngkhw", x, weight)
            y = y.reshape(len(y), -1, *y.shape[3:])
        elif node.op == "linear":
            y = x[0] @ checkpoint.weights(node.name).T.astype(float)
        elif node.op == "add":
            y = x[0] + x[1]
        elif node.op == "max_pool":
            y = windows(x[0], node, -np.inf).max(axis=(4, 5))
        elif node.op == "avg_pool":
            y = windows(x[0], node).mean(axis=(4, 5))
        elif node.op == "global_avg_pool":
            y = x[0].mean(axis=(2, 3), keepdims=True)
        elif node.op == "flatten":
            y = x[0].reshape(len(x[0]), -1)
        elif node.op == "pad":
            (front, back), (top, bottom, left, right) = attrs["channels"], attrs["spatial"]
            y = np.pad(x[0], ((0, 0), (front, back), (top, bottom), (left, right)))
        elif node.op == "slice":
            y = x[0][:, slice(*attrs["channels"]), slice(*attrs["rows"]), slice(*attrs["columns"])]
        else:
            y = x[0]
        if node.op in ("conv", "linear"):
            layer, shape = checkpoint.layers[node.name], (-1, *[1] * (y.ndim - 2))
            y = y * layer.channel_scale.reshape(shape) + layer.channel_bias.reshape(shape)
        if node.activation != "none":
            y = np.clip(y, 0, 6 if node.activation == "relu6" else None)
        values[node.name] = y
    return values


@pytest.fixture
def calibrated(networks):
    checkpoint = networks.checkpoint()
    images = np.random.default_rng(1).normal(0, 1, (16, 3, 10, 8))
    real = real_run(checkpoint, images)
    calibration = Calibration({name: np.abs(value).max() for name, value in real.items()})
    return checkpoint, calibration, images, real


def test_whole_network_follows_the_real_one(calibrated):
    checkpoint, calibration, images, real = calibrated
    network = quantise(checkpoint, calibration)
    values = network.run(network.quantise_input(images))
    assert set(values) == set(real)
    for name, value in values.items():
        assert value.shape == real[name].shape
        assert value.dtype == (np.int32 if name == "fc" else np.int8)
        if name != "fc":
            error = np.abs(value * network.scales[name] - real[name]).mean() / np.abs(real[name]).mean()
            assert error < 0.05, name
            low, high = network.ranges[name]
            assert low <= value.min() <= value.max() <= high
    logits = network.logits(values["fc"])
    assert np.corrcoef(logits.ravel(), real["fc"].ravel())[0, 1] > 0.99
    assert network.ranges["mean"] == (0, 127)
    assert network.ranges["image"] == (-128, 127)


def test_nodes_evaluate_alone_as_in_the_whole(calibrated):
    checkpoint, calibration, images, _ = calibrated
    network = quantise(checkpoint, calibration)
    values = network.run(network.quantise_input(images))
    for node in checkpoint.graph.nodes[1:]:
        alone = network.evaluate(node.name, *(values[name] for name in node.inputs))
        assert (alone == values[node.name]).all()
    only = network.run(network.quantise_input(images), keep=False)
    assert list(only) == ["fc"]
    assert (only["fc"] == values["fc"]).all()
    assert (network.psum("fc", values["flat"]) == values["fc"]).all()
    psum = network.psum("conv2", values["max"])
    assert (network.layers["conv2"].requantisation.apply(psum) == values["conv2"]).all()
    assert network.layers["fc"].raw
    assert not network.layers["conv2"].raw


def one_layer(weight, activation, input_activation="none"):
    """image -> 1x1 convolution by one -> linear with ``weight``."""
    affine = {"channel_scale": np.ones(1, np.float32), "channel_bias": np.zeros(1, np.float32)}
    features = weight.shape[1]
    conv = {"in_channels": 1, "out_channels": 1, "kernel": [1, 1], "stride": [1, 1], "padding": [0] * 4, "groups": 1}
    linear = {"in_features": features, "out_features": len(weight), "activation": activation}
    graph = Graph(
        [
            Node("x", "input", (), {"shape": [1, 1, features]}),
            Node("one", "conv", ("x",), {**conv, "activation": input_activation}),
            Node("flat", "flatten", ("one",)),
            Node("fc", "linear", ("flat",), linear),
        ],
        "fc",
    )
    layers = {
        "one": DenseLayer(weight=np.ones((1, 1, 1, 1), np.int8), **affine),
        "fc": DenseLayer(
            weight=weight,
            channel_scale=np.full(len(weight), 0.5, np.float32),
            channel_bias=np.ones(len(weight), np.float32),
        ),
    }
    return quantise(Checkpoint(graph, layers), Calibration({"x": 127.0, "one": 127.0}))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from(["none", "relu"]))
def test_psum_bound_holds_in_any_order_and_is_reached(seed, features, activation):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-128, 128, (3, features)).astype(np.int8)
    network = one_layer(weight, "none", activation)
    low, high = network.psum_bound("fc")
    least = 0 if activation == "relu" else -128
    order = rng.permutation(features)
    x = rng.integers(least, 128, (50, features))
    partial = np.cumsum(x[:, None, order] * weight[None][..., order].astype(int), axis=-1)
    assert low <= partial.min() <= partial.max() <= high
    best = np.where(weight > 0, 127, least).astype(np.int8)  # by channel, the input with the largest sum
    worst = np.where(weight > 0, least, 127).astype(np.int8)
    assert network.psum("fc", best).max() == high
    assert network.psum("fc", worst).min() == low


def test_logits_carry_scale_bias_and_activation():
    weight = np.array([[1], [-1]], np.int8)
    psum = np.array([[10, -10]])
    assert one_layer(weight, "none").logits(psum).tolist() == [[6.0, -4.0]]
    assert one_layer(weight, "relu").logits(psum).tolist() == [[6.0, 0.0]]


def test_output_that_is_no_layer(networks):
    net = Graph(
        [
            Node("x", "input", (), {"shape": [2, 4, 4]}),
            networks.conv("c", "x", (2, 3)),
            Node("mean", "global_avg_pool", ("c",)),
        ],
        "mean",
    )
    rng = np.random.default_rng(0)
    layer = DenseLayer(weight=rng.integers(-9, 9, (3, 2, 3, 3)).astype(np.int8), **networks.affine(rng, 3))
    network = quantise(Checkpoint(net, {"c": layer}), Calibration({"x": 1, "c": 1, "mean": 1}))
    output = network.run(np.ones((1, 2, 4, 4), np.int8))["mean"]
    assert output.dtype == np.int8
    assert (network.logits(output) == output / 127).all()


def test_ranges_stay_positive_only_where_every_input_is(networks):
    net = Graph(
        [
            Node("x", "input", (), {"shape": [1, 2, 2]}),
            Node("relu", "activation", ("x",), {"kind": "relu"}),
            Node("both", "add", ("relu", "relu"), {"activation": "none"}),
            Node("mixed", "add", ("both", "x"), {"activation": "none"}),
        ],
        "mixed",
    )
    network = quantise(Checkpoint(net, {}), Calibration(dict.fromkeys(("x", "relu", "both", "mixed"), 1.0)))
    assert network.ranges == {"x": (-128, 127), "relu": (0, 127), "both": (0, 127), "mixed": (-128, 127)}


def test_scales():
    calibration = Calibration({"a": 12.7, "b": 0.0})
    relu6 = Node("a", "activation", ("x",), {"kind": "relu6"})
    relu = Node("a", "activation", ("x",), {"kind": "relu"})
    assert calibration.scale(relu) == pytest.approx(0.1)
    assert calibration.scale(relu6) == 6 / 127
    assert calibration.scale(Node("b", "flatten", ("x",))) == 1 / 127


def test_calibration_files(tmp_path):
    path = tmp_path / "calibration.json"
    Calibration({"a": 0.1, "b": np.float32(3)}).save(path)
    assert Calibration.load(path) == Calibration({"a": 0.1, "b": 3.0})
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]
    for content, message in (
        (path.read_text()[:30], "is truncated or no JSON"),
        ("[]", "is no calibration"),
        (path.read_text().replace(": 1", ": 2"), "format_version = 2, but only 1 can be read"),
        (path.read_text().replace("3.0", "NaN"), "calibration of 'b' is nan"),
        (path.read_text().replace("3.0", "[]"), "amax must hold a number"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(CalibrationError, match=f"bad.json: .*{message}"):
            Calibration.load(tmp_path / "bad.json")
    with pytest.raises(CalibrationError, match=r"cannot be read .No such file"):
        Calibration.load(tmp_path / "none.json")
    with pytest.raises(CalibrationError, match="cannot be written"):
        Calibration({}).save(tmp_path / "none" / "c.json")


def test_bad_input(calibrated):
    checkpoint, calibration, images, _ = calibrated
    with pytest.raises(CalibrationError, match="the calibration has no node 'sum'"):
        quantise(checkpoint, Calibration({name: value for name, value in calibration.amax.items() if name != "sum"}))
    with pytest.raises(MvqError, match=r"node 'sum': channel 0 multiplies its sum by .* must be below 7.98"):
        quantise(checkpoint, Calibration({**calibration.amax, "sum": 1e-3}))
    network = quantise(checkpoint, calibration)
    with pytest.raises(MvqError, match=r"images must have the shape \(N, 3, 10, 8\)"):
        network.quantise_input(images[:, :2])
    with pytest.raises(MvqError, match="images hold NaN"):
        network.quantise_input(np.full((1, 3, 10, 8), np.nan))
    with pytest.raises(MvqError, match="the input must be int8"):
        network.run(images)
    with pytest.raises(MvqError, match="'max' is no layer with weights; these are conv1, conv2"):
        network.psum_bound("max")
    with pytest.raises(MvqError, match=r"layer 'fc': its sums reach .*, beyond 32 bits"):
        one_layer(np.full((1, 140_000), 127, np.int8), "none")
