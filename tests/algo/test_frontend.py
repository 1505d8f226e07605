import pytest
import torch
import torch.nn.functional as F
from torch import nn

from algo import zoo
from algo.execute import convolve, evaluate
from algo.frontend import UnsupportedLayerError, survey, trace
from hdl.config import MvqError


class Wrap(nn.Module):
    """A network from a function and the layers that it uses."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def float_output(graph, layers, x):
    def layer(node, x):
        parts = layers[node.name]
        y = convolve(x, parts.weight, node)
        shape = (1, -1, 1, 1) if node.op == "conv" else (1, -1)
        if parts.bias is not None:
            y = y + parts.bias.view(shape)
        if parts.bn is not None:
            bn = parts.bn
            y = F.batch_norm(y, bn.mean, bn.variance, bn.weight, bn.bias, False, 0.0, bn.epsilon)
        return y

    return evaluate(graph, x, layer)


def check(module, shape, tolerance=1e-5):
    """Trace ``module``, and see that the graph computes what it does."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.track_running_stats:
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 2)
                nn.init.uniform_(part.bias, -0.5, 0.5)
    return agree(module, shape, tolerance)


@torch.no_grad()
def agree(module, shape, tolerance):
    graph, layers = trace(module, shape)
    module.eval()
    x = torch.randn(3, *shape)
    expected = module(x)
    found = float_output(graph, layers, x)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))
    return graph, layers


def ops(graph):
    return [node.op for node in graph.nodes]


def test_digits_network():
    graph, layers = check(zoo.DigitsNet(residual=True), (1, 8, 8))
    assert ops(graph) == [
        "input",
        "conv",
        "conv",
        "max_pool",
        "conv",
        "conv",
        "add",
        "global_avg_pool",
        "flatten",
        "linear",
    ]
    assert list(layers) == ["conv1", "conv2", "conv3", "conv4", "fc"]
    assert [node.activation for node in graph.nodes] == [
        "none",
        *["relu"] * 2,
        "none",
        "relu",
        "none",
        "relu",
        *["none"] * 3,
    ]
    assert layers["conv1"].bn is not None
    assert layers["fc"].bn is None


def test_resnet20_shortcuts_are_slices_and_pads():
    graph, layers = check(zoo.resnet20(), (3, 32, 32))
    assert len(layers) == 20
    assert ops(graph).count("add") == 9
    slices = [node for node in graph.nodes if node.op == "slice"]
    assert [node.attrs["rows"] for node in slices] == [[0, 32, 2], [0, 16, 2]]
    pads = [node for node in graph.nodes if node.op == "pad"]
    assert [node.attrs["channels"] for node in pads] == [[8, 8], [16, 16]]
    assert "activation" not in ops(graph)
    assert ops(graph)[-3:] == ["global_avg_pool", "flatten", "linear"]


def test_resnet20_with_real_weights(resnet20):
    agree(resnet20, (3, 32, 32), 1e-4)


def test_efficientnet_lite0(efficientnet_lite0):
    graph, layers = agree(efficientnet_lite0, (3, 224, 224), 1e-4)
    assert set(ops(graph)) == {"input", "conv", "add", "global_avg_pool", "flatten", "linear"}
    assert graph["_conv_stem"].attrs["padding"] == [0, 1, 0, 1]  # "same" for a stride of 2
    assert all(layers[node.name].bn is not None for node in graph.nodes if node.op == "conv")
    assert {node.activation for node in graph.nodes} == {"none", "relu6"}
    assert sum(node.attrs["groups"] > 1 for node in graph.nodes if node.op == "conv") == 16


