"""ONNX models give what torch and ONNX's own reference give, and what is not supported is named."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from algo import zoo
from algo.compress import CompressSettings, compress
from algo.frontend import trace
from algo.onnx_import import load_onnx
from algo.sources import load_network
from hdl.config import MvqError
from tests.algo.test_frontend import float_output

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def write(path, nodes, constants=(), shape=("n", 4, 8, 8), opset=13, outputs=("y",), kind=TensorProto.FLOAT):
    """A model of ``nodes`` from "x" to "y"; ``constants``: name -> array."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, ("n",)) for name in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in dict(constants).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def node(op, *inputs, output="y", name="", **attributes):
    return helper.make_node(op, inputs, [output], name=name, **attributes)


def agrees(path, shape=(4, 8, 8)):
    """The imported network and its graph give what ONNX's reference gives; returns the names of its layers."""
    module, found = load_onnx(path)
    assert found == shape
    x = torch.from_numpy(normal(1, *shape))
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": x.numpy()})
    graph, layers = trace(module, shape)
    with torch.no_grad():
        for y in (module(x), float_output(graph, layers, x)):
            assert y.shape == expected.shape
            np.testing.assert_allclose(y.numpy(), expected, rtol=1e-4, atol=1e-4)
    return list(layers)


W, B = normal(8, 4, 3, 3), normal(8)
CONV = {"w": W, "b": B}
NORM = {"g": normal(8), "o": normal(8), "m": normal(8), "v": np.abs(normal(8)) + 0.5}


def one(op, *inputs, **attributes):
    return [node(op, "x", *inputs, **attributes)]


def chain(*operations):
    """Nodes one after the other: (op, further inputs, attributes)."""
    nodes, value = [], "x"
    for number, (op, inputs, attributes) in enumerate(operations, 1):
        output = "y" if number == len(operations) else f"v{number}"
        nodes.append(node(op, value, *inputs, output=output, **attributes))
        value = output
    return nodes


FLAT = ("Flatten", (), {})
INT = np.int64


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        (one("Conv", "w", "b", pads=[1, 1, 1, 1], strides=[2, 1]), CONV),
        (one("Conv", "w", pads=[0, 1, 2, 0]), CONV),
        (one("Conv", "w", auto_pad="SAME_UPPER", strides=[2, 2]), CONV),
        (one("Conv", "w", auto_pad="SAME_LOWER", strides=[2, 2]), CONV),
        (one("Conv", "w", auto_pad="VALID"), CONV),
        (one("Conv", "w", group=4), {"w": normal(8, 1, 3, 3)}),
        (
            chain(("Conv", "w", {}), ("BatchNormalization", "gomv", {"epsilon": 0.1}), ("Relu", (), {})),
            CONV | NORM,
        ),
        (
            chain(("Conv", "wb", {}), ("Clip", ("low", "high"), {})),
            CONV | {"low": np.float32(0), "high": np.float32(6)},
        ),
        (chain(("Conv", "wb", {}), ("Clip", ("low",), {})), CONV | {"low": np.float32(0)}),
        (
            [
                node("Conv", "x", "w", pads=[1, 1, 1, 1], output="c"),
                node("Relu", "c", output="r"),
                node("Add", "r", "c"),
            ],
            CONV,
        ),
        (one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), {}),
        (one("MaxPool", kernel_shape=[2, 2]), {}),
        (one("AveragePool", kernel_shape=[2, 2], strides=[2, 2]), {}),
        (one("AveragePool", kernel_shape=[3, 3], pads=[0, 1, 1, 0], count_include_pad=1), {}),
        (one("GlobalAveragePool"), {}),
        (one("ReduceMean", axes=[2, 3], keepdims=0), {}),
        (one("ReduceMean", axes=[-1, -2], keepdims=1), {}),
        (chain(FLAT, ("Gemm", "wb", {"transB": 1, "alpha": 0.5, "beta": 2.0})), {"w": normal(5, 256), "b": normal(5)}),
        (chain(FLAT, ("Gemm", "w", {})), {"w": normal(256, 5)}),
        (chain(FLAT, ("MatMul", "w", {}), ("Add", "b", {})), {"w": normal(256, 5), "b": normal(5)}),
        (chain(("Reshape", ("s",), {})), {"s": INT([1, -1])}),
        (chain(("Reshape", ("s",), {})), {"s": INT([0, 256])}),
        (chain(("GlobalAveragePool", (), {}), ("Squeeze", ("s",), {})), {"s": INT([2, 3])}),
        (chain(("Pad", ("p",), {}), ("Conv", "w", {})), CONV | {"p": INT([0, 0, 1, 2, 0, 0, 0, 1])}),
        (chain(("Pad", ("p", "z"), {})), {"p": INT([0, 1, 0, 0, 0, 2, 0, 0]), "z": np.float32(0)}),
        (
            chain(("Slice", ("s", "e", "a", "t"), {})),
            {"s": INT([0, 1]), "e": INT([99, 7]), "a": INT([2, 3]), "t": INT([2, 3])},
        ),
        (chain(("Identity", (), {}), ("Dropout", (), {}), ("Relu", (), {})), {}),
        (
            [
                node("Constant", output="w", value=numpy_helper.from_array(W)),
                node("Identity", "w", output="same"),
                node("Conv", "x", "same"),
            ],
            {},
        ),
        (  # x.view(x.size(0), -1) of a model with an open batch
            [
                node("Shape", "x", output="s"),
                node("Gather", "s", "zero", output="n", axis=0),
                node("Unsqueeze", "n", "axes", output="u"),
                node("Concat", "u", "minus", output="t", axis=0),
                node("Reshape", "x", "t"),
            ],
            {"zero": INT(0), "axes": INT([0]), "minus": INT([-1])},
        ),
    ],
)
def test_operations(tmp_path, nodes, constants):
    # not opset 13, whose BatchNormalization onnx.reference takes for a training step
    agrees(write(tmp_path / "m.onnx", nodes, constants, opset=15))


