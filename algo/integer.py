"""Run golden's integer network in torch, integer for integer: the fast way to the accuracy of the accelerator."""

import torch

from algo.execute import convolve, max_pool, structural
from golden.integer import FRACTION, HALF, T_HIGH, T_LOW

__all__ = ["TorchIntegerNetwork"]


class _Word:
    """A :class:`golden.integer.Requantisation` in torch."""

    def __init__(self, word):
        self.low, self.high = word.low, word.high
        signed = torch.from_numpy(256 + word.mantissa)
        self.multiplier = torch.where(torch.from_numpy(word.sign) != 0, -signed, signed)
        self.shift, self.bias = torch.from_numpy(word.shift), torch.from_numpy(word.bias)

    @staticmethod
    def _by_channel(values, psum):
        return values.view(-1, *[1] * (psum.dim() - 2))

    def scaled(self, psum):
        """int64: ``psum`` (N, K, ...) in 1/64 of an output step, saturated."""
        product = psum * self._by_channel(self.multiplier, psum)
        return torch.clamp(product >> self._by_channel(self.shift, psum), T_LOW, T_HIGH)

    def round(self, t):
        """int64 within the int8 limits."""
        return torch.clamp((t + HALF) >> FRACTION, self.low, self.high)

    def apply(self, psum):
        return self.round(self.scaled(psum) + self._by_channel(self.bias, psum))


class TorchIntegerNetwork:
    """Runs a :class:`golden.network.IntegerNetwork` on batches; sums are float64 products of integers, and so exact.

    Parameters
    ----------
    network : what :func:`golden.network.quantise` gave.
    """

    def __init__(self, network):
        self.network, self.graph = network, network.graph
        self._weights = {name: torch.from_numpy(layer.weight).double() for name, layer in network.layers.items()}
        self._words = {name: (_Word(layer.requantisation),) for name, layer in network.layers.items() if not layer.raw}
        self._words |= {name: tuple(_Word(word) for word in words) for name, words in network.rescales.items()}

    def _node(self, node, inputs):
        x, words = inputs[0], self._words.get(node.name)
        if node.op in ("conv", "linear"):
            psum = convolve(x.double(), self._weights[node.name], node).long()
            return words[0].apply(psum) if words else psum
        if node.op == "add":
            return words[0].round(words[0].scaled(x) + words[1].scaled(inputs[1]))
        if node.op == "activation":
            return words[0].apply(x)
        if node.op == "max_pool":
            return max_pool(x.double(), node, -128.0).long()
        if node.op == "avg_pool":
            rows, columns = node.attrs["kernel"]
            windows = x.unfold(2, rows, node.attrs["stride"][0]).unfold(3, columns, node.attrs["stride"][1])
            return words[0].apply(windows.sum(dim=(4, 5)))
        if node.op == "global_avg_pool":
            return words[0].apply(x.sum(dim=(2, 3), keepdim=True))
        return structural(x, node)

    @torch.no_grad()
    def run(self, x, keep=True):
        """Run int8 (N, C, H, W).

        Returns
        -------
        dict : node name -> int64 (N, ...), of every node, or of the output alone unless ``keep``; equal to golden's.
        """
        x = x.long()
        return self.graph.run(lambda node, *inputs: self._node(node, inputs) if inputs else x, keep)

    def __call__(self, images, batch=128):
        """Float64 logits (N, ...) of real images (N, C, H, W)."""
        outputs = []
        for part in images.split(batch):
            x = torch.from_numpy(self.network.quantise_input(part.numpy()))
            output = self.run(x, keep=False)[self.graph.output]
            outputs.append(torch.from_numpy(self.network.logits(output.numpy())))
        return torch.cat(outputs)