CONV = {"conv": nn.Conv2d(4, 8, 3, padding=1)}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(4, 8, 3), "conv"),
        (nn.Sequential(nn.Conv2d(4, 8, 3, padding="same"), nn.BatchNorm2d(8, affine=False), nn.ReLU6()), "conv"),
        (nn.Sequential(nn.Conv2d(4, 8, (3, 1), (2, 1), (1, 0), groups=2), nn.Identity(), nn.Dropout(0.5)), "conv"),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3)), "activation conv"),
        (nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.ReLU6()), "conv activation"),
        (nn.Sequential(nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(4, 8, 3, padding=1)), "conv"),
        (nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2)), "pad max_pool"),
        (nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1)), "max_pool avg_pool"),
        (nn.AvgPool2d(3, 2, 1), "pad avg_pool"),
        (nn.AdaptiveAvgPool2d((4, 2)), "avg_pool"),
        (nn.AdaptiveAvgPool2d(1), "global_avg_pool"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(256, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)),
            "flatten linear linear",
        ),
        (Wrap(lambda self, x: torch.clamp(self.conv(x), 0, 6), **CONV), "conv"),
        (Wrap(lambda self, x: self.conv(x).clamp(min=0), **CONV), "conv"),
        (Wrap(lambda self, x: F.hardtanh(self.conv(x), 0.0, 6.0), **CONV), "conv"),
        (Wrap(lambda self, x: self.conv(F.pad(x, (1, 0, 0, 1))).relu(), **CONV), "conv"),
        (Wrap(lambda self, x: F.pad(self.conv(x), (0, 0, 0, 0, 1, 2)), **CONV), "conv pad"),
        (Wrap(lambda self, x: self.conv(x)[:, 1:7:2, ..., :-1], **CONV), "conv slice"),
        (Wrap(lambda self, x: F.conv2d(x, self.conv.weight, self.conv.bias, 2, padding=1), **CONV), "conv"),
        (Wrap(lambda self, x: self.conv(x).mean((2, 3)), **CONV), "conv global_avg_pool flatten"),
        (Wrap(lambda self, x: torch.mean(self.conv(x), [-1, -2], keepdim=True), **CONV), "conv global_avg_pool"),
        (Wrap(lambda self, x: self.conv(x).view(x.size(0), -1), **CONV), "conv flatten"),
        (Wrap(lambda self, x: self.conv(x).reshape(x.shape[0], -1) if x.shape[1] == 4 else x, **CONV), "conv flatten"),
        (Wrap(lambda self, x: F.max_pool2d(self.conv(x), 2, stride=1), **CONV), "conv max_pool"),
        (Wrap(lambda self, x: F.avg_pool2d(self.conv(x), x.shape[2:]), **CONV), "conv global_avg_pool"),
        (Wrap(lambda self, x: F.relu_(torch.add(y := self.conv(x), F.relu(y))), **CONV), "conv activation add"),
        (Wrap(lambda self, x: (self.conv(x), self.conv2(x))[1], **CONV, conv2=nn.Conv2d(4, 2, 1)), "conv"),
    ],
)
def test_operations(module, expected):
    graph, layers = check(module, (4, 8, 8))
    assert ops(graph)[1:] == expected.split()
    assert list(layers) == [node.name for node in graph.layers]


def test_padding_that_two_convolutions_read_stays():
    layers = {"a": nn.Conv2d(4, 8, 3), "b": nn.Conv2d(4, 8, 3)}
    graph, _ = check(Wrap(lambda self, x: self.a(y := F.pad(x, (1, 1, 1, 1))) + self.b(y), **layers), (4, 8, 8))
    assert ops(graph) == ["input", "pad", "conv", "conv", "add"]


def test_module_is_left_as_it_was():
    module = zoo.DigitsNet().train()
    module.pool.eval()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    trace(module, (1, 8, 8))
    assert module.training
    assert module.bn1.training
    assert not module.pool.training
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


