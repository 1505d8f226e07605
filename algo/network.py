"""The compressed network in torch: trains its codebooks, runs exactly what the checkpoint stores, and becomes one."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from algo.codebook import MaskedLookup, Quantise, quantise
from algo.execute import convolve, evaluate
from algo.grouping import ungroup
from algo.vecq import VecqWeight
from golden import checkpoint as formats
from golden.masks import encode_masks

__all__ = ["ClusteredWeight", "CodebookModule", "CompressedNetwork", "DenseWeight", "LayerModule"]

#: momentum of running statistics where the network asks for a plain average.
_MOMENTUM = 0.1


class CodebookModule(nn.Module):
    """Codewords that one or more layers share.

    Parameters
    ----------
    name : its ID in the checkpoint.
    values : float32 (k, d), real codewords.
    scale : s_w, what one step of the integer codewords is worth (paper eq. 5).
    bits : q_c, of an element of an integer codeword.
    """

    def __init__(self, name, values, scale, bits=8):
        super().__init__()
        self.name, self.bits = name, bits
        self.values = nn.Parameter(values.detach().float().clone())
        self.scale = nn.Parameter(torch.tensor(float(scale), dtype=torch.float32))

    def levels(self):
        """Float32 (k, d): the integer codewords."""
        return quantise(self.values, self.scale, self.bits)

    @torch.no_grad()
    def requantise(self):
        """Replace the real codewords by what their integers stand for."""
        self.values.copy_(self.levels() * self.scale)


class ClusteredWeight(nn.Module):
    """A weight that is a codebook, an assignment and a mask.

    Parameters
    ----------
    codebook : :class:`CodebookModule`.
    assignment : int64 (NG,).
    mask : bool (NG, d) with n of every m set.
    n, m : N weights of every M survive.
    shape : (K, C / groups, kh, kw) or (K, F).
    """

    def __init__(self, codebook, assignment, mask, n, m, shape):
        super().__init__()
        self.codebook, self.n, self.m, self.shape = codebook, n, m, tuple(shape)
        self.register_buffer("assignment", assignment)
        self.register_buffer("mask", mask.float())

    @property
    def scale(self):
        """float32 (): what one step of :meth:`levels` is worth."""
        return self.codebook.scale

    def forward(self):
        """Real weight of ``shape``, differentiable in the codebook by eq. 6."""
        values = Quantise.apply(self.codebook.values, self.codebook.scale, self.codebook.bits)
        return ungroup(MaskedLookup.apply(values, self.assignment, self.mask), self.shape)

    def levels(self):
        """Integer weight of ``shape``, as float32."""
        return ungroup(self.codebook.levels()[self.assignment] * self.mask, self.shape)

    def store(self, codebooks, **affine):
        """The layer in the checkpoint's form."""
        codes = None
        if self.n < self.m:
            masks = self.mask.bool().cpu().numpy()
            codes = encode_masks(masks.reshape(len(masks), -1, self.m), self.n)
        index = self.assignment.cpu().numpy().astype(np.uint32)
        return formats.MvqLayer(
            codebook=codebooks[self.codebook.name], index=index, mask_codes=codes, n=self.n, m=self.m, **affine
        )


class DenseWeight(nn.Module):
    """A weight in int8 with one scale for each output channel.

    Parameters
    ----------
    weight : float32 (K, ...).
    scale : float32 (K,).
    """

    def __init__(self, weight, scale):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float().clone())
        self.register_buffer("scale", scale.float())

    def _steps(self):
        return self.scale.view(-1, *[1] * (self.weight.dim() - 1))

    def forward(self):
        """Real weight, rounded to int8; the gradient passes straight through."""
        rounded = self.levels() * self._steps()
        return self.weight + (rounded - self.weight).detach()

    def levels(self):
        """Integer weight, as float32."""
        return quantise(self.weight, self._steps())

    def store(self, codebooks, **affine):
        """The layer in the checkpoint's form."""
        return formats.DenseLayer(weight=self.levels().detach().cpu().numpy().astype(np.int8), **affine)


