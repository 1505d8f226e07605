import numpy as np
import pytest
import torch
from torch import nn

from algo import zoo
from algo.calibration import calibrate
from algo.compress import CompressSettings, compress
from algo.finetune import FinetuneSettings, finetune
from algo.integer import TorchIntegerNetwork
from golden.network import quantise


def check(network, calibration_images, images):
    """Every node of torch's integers equals golden's; the integer network, in torch."""
    integers = quantise(network.to_checkpoint(), calibrate(network, calibration_images))
    x = integers.quantise_input(images.numpy())
    expected = integers.run(x)
    mine = TorchIntegerNetwork(integers)
    found = mine.run(torch.from_numpy(x))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name].numpy(), value), f"node {name!r} differs"
        assert value.any(), f"node {name!r} is all zero"
    assert np.array_equal(mine(images).numpy(), integers.logits(expected[integers.graph.output]))
    return mine


def test_digits(digits, digits_module):
    network = compress(digits_module, (1, 8, 8), CompressSettings(codewords=32))
    finetune(network, *digits[:2], FinetuneSettings(epochs=3, rate=3e-3))
    integers = check(network, digits[0][:128], digits[2][:24])
    right = float((integers(digits[2]).argmax(dim=1) == digits[3]).double().mean())
    assert abs(right - zoo.accuracy(network, *digits[2:])) < 0.02


class Everything(nn.Module):
    """One of each operation that has its own integer form."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.body = nn.Sequential(nn.Conv2d(16, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU6())
        self.depthwise = nn.Conv2d(20, 20, 5, padding=2, groups=20)
        self.pool, self.average = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1, 1)
        self.hidden, self.out = nn.Linear(8 * 16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.body(self.stem(nn.functional.pad(x, (0, 1, 0, 1))).relu())
        x = nn.functional.relu(x + self.depthwise(x))
        y = nn.functional.relu(self.average(self.pool(x)))
        y = nn.functional.relu6(y[:, 4:20:2, :-1, 1:] + nn.functional.pad(y[:, :4, 1:, :-1], (0, 0, 0, 0, 1, 3)))
        return self.out(self.hidden(torch.flatten(y, 1)).relu())


def test_every_operation():
    torch.manual_seed(0)
    network = compress(Everything(), (3, 12, 12), CompressSettings(codewords=40, iterations=5))
    found = {node.op for node in network.graph.nodes}
    assert found == {
        *("input", "conv", "linear", "add", "activation", "flatten"),
        *("max_pool", "avg_pool", "pad", "slice"),
    }
    images = torch.randn(6, 3, 12, 12)
    check(network, images, images)


def test_channels_without_weights():
    """EfficientNet-Lite0 has depthwise channels of zeros behind a normalisation with a gain of 30."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 1), nn.ReLU())
    with torch.no_grad():
        module[0].weight[3], module[1].running_var[3], module[3].weight[5] = 0.0, 0.0, 0.0
        module[1].weight[3], module[1].bias[3] = 5.0, 0.7
    images = torch.randn(4, 1, 8, 8)
    check(compress(module.eval(), (1, 8, 8), CompressSettings(codewords=8)), images, images)


@pytest.mark.slow
def test_resnet20(resnet20):
    network = compress(resnet20, (3, 32, 32), CompressSettings(codewords=128, iterations=10))
    check(network, torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.randn(1, 3, 32, 32))


@pytest.mark.slow
def test_efficientnet_lite0(efficientnet_lite0):
    settings = CompressSettings(n=1, m=2, codewords=512, iterations=5)
    network = compress(efficientnet_lite0, (3, 224, 224), settings)
    images = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    check(network, images[:2], images[2:])
