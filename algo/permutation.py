"""Permute channels so that subvectors cluster better (PQF: Martinez et al., CVPR 2021).

A subvector is d consecutive output channels at one input and tap, so the order of a layer's output channels decides
which weights it holds. The rate that vectors need falls with the determinant of their covariance; the order is searched
that makes the sum of the log-determinants least, over the layers that it concerns: first channels of similar variance
are put at the same place of the vectors, then pairs are swapped while that helps.

The function of the network stays the same, as everything that reads the channels is permuted too. Channels that
residual additions and depthwise convolutions tie together share one order; those of the image, of the result, and of
what pads, cuts or groups channels keep theirs.
"""

import math
from dataclasses import dataclass, replace

import numba
import numpy as np
import torch

__all__ = ["Channels", "free_channels", "log_determinant", "permute", "search"]

#: swaps that are tried for each channel.
_SWAPS = 200
#: least improvement that is not rounding.
_LEAST = 1e-9
#: part of the mean variance that is added to each, so that a determinant is never 0.
_RIDGE = 1e-6


@dataclass(frozen=True)
class Channels:
    """Channels that may be put in any one order.

    Parameters
    ----------
    count : K.
    producers : layers that have them as output channels; depthwise ones have them as input channels as well.
    consumers : (layer, inputs a channel) of those that read them; a linear layer behind a flatten reads several.
    """

    count: int
    producers: tuple[str, ...]
    consumers: tuple[tuple[str, int], ...]


# ---- what is free -------------------------------------------------------------------------------------------------


class _Ties:
    """Sets of nodes whose channels must have the same order (union-find)."""

    def __init__(self):
        self.parent, self.fixed = [], []

    def new(self, fixed=False):
        self.parent.append(len(self.parent))
        self.fixed.append(fixed)
        return len(self.parent) - 1

    def find(self, item):
        while self.parent[item] != item:
            item = self.parent[item]
        return item

    def join(self, first, second):
        first, second = self.find(first), self.find(second)
        self.parent[second] = first
        self.fixed[first] |= self.fixed[second]

    def fix(self, item):
        self.fixed[self.find(item)] = True


def free_channels(graph):
    """The :class:`Channels` of a :class:`golden.graph.Graph` that can be permuted, in the order of their producers."""
    ties, shapes = _Ties(), graph.shapes()
    space = {}  # node -> (its channels, values a channel in a flat vector)
    producers, consumers = [], []  # (channels, layer), (channels, (layer, values a channel))
    for node in graph.nodes:
        sources = [space[name] for name in node.inputs]
        if node.op == "input":
            space[node.name] = ties.new(fixed=True), 1
        elif node.op in ("conv", "linear"):
            (channels, values), groups = sources[0], node.attrs.get("groups", 1)
            if groups == 1:
                consumers.append((channels, (node.name, values)))
                space[node.name] = ties.new(), 1
            elif groups == node.attrs["in_channels"] == node.attrs["out_channels"]:
                space[node.name] = channels, 1
            else:
                ties.fix(channels)
                space[node.name] = ties.new(fixed=True), 1
            producers.append((space[node.name][0], node.name))
        elif node.op == "add":
            (first, values), (second, others) = sources
            ties.join(first, second)
            if values != others:
                ties.fix(first)
            space[node.name] = first, values
        elif node.op == "flatten" and len(shapes[node.inputs[0]]) == 3:
            space[node.name] = sources[0][0], math.prod(shapes[node.inputs[0]][1:])
        elif node.op in ("pad", "slice") and shapes[node.name][0] != shapes[node.inputs[0]][0]:
            ties.fix(sources[0][0])
            space[node.name] = ties.new(fixed=True), 1
        else:
            if node.op == "slice" and node.attrs["channels"][2] != 1:
                ties.fix(sources[0][0])
            space[node.name] = sources[0]
    ties.fix(space[graph.output][0])
    found = {}
    for channels, name in producers:
        root = ties.find(channels)
        if not ties.fixed[root]:
            found.setdefault(root, []).append(name)
    return [
        Channels(
            graph[names[0]].weight_shape[0],
            tuple(names),
            tuple(layer for channels, layer in consumers if ties.find(channels) == root),
        )
        for root, names in found.items()
    ]


def permute(floats, channels, order):
    """Weights of a network whose ``channels`` are in another order.

    Parameters
    ----------
    floats : name -> :class:`algo.frontend.FloatLayer`.
    channels : :class:`Channels`.
    order : int64 (K,), the channel that comes to each place.

    Returns
    -------
    dict : like ``floats``, which is left as it was.
    """
    floats = dict(floats)
    for name in channels.producers:
        layer, bn = floats[name], floats[name].bn
        if bn is not None:
            moved = {key: getattr(bn, key)[order] for key in ("weight", "bias", "mean", "variance")}
            bn = replace(bn, **moved)
        bias = None if layer.bias is None else layer.bias[order]
        floats[name] = replace(layer, weight=layer.weight[order], bias=bias, bn=bn)
    for name, values in channels.consumers:
        columns = (order[:, None] * values + torch.arange(values)).flatten()
        floats[name] = replace(floats[name], weight=floats[name].weight[:, columns])
    return floats