BLOCK = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid())


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(BLOCK)), "Sigmoid at '1.0.1'"),
        (Wrap(lambda self, x: torch.sigmoid(x)), "sigmoid"),
        (Wrap(lambda self, x: self.part(x), part=Wrap(lambda self, x: x * 2)), "mul at 'part'"),
        (nn.Conv2d(4, 8, 3, dilation=2), "dilation"),
        (nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"), "padding_mode = 'reflect'"),
        (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3)), "BatchNorm2d at '0'.*must follow"),
        (Wrap(lambda self, x: self.bn(y := self.conv(x)) + y, **CONV, bn=nn.BatchNorm2d(8)), "BatchNorm2d at 'bn'"),
        (nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)), "running statistics"),
        (nn.ConvTranspose2d(4, 8, 3), "ConvTranspose2d"),
        (Wrap(lambda self, x: x + 1), "two feature maps"),
        (Wrap(lambda self, x: x + x.mean((2, 3), keepdim=True)), "differ"),
        (Wrap(lambda self, x: self.conv(self.conv(x)), conv=nn.Conv2d(4, 4, 1)), "used twice"),
        (Wrap(lambda self, x: x.view(-1)), "flattening"),
        (Wrap(lambda self, x: x[0]), "only slices"),
        (Wrap(lambda self, x: F.pad(x, (1, 1), value=1.0)), "zeros"),
        (Wrap(lambda self, x: x.clamp(0, 5)), "neither ReLU nor ReLU6"),
        (Wrap(lambda self, x: (x, x)), "one tensor"),
        (Wrap(lambda self, x: x if x.sum() > 0 else -x), "could not be traced"),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "count_include_pad"),
        (nn.MaxPool2d(3, 2, ceil_mode=True), "ceil_mode"),
        (nn.AdaptiveAvgPool2d(3), "does not divide"),
        (nn.Conv2d(5, 8, 3), "could not be traced"),
        (nn.Linear(8, 3), "flatten it first"),
    ],
)
def test_what_is_not_supported_is_named(module, named):
    with pytest.raises(UnsupportedLayerError, match=named) as caught:
        trace(module, (4, 8, 8))
    assert "supported are Conv2d" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad):
    module = zoo.DigitsNet()
    with torch.no_grad():
        module.conv2.weight[3, 2, 1, 0] = bad
    with pytest.raises(MvqError, match="layer 'conv2': its weight must be finite"):
        trace(module, (1, 8, 8))
    module = zoo.DigitsNet()
    module.bn3.running_var[4] = bad
    with pytest.raises(MvqError, match="layer 'bn3'"):
        trace(module, (1, 8, 8))


def test_input_shapes_that_cannot_be():
    with pytest.raises(MvqError, match="input_shape"):
        trace(zoo.DigitsNet(), (8, 8))


# ---- what cannot be traced ----------------------------------------------------------------------------------------

FORWARDS = {
    "if x.mean() > 0:": "values as plain numbers, which differ",
    "for _ in range(int(x.sum())):": "values as plain numbers, which differ",
    "while torch.equal(x, x):": "values as plain numbers, which differ",
    "if x.argmax().item():": "values as plain numbers, which differ",
    "for row in x:": "iterated",
    "if {}[x.shape]:": "torch.Size",
    "if self.gone(x):": "no attribute 'gone'",
}


@pytest.mark.parametrize(("line", "reason"), FORWARDS.items())
def test_a_forward_that_cannot_be_traced_is_named_by_file_and_line(tmp_path, line, reason):
    file = tmp_path / "net.py"
    file.write_text(f"import torch\nclass Net(torch.nn.Module):\n  def forward(self, x):\n    {line}\n      pass\n")
    space = {}
    exec(compile(file.read_text(), file, "exec"), space)
    with pytest.raises(UnsupportedLayerError, match=reason) as caught:
        trace(space["Net"](), (4, 8, 8))
    assert f"Net is not supported: it could not be traced with an input (4, 8, 8): {file}:4: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_survey_names_everything_that_is_not_supported():
    module = nn.Sequential(
        *(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, dilation=2), nn.Sigmoid()),
        *(nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 3)),
    )
    found = survey(module, (4, 8, 8))
    named = [str(error).partition(" is not supported")[0] for error in found.refused]
    assert named == ["GroupNorm at '1'", "Conv2d at '3'", "Sigmoid at '4'", "BatchNorm2d at '6'"]
    assert [node.name for node in found.layers] == ["0", "8"]


def test_a_survey_of_a_network_that_is_supported():
    found = survey(zoo.DigitsNet(residual=True), (1, 8, 8))
    assert found.refused == []
    assert [node.name for node in found.layers] == ["conv1", "conv2", "conv3", "conv4", "fc"]