class LayerModule(nn.Module):
    """A conv or linear node: a weight, then batch normalisation or a scale and bias for each output channel.

    In training mode it computes with real weights and, where there is one, the statistics of the batch; in evaluation
    mode with integer weights and the float32 ``channel_scale`` and ``channel_bias`` that the checkpoint stores.

    Parameters
    ----------
    node : the graph's node.
    weight : :class:`ClusteredWeight`, :class:`DenseWeight` or :class:`algo.vecq.VecqWeight`.
    bias : float32 (K,) before the normalisation, or None.
    bn : :class:`algo.frontend.BatchNorm`, or None.
    affine : (channel_scale, channel_bias) float32 (K,) of a stored layer; replaces ``bias`` and ``bn``.
    """

    def __init__(self, node, weight, bias=None, bn=None, affine=None):
        super().__init__()
        self.node, self.weight = node, weight
        channels = node.weight_shape[0]
        self.normalised = bn is not None
        if bn is not None:
            self.gamma, self.beta = nn.Parameter(bn.weight.clone()), nn.Parameter(bn.bias.clone())
            self.register_buffer("mean", bn.mean.clone())
            self.register_buffer("variance", bn.variance.clone())
            self.register_buffer("bias", torch.zeros(channels) if bias is None else bias.clone())
            self.epsilon, self.momentum = bn.epsilon, _MOMENTUM if bn.momentum is None else bn.momentum
            return
        if affine is None:
            scale = weight.scale.detach().expand(channels)
            affine = scale, torch.zeros(channels) if bias is None else bias
        self.channel_scale, self.channel_bias = (nn.Parameter(value.detach().float().clone()) for value in affine)

    def _by_channel(self, values):
        return values.view(1, -1, 1, 1) if self.node.op == "conv" else values

    @torch.no_grad()
    def folded(self):
        """(channel_scale, channel_bias), float32 (K,): real output = integer sum of real inputs * scale + bias."""
        if not self.normalised:
            return self.channel_scale.detach(), self.channel_bias.detach()
        gain = self.gamma.double() / torch.sqrt(self.variance.double() + self.epsilon)
        bias = self.beta.double() + (self.bias.double() - self.mean.double()) * gain
        return (gain * self.weight.scale.double()).float(), bias.float()

    def forward(self, x):
        """Real output (N, K, ...) before the activation."""
        if not self.training:
            scale, bias = self.folded()
            return convolve(x, self.weight.levels(), self.node) * self._by_channel(scale) + self._by_channel(bias)
        y = convolve(x, self.weight(), self.node)
        if self.normalised:
            y = y + self._by_channel(self.bias)
            return F.batch_norm(y, self.mean, self.variance, self.gamma, self.beta, True, self.momentum, self.epsilon)
        ratio = self.channel_scale / self.weight.scale.detach()
        return y * self._by_channel(ratio) + self._by_channel(self.channel_bias)


class CompressedNetwork(nn.Module):
    """A network whose weights are compressed; :func:`algo.compress.compress` makes one.

    Parameters
    ----------
    graph : the operations.
    layers : name -> :class:`LayerModule`, for every conv and linear node.
    settings, statistics : what the checkpoint records (JSON values).
    """

    def __init__(self, graph, layers, settings=None, statistics=None):
        super().__init__()
        self.graph, self.settings, self.statistics = graph, settings or {}, statistics or {}
        self._modules_in_order = nn.ModuleList(layers[node.name] for node in graph.layers)
        self.eval()

    @property
    def layers(self):
        """Name -> :class:`LayerModule`, in the order of the graph."""
        return {layer.node.name: layer for layer in self._modules_in_order}

    @property
    def codebooks(self):
        """Name -> :class:`CodebookModule`."""
        weights = [layer.weight for layer in self._modules_in_order]
        return {weight.codebook.name: weight.codebook for weight in weights if isinstance(weight, ClusteredWeight)}

    def forward(self, x, observe=None):
        """Real output of images float32 (N, C, H, W); ``observe`` is called with (node, value) after every node."""
        layers = self.layers
        return evaluate(self.graph, x, lambda node, value: layers[node.name](value), observe)

    def requantise(self):
        """Round every codebook to its bits."""
        for codebook in self.codebooks.values():
            codebook.requantise()

    def to_checkpoint(self):
        """The network as :class:`golden.checkpoint.Checkpoint`; its outputs in evaluation mode are the same to the bit.

        Raises
        ------
        CheckpointError : a value is NaN or infinite, as after a training that diverged.
        """
        codebooks = {
            name: formats.Codebook(
                name,
                module.levels().detach().cpu().numpy().astype(np.int8),
                np.float32(module.scale.item()),
                module.bits,
            )
            for name, module in self.codebooks.items()
        }
        layers = {}
        for name, layer in self.layers.items():
            scale, bias = (values.cpu().numpy() for values in layer.folded())
            layers[name] = layer.weight.store(codebooks, channel_scale=scale, channel_bias=bias)
        return formats.Checkpoint(self.graph, layers, self.settings, self.statistics)

    @classmethod
    def from_checkpoint(cls, checkpoint):
        """The network that ``checkpoint`` stores; its normalisation is folded, its scales and biases can be trained."""
        codebooks = {
            name: CodebookModule(
                name,
                torch.from_numpy(stored.values.astype(np.float32)) * float(stored.scale),
                stored.scale,
                stored.element_bits,
            )
            for name, stored in checkpoint.codebooks.items()
        }
        layers = {}
        for node in checkpoint.graph.layers:
            stored = checkpoint.layers[node.name]
            if isinstance(stored, formats.MvqLayer):
                assignment = torch.from_numpy(stored.index.astype(np.int64))
                codebook, mask = codebooks[stored.codebook.name], torch.from_numpy(stored.masks())
                weight = ClusteredWeight(codebook, assignment, mask, stored.n, stored.m, node.weight_shape)
            elif stored.bits < 8:
                weight = VecqWeight.stored(stored)
            else:
                values = torch.from_numpy(stored.weight.astype(np.float32))
                weight = DenseWeight(values, torch.ones(len(values)))
            affine = tuple(torch.from_numpy(np.array(values)) for values in (stored.channel_scale, stored.channel_bias))
            layers[node.name] = LayerModule(node, weight, affine=affine)
        return cls(checkpoint.graph, layers, checkpoint.settings, checkpoint.statistics)
