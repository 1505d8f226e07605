import copy

import pytest
import torch
from torch import nn

from algo import zoo
from algo.compress import CompressSettings, compress
from algo.frontend import trace
from algo.grouping import group, real_elements, ungroup
from algo.pruning import magnitude_masks
from algo.sparse_training import SparseSettings, sparse_weights, train_sparse
from algo.training import TrainingSettings
from hdl.config import MvqError


@pytest.fixture
def module(digits_module):
    return copy.deepcopy(digits_module)


def masks(module, settings):
    """Mask of each pruned layer, as the compression would find it."""
    graph, floats = trace(module, (1, 8, 8))
    return {
        name: magnitude_masks(group(floats[name].weight, settings.vector_length), n, m)
        for name, (n, m) in settings.choose(graph).items()
    }


@pytest.mark.parametrize("method", ["sr-ste", "asp"])
def test_trained_weights_are_sparse_and_the_compression_finds_their_mask(digits, module, method):
    settings = SparseSettings(method=method, layers={"conv3": (2, 8)})
    before = masks(module, settings)
    floating = zoo.accuracy(module, *digits[2:])
    log = train_sparse(module, (1, 8, 8), *digits[:2], settings, TrainingSettings(epochs=3, rate=3e-3))
    assert log[-1]["loss"] < log[0]["loss"]
    after = masks(module, settings)
    assert set(after) == {"conv2", "conv3"}
    for name, mask in after.items():
        vectors = group(module.get_submodule(name).weight.detach(), 16)
        assert torch.equal(vectors != 0, mask)  # what is pruned is 0, and nothing else
        n, m = (2, 8) if name == "conv3" else (4, 16)
        assert (mask.reshape(-1, m).sum(dim=1) == n).all()
        assert torch.equal(mask, before[name]) == (method == "asp")
    assert all(type(part.weight) is nn.Parameter for part in (module.conv2, module.conv3))
    assert zoo.accuracy(module, *digits[2:]) > floating - 0.02
    compressed = compress(module, (1, 8, 8), CompressSettings(codewords=64))
    assert torch.equal(compressed.layers["conv2"].weight.mask.bool(), after["conv2"])


def test_training_beats_pruning_alone(digits, module):
    """The reason of it: 2:16 without training loses much, and SR-STE brings it back."""
    settings = SparseSettings(n=2)
    pruned = copy.deepcopy(module)
    with sparse_weights(pruned, (1, 8, 8), settings):
        pass
    train_sparse(module, (1, 8, 8), *digits[:2], settings, TrainingSettings(epochs=4, rate=3e-3))
    assert zoo.accuracy(module, *digits[2:]) > zoo.accuracy(pruned, *digits[2:]) + 0.02


def test_gradient_of_sr_ste(module):
    """g + decay * (1 - mask) o W, and the mask of every forward pass is that of the weights at hand."""
    settings = SparseSettings(decay=0.01)
    x, twin = torch.randn(4, 1, 8, 8), copy.deepcopy(module)
    with sparse_weights(module, (1, 8, 8), settings):
        layer = module.conv3
        original = layer.parametrizations.weight.original
        for _ in range(2):
            mask = ungroup(magnitude_masks(group(original.detach(), 16), 4, 16), original.shape)
            assert torch.equal(layer.weight, original * mask)
            for name in ("conv2", "conv3"):
                twin.get_submodule(name).weight.data.copy_(module.get_submodule(name).weight)
            for network in (module, twin):
                network.zero_grad()
                network(x).square().sum().backward()
            assert torch.allclose(original.grad, twin.conv3.weight.grad + 0.01 * ~mask * original, rtol=1e-4)
            with torch.no_grad():
                original.copy_(torch.randn_like(original))


def test_output_channels_that_d_does_not_divide():
    """20 output channels, d = 16: the last group has 4 weights and 12 of padding, which takes no weight's place."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 20, 3), nn.Flatten(), nn.Linear(20, 2))
    weight = module[1].weight.detach().clone()
    with sparse_weights(module, (1, 3, 3), SparseSettings()) as chosen:
        assert chosen == {"1": (4, 16)}
    mask = magnitude_masks(group(weight, 16), 4, 16)
    assert torch.equal(module[1].weight, weight * ungroup(mask, weight.shape))
    assert torch.equal(module[1].weight[16:], weight[16:])  # all four survive
    compressed = compress(module, (1, 3, 3), CompressSettings(codewords=8)).layers["1"].weight
    assert torch.equal(compressed.mask.bool(), mask)
    assert (mask & ~real_elements(weight.shape, 16)).sum() == 0


def test_a_stopped_training_goes_on(digits, module, tmp_path):
    """ASP's mask is part of what is kept: it is that of the first weights, not of those at the stop."""

    class Stopped(Exception):
        pass

    def stop(stage, done, total):
        if done == 9:
            raise Stopped

    training, x, y = TrainingSettings(epochs=3, rate=3e-3), digits[0][:256], digits[1][:256]
    for method in ("sr-ste", "asp"):
        settings, folder = SparseSettings(method=method), tmp_path / method
        whole, parts, again = (copy.deepcopy(module) for _ in range(3))
        train_sparse(whole, (1, 8, 8), x, y, settings, training)
        with pytest.raises(Stopped):
            train_sparse(parts, (1, 8, 8), x, y, settings, training, folder=folder, progress=stop)
        assert type(parts.conv3.weight) is nn.Parameter
        assert parts.conv3.weight.count_nonzero() > 0.9 * parts.conv3.weight.numel()
        train_sparse(again, (1, 8, 8), x, y, settings, training, folder=folder)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
        with pytest.raises(MvqError, match="sparse"):
            train_sparse(again, (1, 8, 8), x, y, SparseSettings(n=2, method=method), training, folder=folder)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "magic"}, "method = 'magic'"),
        ({"n": 17}, "n = 17"),
        ({"vector_length": 24}, "vector_length = 24"),
        ({"decay": -1.0}, "decay = -1.0"),
        ({"layers": {"conv2": (9, 8)}}, "layer 'conv2': .*n = 9"),
        ({"layers": {"conv2": (4,)}}, "layer 'conv2'"),
    ],
)
def test_settings_that_cannot_be(settings, named):
    with pytest.raises(MvqError, match=named):
        SparseSettings(**settings)


def test_layers_that_are_not_pruned(digits, module):
    for layers in ({"conv1": (2, 4)}, {"nothing": (2, 4)}):
        with pytest.raises(MvqError, match=f"'{next(iter(layers))}' is not pruned.*conv2, conv3"):
            train_sparse(module, (1, 8, 8), *digits[:2], SparseSettings(layers=layers))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.kernel = nn.Conv2d(1, 4, 1), nn.Parameter(torch.randn(16, 4, 1, 1))

    def forward(self, x):
        return nn.functional.conv2d(self.first(x), self.kernel)


def test_a_weight_without_a_module():
    with pytest.raises(MvqError, match="layer 'kernel': sparse training needs a module"):
        train_sparse(Functional(), (1, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1))
