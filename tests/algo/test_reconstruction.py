import numpy as np
import pytest
import torch
from torch import nn

from algo import zoo
from algo.compress import CompressSettings, compress
from algo.frontend import trace
from algo.grouping import ungroup
from algo.network import CompressedNetwork
from algo.reconstruction import ReconstructionSettings, _Normal, _solve, reconstruct
from hdl.config import MvqError
from tests.algo.conftest import DATA


@pytest.mark.parametrize("codebook", ["layer", "shared"])
def test_digits_come_back_without_labels(digits, digits_module, codebook):
    network = compress(digits_module, (1, 8, 8), CompressSettings(codewords=16, codebook=codebook))
    before, floating = (zoo.accuracy(each, *digits[2:]) for each in (network, digits_module))
    frozen = {name: layer.weight.assignment.clone() for name, layer in network.layers.items() if name[:4] in ("conv2",)}
    errors = reconstruct(network, digits_module, digits[0][:256])
    after = zoo.accuracy(network, *digits[2:])
    assert before < 0.7
    assert after > floating - 0.05
    assert errors.keys() == network.layers.keys()
    assert errors["conv1"] < 1e-3  # dense int8 on the image itself
    for name, assignment in frozen.items():
        assert torch.equal(network.layers[name].weight.assignment, assignment)
    stored = CompressedNetwork.from_checkpoint(network.to_checkpoint())
    assert zoo.accuracy(stored, *digits[2:]) == after


def test_codewords_are_the_least_squares_solution():
    """Against torch.linalg.lstsq of the design matrix written out, with a gain of its own for each channel."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8))
    module[2].weight.data.copy_(torch.rand(8, generator=generator) + 0.5)
    settings = CompressSettings(vector_length=4, n=2, m=4, codewords=3, compress=("1",))
    layer = compress(module.eval(), (2, 6, 6), settings).layers["1"]
    x = torch.randn(5, 4, 6, 6, generator=generator)
    target = torch.randn(5, 8, 3, 3, generator=generator)
    problem = _Normal(layer, x, target)
    values = layer.weight.codebook.values.detach()
    found = _solve([problem], values, ReconstructionSettings(iterations=200, damping=0.0))
    scale, bias = layer.folded()
    gain = (scale / layer.weight.scale).view(1, -1, 1, 1).detach()
    columns = []
    for number in range(values.numel()):
        unit = torch.zeros(values.numel()).index_fill_(0, torch.tensor(number), 1.0).view_as(values)
        weight = ungroup(unit[layer.weight.assignment] * layer.weight.mask, layer.weight.shape)
        columns.append((nn.functional.conv2d(x, weight, None, 2, 1) * gain).flatten())
    design, wanted = torch.stack(columns, 1).double(), (target - bias.view(1, -1, 1, 1)).flatten().double()
    expected = torch.linalg.lstsq(design, wanted[:, None], driver="gelsd").solution.view_as(values)
    used = design.abs().sum(dim=0).view_as(values) > 0
    assert torch.allclose(found.double()[used], expected[used], atol=1e-4)
    assert torch.equal(found[~used], values[~used])


class Odd(nn.Module):
    """Grouped and lopsided convolutions, a layer without normalisation, a hidden linear layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(32, 16, 3, stride=2)
        self.hidden, self.out = nn.Linear(16 * 16, 32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = nn.functional.relu6(self.grouped(x))
        x = self.strided(nn.functional.pad(x, (0, 1, 0, 1))).relu()
        return self.out(self.hidden(torch.flatten(x, 1)).relu())


@pytest.mark.parametrize("codebook", ["layer", "shared"])
def test_every_kind_of_layer(codebook):
    torch.manual_seed(0)
    module, images, unseen = Odd().eval(), torch.randn(128, 3, 8, 8), torch.randn(64, 3, 8, 8)
    settings = CompressSettings(codewords=8, n=8, m=16, codebook=codebook, compress=("grouped",))
    network, steps = compress(module, (3, 8, 8), settings), []
    with torch.no_grad():
        wanted = module(unseen)
        before = (network(unseen) - wanted).square().mean()
        reconstruct(network, module, images, progress=lambda *step: steps.append(step))
        after = (network(unseen) - wanted).square().mean()
    assert after < 0.7 * before
    assert steps == [("reconstruct", done, 5) for done in range(1, 6)]
    loaded = CompressedNetwork.from_checkpoint(network.to_checkpoint())
    assert torch.equal(loaded(unseen), network(unseen))
    reconstruct(loaded, module, images)  # a network from a file has its normalisation folded
    assert (loaded(unseen) - wanted).square().mean() < 1.1 * after


def test_codewords_count_beyond_the_normalisation(digits, digits_module):
    """With the codewords as they were, scales and biases alone leave more error."""
    errors = []
    for damping in (1e12, 1e-2):  # so strong a pull leaves the codewords where they are
        network = compress(digits_module, (1, 8, 8), CompressSettings(codewords=16))
        settings = ReconstructionSettings(damping=damping)
        errors.append(reconstruct(network, digits_module, digits[0][:256], settings)["conv2"])
    assert errors[1] < 0.8 * errors[0]


def test_a_dead_channel(digits):
    """A channel whose weights are all 0 keeps a finite scale and takes the float layer's mean."""
    torch.manual_seed(0)
    module = zoo.train(zoo.DigitsNet(), *digits[:2], epochs=1)
    module.conv2.weight.data[5] = 0.0
    network = compress(module, (1, 8, 8), CompressSettings(codewords=16))
    reconstruct(network, module, digits[0][:64])
    checkpoint = network.to_checkpoint()
    floats = trace(module, (1, 8, 8))[1]
    bn = floats["conv2"].bn
    constant = bn.bias - bn.mean * bn.weight / torch.sqrt(bn.variance + bn.epsilon)
    assert float(checkpoint.layers["conv2"].channel_bias[5]) == pytest.approx(float(constant[5]), abs=1e-4)


def test_what_cannot_be_reconstructed(digits, digits_module):
    network = compress(digits_module, (1, 8, 8), CompressSettings(codewords=16))
    with pytest.raises(MvqError, match="at least one image"):
        reconstruct(network, digits_module, digits[0][:0])
    with pytest.raises(MvqError, match="finite"):
        reconstruct(network, digits_module, torch.full((2, 1, 8, 8), torch.nan))
    with pytest.raises(MvqError, match="not the one that was compressed"):
        reconstruct(network, zoo.DigitsNet(residual=True), digits[0][:8])
    with pytest.raises(MvqError, match="iterations = 0"):
        ReconstructionSettings(iterations=0)
    with pytest.raises(MvqError, match="damping = -1"):
        ReconstructionSettings(damping=-1)


@pytest.mark.slow
def test_resnet20(resnet20):
    """4:16 with 512 codewords a layer, after 256 test images; measured on others."""
    path = DATA / "cifar10" / "test.npz"
    if not path.is_file():
        pytest.skip(f"the images of CIFAR-10 are not at {path}")
    with np.load(path) as stored:
        images, labels = torch.from_numpy(stored["x"][:1256]), torch.from_numpy(stored["y"][:1256].astype(np.int64))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((images / 255 - mean) / deviation).permute(0, 3, 1, 2).contiguous()
    network = compress(resnet20, (3, 32, 32), CompressSettings(iterations=15))
    before, floating = (zoo.accuracy(each, images[256:], labels[256:]) for each in (network, resnet20))
    reconstruct(network, resnet20, images[:256])
    after = zoo.accuracy(network, images[256:], labels[256:])
    assert before < 0.5
    assert after > floating - 0.1
