from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from algo import zoo
from algo.execute import convolve, evaluate
from algo.frontend import trace
from algo.grouping import group
from algo.masked_kmeans import masked_kmeans
from algo.permutation import free_channels, log_determinant, permute, search
from golden.graph import Graph, Node


def randomise(module):
    """Normalisation that tells channels apart."""
    torch.manual_seed(0)
    for bn in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(bn.running_mean, -1, 1)
        nn.init.uniform_(bn.running_var, 0.5, 3)
        nn.init.uniform_(bn.weight, 0.5, 2)
        nn.init.uniform_(bn.bias, -1, 1)
    return module.eval()


def output(graph, floats, x):
    """Float output of a graph with given weights."""

    def layer(node, value):
        parts = floats[node.name]
        y = convolve(value, parts.weight, node)
        shape = (1, -1, 1, 1) if node.op == "conv" else (1, -1)
        if parts.bias is not None:
            y = y + parts.bias.view(shape)
        if parts.bn is not None:
            bn = parts.bn
            y = nn.functional.batch_norm(y, bn.mean, bn.variance, bn.weight, bn.bias, eps=bn.epsilon)
        return y

    with torch.no_grad():
        return evaluate(graph, x, layer)


def mobile():
    """Depthwise, ReLU6, a residual addition over a depthwise convolution, and a flatten of whole maps."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU6())
            self.expand = nn.Sequential(nn.Conv2d(12, 20, 1, bias=False), nn.BatchNorm2d(20), nn.ReLU6())
            self.depth = nn.Sequential(nn.Conv2d(20, 20, 3, padding=1, groups=20), nn.BatchNorm2d(20), nn.ReLU6())
            self.project = nn.Sequential(nn.Conv2d(20, 12, 1), nn.BatchNorm2d(12))
            self.pool = nn.AvgPool2d(4)
            self.hidden, self.last = nn.Linear(48, 10), nn.Linear(10, 7)

        def forward(self, x):
            x = self.stem(x)
            x = self.pool(x + self.project(self.depth(self.expand(x))))
            return self.last(torch.relu(self.hidden(torch.flatten(x, 1))))

    return Net()


@pytest.mark.parametrize(
    ("build", "shape", "free"),
    [
        (zoo.DigitsNet, (1, 8, 8), [("conv1",), ("conv2",), ("conv3",)]),
        (lambda: zoo.DigitsNet(residual=True), (1, 8, 8), [("conv1",), ("conv2",), ("conv3", "conv4")]),
        (mobile, (3, 8, 8), [("stem.0", "project.0"), ("expand.0", "depth.0"), ("hidden",)]),
        (zoo.ResNetCifar, (3, 32, 32), [(f"layer{i}.{j}.conv1",) for i in (1, 2, 3) for j in (0, 1, 2)]),
    ],
)
def test_the_network_computes_the_same_in_any_order(build, shape, free):
    torch.manual_seed(0)
    graph, floats = trace(randomise(build()), shape)
    found = free_channels(graph)
    assert [channels.producers for channels in found] == free
    moved, generator = floats, torch.Generator().manual_seed(1)
    for channels in found:
        moved = permute(moved, channels, torch.randperm(channels.count, generator=generator))
    x = torch.randn(4, *shape, generator=generator)
    assert not any(torch.equal(moved[name].weight, floats[name].weight) for names in free for name in names)
    expected = output(graph, floats, x)
    assert torch.allclose(output(graph, moved, x), expected, atol=1e-5 * float(expected.abs().max()))


def test_grouped_cut_and_padded_channels_stay_where_they_are():
    def conv(name, source, inputs, outputs, groups=1):
        sizes = {"kernel": [1, 1], "stride": [1, 1], "padding": [0] * 4, "groups": groups, "activation": "none"}
        return Node(name, "conv", (source,), {"in_channels": inputs, "out_channels": outputs, **sizes})

    whole = {"rows": [0, 4, 1], "columns": [0, 4, 1]}
    graph = Graph(
        [
            Node("input", "input", (), {"shape": [3, 4, 4]}),
            conv("a", "input", 3, 8),
            conv("b", "a", 8, 8, groups=2),
            conv("c", "b", 8, 8),
            Node("cut", "slice", ("c",), {"channels": [0, 6, 1], **whole}),
            conv("d", "cut", 6, 8),
            Node("crop", "slice", ("d",), {"channels": [0, 8, 1], "rows": [0, 2, 1], "columns": [1, 3, 1]}),
            conv("e", "crop", 8, 8),
            Node("wide", "pad", ("e",), {"channels": [1, 1], "spatial": [0] * 4}),
            conv("f", "wide", 10, 5),
        ],
        "f",
    )
    assert [(channels.producers, channels.consumers) for channels in free_channels(graph)] == [(("d",), (("e", 1),))]


def test_log_determinant_is_that_of_the_subvectors():
    """Up to a constant that no order changes: compared by the difference of two orders."""
    torch.manual_seed(0)
    weight = torch.randn(12, 5, 3, 3) * torch.rand(12, 1, 1, 1)
    orders = np.arange(12), np.random.default_rng(0).permutation(12)

    def direct(order):
        vectors = group(weight[torch.from_numpy(order)], 4).double()
        return float(torch.logdet(vectors.T @ vectors / len(vectors)))

    found = [log_determinant([weight, weight], [4, 4], order) for order in orders]
    assert found[0] - found[1] == pytest.approx(2 * (direct(orders[0]) - direct(orders[1])), rel=1e-4)


def test_no_swap_betters_what_search_finds():
    torch.manual_seed(0)
    weights = [torch.randn(6, 40) @ torch.randn(40, 40), torch.randn(6, 30) * torch.rand(6, 1)]
    lengths = [3, 2]
    found = search(weights, lengths)
    least = log_determinant(weights, lengths, found)
    assert sorted(found) == list(range(6))
    assert least < log_determinant(weights, lengths, range(6))
    for pair in combinations(range(6), 2):
        other = found.copy()
        other[list(pair)] = found[list(pair[::-1])]
        assert log_determinant(weights, lengths, other) > least - 1e-6


@pytest.mark.parametrize("count", [24, 21])
def test_search_helps_the_clustering_and_is_deterministic(count):
    """Channels of three kinds, shuffled: vectors that hold them in the same order are alike."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(8, 60, generator=generator)
    weight = kinds.repeat(3, 1) + 0.2 * torch.randn(24, 60, generator=generator)
    weight = weight[torch.randperm(24, generator=generator)][:count]
    order = search([weight], [8])
    assert np.array_equal(order, search([weight], [8]))

    def error(weight):
        vectors = group(weight, 8)
        return masked_kmeans(vectors, torch.ones_like(vectors, dtype=torch.bool), 40, restarts=3).sse

    assert error(weight[torch.from_numpy(order)]) < 0.9 * error(weight)


def test_search_of_zeros_and_of_one_vector():
    for weight in (torch.zeros(8, 5), torch.ones(3, 2)):
        assert sorted(search([weight], [4])) == list(range(len(weight)))
