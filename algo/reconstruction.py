"""Fit a compressed network to the float one, layer by layer, on a few hundred images without labels.

The layer's input comes from the compressed network as it is so far, its target from the float network. Codewords solve
a least-squares problem over the surviving weights that use them; then each channel's scale and bias do. Nothing here is
in the paper, which fine-tunes with labels; the idea is that of AdaRound and GPTQ, brought to codewords.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from algo.codebook import fit_scale
from algo.execute import convolve, evaluate
from algo.frontend import trace
from algo.grouping import group, ungroup
from algo.network import ClusteredWeight
from hdl.config import MvqError

__all__ = ["ReconstructionSettings", "reconstruct"]

#: values of unfolded patches that exist at once.
_PATCHES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """How far to fit.

    Parameters
    ----------
    iterations : of the conjugate gradients, at most.
    damping : pull towards the codewords at hand, relative to the mean curvature.

    Raises
    ------
    MvqError : names the setting and its value.
    """

    iterations: int = 50
    damping: float = 1e-2

    def __post_init__(self):
        if self.iterations < 1:
            raise MvqError(f"iterations = {self.iterations}: must be at least 1; the nearest legal value is 1")
        if not 0 <= self.damping < math.inf:
            raise MvqError(f"damping = {self.damping}: must be at least 0; the nearest legal value is 0")


def _by_channel(values, x):
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _float_output(node, parts, x):
    """What the float layer gives for ``x``, before its activation."""
    y = convolve(x, parts.weight, node)
    if parts.bias is not None:
        y = y + _by_channel(parts.bias, y)
    if parts.bn is None:
        return y
    bn = parts.bn
    return F.batch_norm(y, bn.mean, bn.variance, bn.weight, bn.bias, False, 0.0, bn.epsilon)


def _patches(x, node):
    """What each output pixel sees of ``x``: (groups, C / groups * kh * kw, pixels)."""
    if node.op == "linear":
        return x.T[None]
    top, bottom, left, right = node.attrs["padding"]
    columns = F.unfold(F.pad(x, (left, right, top, bottom)), node.attrs["kernel"], stride=node.attrs["stride"])
    groups = node.attrs["groups"]
    return columns.transpose(0, 1).reshape(groups, columns.shape[1] // groups, -1)


class _Normal:
    """Normal equations of one layer: the squared error of gain * (W * x) against ``target``, over images.

    The error's gradient in the weight is ``gain**2 * (W G) - R``, with G the products of inputs and R those of inputs
    and targets.
    """

    def __init__(self, layer, x, target):
        node, self.weight = layer.node, layer.weight
        scale, bias = layer.folded()
        self.gain = scale.double() / self.weight.scale.detach().double()  # of the real weight
        wanted = target - _by_channel(bias, target)
        groups = node.attrs.get("groups", 1)
        features = math.prod(self.weight.shape[1:])
        self.inner = torch.zeros(groups, features, features, dtype=torch.float64)
        self.outer = torch.zeros(groups, self.weight.shape[0] // groups, features, dtype=torch.float64)
        each = max(1, _PATCHES // (features * groups * max(1, math.prod(target.shape[2:]))))
        for part, goal in zip(x.split(each), wanted.split(each), strict=True):
            seen = _patches(part, node)
            channels = goal.transpose(0, 1).reshape(groups, -1, seen.shape[2])
            self.inner += (seen @ seen.transpose(1, 2)).double()
            self.outer += (channels @ seen.transpose(1, 2)).double()
        self.outer *= self.gain.view(groups, -1, 1)
        # every layer counts alike in a shared codebook, however large its output is
        self.share = 1.0 / max(float((wanted.double() ** 2).sum()), 1e-30)

    def _adjoint(self, gradient):
        """Sum of a weight's gradient over the surviving weights of each codeword's element, (k, d)."""
        mask = self.weight.mask.double()
        vectors = group(gradient.reshape(self.weight.shape), mask.shape[1]) * mask
        total = vectors.new_zeros(len(self.weight.codebook.values), mask.shape[1])
        return self.share * total.index_add_(0, self.weight.assignment, vectors)

    def right(self):
        return self._adjoint(self.outer)

    def product(self, codewords):
        """The curvature times ``codewords`` float64 (k, d)."""
        weight = ungroup(codewords[self.weight.assignment] * self.weight.mask.double(), self.weight.shape)
        rows = weight.reshape(len(self.inner), -1, self.inner.shape[1]) @ self.inner
        return self._adjoint(rows * self.gain.view(len(self.inner), -1, 1) ** 2)

    def diagonal(self):
        """A codeword element's own curvature, without the products of different weights."""
        curvature = self.inner.diagonal(dim1=1, dim2=2)[:, None] * self.gain.view(len(self.inner), -1, 1) ** 2
        return self._adjoint(curvature)


def _solve(problems, codewords, settings):
    """Codewords (k, d) with the least error over ``problems``, by preconditioned conjugate gradients."""
    start = codewords.double()
    diagonal = sum(problem.diagonal() for problem in problems)
    used = diagonal > 0
    if not used.any():
        return codewords
    pull = settings.damping * diagonal[used].mean()
    inverse = 1 / (diagonal + pull).clamp(min=1e-30)

    def product(change):
        return sum(problem.product(change) for problem in problems) + pull * change

    residual = sum(problem.right() - problem.product(start) for problem in problems)
    change, norm = torch.zeros_like(start), float((residual * residual * inverse).sum())
    direction, first = residual * inverse, norm
    for _ in range(settings.iterations):
        if norm <= 1e-12 * first:
            break
        curved = product(direction)
        step = norm / float((direction * curved).sum())
        change, residual = change + step * direction, residual - step * curved
        previous, norm = norm, float((residual * residual * inverse).sum())
        direction = residual * inverse + norm / previous * direction
    return (start + change * used).float()