def test_layers_are_called_as_in_torch(tmp_path):
    weights = {"block.0.conv.weight": normal(4, 4, 3, 3), "onnx::Conv_7": W, "training.weight": normal(3, 8)}
    nodes = [
        node("Conv", "x", "block.0.conv.weight", output="a", name="/other"),
        node("Conv", "a", "onnx::Conv_7", output="b", name="/head/head.1/conv/Conv"),
        node("Conv", "a", "onnx::Conv_7", output="c", name="/head/head.1/conv/Conv"),
        node("Add", "b", "c", output="d"),
        node("GlobalAveragePool", "d", output="e"),
        node("Flatten", "e", output="f"),
        node("Gemm", "f", "training.weight", transB=1),
    ]
    path = write(tmp_path / "m.onnx", nodes, weights)
    assert agrees(path) == ["block.0.conv", "head.1.conv", "head.1.conv_2", "training_"]


def export(module, shape, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, *shape),), path, input_names=["x"], dynamo=False, **options)
    return path


PLAIN = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
OPEN = {"dynamic_axes": {"x": {0: "n"}}}


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("options", [{}, PLAIN, OPEN])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: zoo.DigitsNet(residual=True), (1, 8, 8)),
        (zoo.resnet20, (3, 32, 32)),
        (lambda: zoo.ResNet((1, 1, 1, 1), bottleneck=True), (3, 64, 64)),
    ],
)
def test_networks_that_torch_exported(tmp_path, make, shape, options, opset):
    torch.manual_seed(0)
    module = make().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
    path = export(module, shape, tmp_path / "net.onnx", opset_version=opset, **options)
    found, given = load_network(path)
    assert given == shape
    x = torch.randn(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(found(x), module(x), rtol=1e-4, atol=1e-4)
    graph, layers = trace(found, shape)
    expected_graph, expected = trace(module, shape)
    kinds = [
        [(entry.op, entry.activation) for entry in nodes if entry.op in ("conv", "linear", "add", "max_pool")]
        for nodes in (graph.nodes, expected_graph.nodes)
    ]
    assert kinds[0] == kinds[1]
    if options is PLAIN:
        assert list(layers) == list(expected)
        assert all(torch.equal(layers[name].weight, expected[name].weight) for name in layers)


def test_an_exported_network_compresses_as_the_original(tmp_path, digits_module):
    path = export(digits_module, (1, 8, 8), tmp_path / "net.onnx", opset_version=13, **PLAIN)
    module, shape = load_network(path)
    settings = CompressSettings(codewords=16)
    one, two = compress(module, shape, settings), compress(digits_module, shape, settings)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(one(x), two(x), rtol=1e-5, atol=1e-5)


# ---- what is not supported ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        (one("Sigmoid", name="gate"), {}, "Sigmoid at 'gate' is not supported; supported are Conv, BatchNormalization"),
        (one("Sigmoid"), {}, "Sigmoid at 'y'"),
        (one("Conv", "w", dilations=[2, 2]), CONV, r"Conv at 'y' is not supported: dilations = \[2, 2\] must be 1"),
        (one("Conv", "w"), {"w": normal(8, 5, 3, 3)}, "Conv at 'y' is not supported: Given groups=1"),
        (one("Conv", "w"), {"w": np.full_like(W, np.nan)}, "its weight must be finite"),
        (chain(("Relu", (), {}), ("Conv", ("v1",), {})), {}, "its weight is computed"),
        (
            one("Clip", "low", "high"),
            {"low": np.float32(-1), "high": np.float32(1)},
            "-1 to 1 is neither ReLU nor ReLU6",
        ),
        (one("Clip", "low", "high"), {"low": np.float32(0), "high": np.float32(3)}, "0 to 3 is neither"),
        (one("Add", "b"), {"b": normal(1, 4, 1, 1)}, "only be added as the bias of a MatMul"),
        (one("MaxPool", kernel_shape=[3, 3], pads=[0, 0, 1, 1]), {}, "must be the same on opposite sides"),
        (one("ReduceMean", axes=[1]), {}, r"axes = \[1\] are not rows and columns"),
        (chain(FLAT, ("Gemm", "w", {"transA": 1})), {"w": normal(1, 5)}, "transA = 1"),
        (one("Reshape", "s"), {"s": INT([4, 64])}, r"\(1, 4, 8, 8\) to \(4, 64\) is no flattening"),
        (one("Reshape", "s"), {"s": INT([7, -1])}, "Reshape at 'y'.*invalid for input of size"),
        (one("Pad", "p", mode="reflect"), {"p": INT([0, 0, 1, 1, 0, 0, 1, 1])}, "only padding with zeros"),
        (one("Flatten", axis=2), {}, "no flattening"),
        (one("Dropout", "r", "t"), {"r": np.float32(0.5), "t": np.bool_(True)}, "it is in training mode"),
        (one("BatchNormalization", *"gomv", training_mode=1), NORM, "it is in training mode"),
        (one("QuantizeLinear", "s", "z"), {"s": np.float32(1), "z": np.int8(0)}, "QuantizeLinear at 'y'"),
        ([node("Constant", output="y", value_float=1.0)], {}, "its output does not depend on its input"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, nodes, constants, message):
    path = write(tmp_path / "m.onnx", nodes, constants, opset=15)
    with pytest.raises(MvqError, match=message) as caught:
        load_onnx(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_read(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(MvqError, match=r"m.onnx: cannot be read \(No such file"):
        load_onnx(path)
    path.write_bytes(b"garbage")
    with pytest.raises(MvqError, match="is truncated or no ONNX model"):
        load_onnx(path)
    content = write(path, one("Conv", "w"), CONV).read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(MvqError, match="is truncated or no ONNX model"):
        load_onnx(path)
    write(path, one("Relu"), opset=12)
    with pytest.raises(MvqError, match="opset = 12: must be at least 13"):
        load_onnx(path)
    write(path, [node("Relu", "x"), node("Relu", "x", output="z")], outputs=("y", "z"))
    with pytest.raises(MvqError, match="has 1 inputs and 2 outputs, but must have one of each"):
        load_onnx(path)
    write(path, one("Relu"), kind=TensorProto.INT8)
    with pytest.raises(MvqError, match=r"must be float \(N, C, H, W\), not INT8"):
        load_onnx(path)


def test_sizes_that_the_model_leaves_open(tmp_path):
    path = write(tmp_path / "m.onnx", one("Relu"), shape=("n", 3, "h", "w"))
    with pytest.raises(MvqError, match="leaves the size of its images open; give --input"):
        load_onnx(path)
    assert load_onnx(path, (3, 16, 16))[1] == (3, 16, 16)
    with pytest.raises(MvqError, match=r"takes images of \[3, None, None\], not \(4, 16, 16\)"):
        load_onnx(path, (4, 16, 16))