# ---- which order is best ------------------------------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def _log_det(matrix):
    """Logarithm of the determinant of a positive definite float64 (d, d), by Cholesky's decomposition."""
    size = len(matrix)
    lower = np.zeros_like(matrix)
    total = 0.0
    for row in range(size):
        for column in range(row + 1):
            value = matrix[row, column]
            for t in range(column):
                value -= lower[row, t] * lower[column, t]
            if row > column:
                lower[row, column] = value / lower[column, column]
            else:
                value = max(value, 1e-300)
                total += math.log(value)
                lower[row, row] = math.sqrt(value)
    return total


@numba.njit(cache=True, error_model="numpy")
def _add_block(covariance, gram, order, block, factor):
    """Add ``factor`` times what the vectors of one row of subvectors contribute to their covariance."""
    length, begin = len(covariance), block * len(covariance)
    for i in range(min(length, len(order) - begin)):
        for j in range(min(length, len(order) - begin)):
            covariance[i, j] += factor * gram[order[begin + i], order[begin + j]]


@numba.njit(cache=True, error_model="numpy")
def _covariance(gram, order, length, ridge):
    """Second moments, float64 (d, d), of the subvectors that ``order`` makes, up to a factor."""
    covariance = np.zeros((length, length))
    for block in range(-(-len(order) // length)):
        _add_block(covariance, gram, order, block, 1.0)
    for t in range(length):
        covariance[t, t] += ridge
    return covariance


@numba.njit(cache=True, error_model="numpy")
def _swap(grams, lengths, ridges, order, pairs):
    """Swap in ``order`` each of ``pairs`` int64 (swaps, 2) that lowers the sum of the log-determinants."""
    layers = len(grams)
    longest = lengths.max()
    current = np.zeros((layers, longest, longest))
    trial = np.zeros_like(current)
    now = 0.0
    for layer in range(layers):
        d = lengths[layer]
        current[layer, :d, :d] = _covariance(grams[layer], order, d, ridges[layer])
        now += _log_det(current[layer, :d, :d])
    for first, second in pairs:
        then = 0.0
        for layer in range(layers):
            d = lengths[layer]
            trial[layer] = current[layer]
            square = trial[layer, :d, :d]
            blocks = (first // d, second // d)
            for change in range(2):
                _add_block(square, grams[layer], order, blocks[0], 2.0 * change - 1)
                if blocks[0] != blocks[1]:
                    _add_block(square, grams[layer], order, blocks[1], 2.0 * change - 1)
                order[first], order[second] = order[second], order[first]
            then += _log_det(square)
        if then < now - _LEAST:
            now = then
            current[:] = trial
            order[first], order[second] = order[second], order[first]


def _grams(weights, lengths):
    """Gram matrices float64 (layers, K, K) of the output channels, of mean variance 1; and the ridge of each layer."""
    flat = [weight.flatten(1).double().numpy() for weight in weights]
    grams = np.stack([array @ array.T for array in flat])
    mean = np.trace(grams, axis1=1, axis2=2) / len(grams[0])
    grams /= np.where(mean > 0, mean, 1.0)[:, None, None]
    return grams, np.array([_RIDGE * len(grams[0]) / length for length in lengths])


def log_determinant(weights, lengths, order):
    """What :func:`search` makes small: the sum of the log-determinants, up to a constant."""
    grams, ridges = _grams(weights, lengths)
    order = np.asarray(order, np.int64)
    return sum(
        float(_log_det(_covariance(gram, order, length, ridge)))
        for gram, length, ridge in zip(grams, lengths, ridges, strict=True)
    )


def search(weights, lengths, seed=0):
    """A good order of the channels that ``weights`` have in common.

    Parameters
    ----------
    weights : of the layers that are clustered, each float32 (K, ...).
    lengths : d of each.
    seed : draws the pairs that are tried.

    Returns
    -------
    int64 (K,) : the channel that comes to each place; the identity where that is better than what is found.
    """
    grams, ridges = _grams(weights, lengths)
    count = grams.shape[1]
    # channels of similar variance at the same place of the vectors: the product of the variances gets small
    blocks = -(-count // lengths[0])
    places = np.arange(blocks * lengths[0]).reshape(blocks, lengths[0]).T.flatten()
    order = np.empty(count, np.int64)
    order[places[places < count]] = np.argsort(np.einsum("lkk->k", grams), kind="stable")
    pairs = np.random.default_rng(seed).integers(0, count, (_SWAPS * count, 2))
    _swap(grams, np.array(lengths), ridges, order, pairs[pairs[:, 0] != pairs[:, 1]])
    identity = np.arange(count)
    gained = log_determinant(weights, lengths, identity) - log_determinant(weights, lengths, order)
    return order if gained > _LEAST else identity