def _replace(codebook, values, weights, layers):
    """Give a codebook other codewords and the scale that fits them."""
    uses = torch.zeros_like(values)
    for weight in weights:
        uses.index_add_(0, weight.assignment, weight.mask)
    before = float(codebook.scale.detach())
    codebook.values.copy_(values)
    codebook.scale.fill_(fit_scale(values, uses))
    codebook.requantise()
    for layer in layers:
        if not layer.normalised:  # its channel_scale is that of the integers
            layer.channel_scale.mul_(float(codebook.scale) / before)


def _refit(layer, x, target, damping):
    """Scale and bias of each channel with the least squared error; where there is a normalisation, its statistics are
    those of ``x``. A channel that hardly varies keeps its scale, which nothing in ``x`` could tell."""
    unit = layer.weight.scale.detach()
    y = convolve(x, layer.weight.levels(), layer.node) * (_by_channel(unit, target) if unit.dim() else unit)
    sides = tuple(axis for axis in range(y.dim()) if axis != 1)
    mean, wanted = y.mean(sides, dtype=torch.float64), target.mean(sides, dtype=torch.float64)
    centred = y - _by_channel(mean.float(), y)
    variance = (centred**2).mean(sides, dtype=torch.float64)
    together = (centred * target).mean(sides, dtype=torch.float64)
    flat = variance <= 1e-12 * (mean**2 + 1e-30)
    old, pull = layer.folded()[0].double() / unit.double(), damping * variance.mean()
    gain = torch.where(flat, old, (together + pull * old) / (variance + pull).clamp(min=1e-30))
    if layer.normalised:
        layer.mean.copy_(mean + layer.bias.double())
        layer.variance.copy_(variance)
        layer.gamma.copy_(gain * torch.sqrt(variance + layer.epsilon))
        layer.beta.copy_(wanted)
    else:
        layer.channel_scale.copy_(gain * unit.double())
        layer.channel_bias.copy_(wanted - gain * mean)


@torch.no_grad()
def reconstruct(network, module, images, settings=None, progress=None):
    """Fit codewords, normalisation, scales and biases of a compressed network, in place, to the float network.

    Assignments, masks and dense weights stay as they are. A codebook of several layers is fitted to all of them at
    once, before the layers' scales and biases.

    Parameters
    ----------
    network : :class:`algo.network.CompressedNetwork`.
    module : the float network that it was compressed from.
    images : float32 (N, C, H, W), some hundreds, drawn from what the network will see. One layer's input and output of
        all of them, of both networks, exist at once.
    settings : :class:`ReconstructionSettings`.
    progress : called with ("reconstruct", layers done, layers).

    Returns
    -------
    dict : name of each layer -> its squared error against the float layer's output, relative to that output, after the
    fit; on ``images``.

    Raises
    ------
    MvqError : no images, values that are NaN or infinite, or ``module`` is another network.
    """
    settings = settings or ReconstructionSettings()
    if not len(images) or not torch.isfinite(images).all():
        raise MvqError("reconstruction needs at least one image, and finite values")
    graph, floats = trace(module, tuple(images.shape[1:]))
    if graph != network.graph:
        raise MvqError("the float network is not the one that was compressed: their operations differ")
    layers, errors, problems = network.layers, {}, {}
    users = {name: [] for name in network.codebooks}
    for layer in layers.values():
        if isinstance(layer.weight, ClusteredWeight):
            users[layer.weight.codebook.name].append(layer)

    def both(visit):
        """Run the two networks side by side, as the halves of one batch."""

        def compute(node, x):
            mine, theirs = x.chunk(2)
            target = _float_output(node, floats[node.name], theirs)
            return torch.cat((visit(layers[node.name], mine, target), target))

        evaluate(graph, torch.cat((images, images)), compute)

    def fit(book):
        weights = [layer.weight for layer in users[book.name]]
        values = _solve([problems.pop(layer.node.name) for layer in users[book.name]], book.values.detach(), settings)
        _replace(book, values, weights, users[book.name])

    def collect(layer, x, target):
        if isinstance(layer.weight, ClusteredWeight) and len(users[layer.weight.codebook.name]) > 1:
            problems[layer.node.name] = _Normal(layer, x, target)
        return layer(x)

    def improve(layer, x, target):
        if isinstance(layer.weight, ClusteredWeight) and len(users[layer.weight.codebook.name]) == 1:
            problems[layer.node.name] = _Normal(layer, x, target)
            fit(layer.weight.codebook)
        _refit(layer, x, target, settings.damping)
        y = layer(x)
        errors[layer.node.name] = float(
            ((y - target).double() ** 2).sum() / (target.double() ** 2).sum().clamp(min=1e-30)
        )
        if progress:
            progress("reconstruct", len(errors), len(layers))
        return y

    network.eval()
    shared = [network.codebooks[name] for name, each in users.items() if len(each) > 1]
    if shared:
        both(collect)
        for book in shared:
            fit(book)
    both(improve)
    return errors
